"""Composites with a bridged seam in plain PyTorch, naive and good, for one inner box and no outer.

`naive_*`: one pair at a time, with everything computed for it. `good_*`: values that depend only on
the box are computed once, colour differences only on the rim, and pairs run in batches that fit the
caches. The bridge covers nearly the whole image and is clipped, so nothing can be down-sampled once
per source.
"""

import torch
from torch import Tensor

from bench.baselines.composite_torch import Box, _quartered

TAU = 4.0
BATCH = 8  # pairs


def _coordinates(inner: Box, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel of the box, pixel beside it (both as y * width + x), and weight of each pixel."""
    y0, x0, y1, x1 = inner
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    kept_y, kept_x = y.clamp(y0, y1 - 1), x.clamp(x0, x1 - 1)
    beside_y = y.clamp(max(y0 - 1, 0), min(y1, height - 1))
    beside_x = x.clamp(max(x0 - 1, 0), min(x1, width - 1))
    distance = torch.maximum((y - kept_y).abs(), (x - kept_x).abs())
    weight = torch.where(distance > 0, torch.exp((1 - distance) / TAU), 0)
    return kept_y * width + kept_x, beside_y * width + beside_x, weight


def _pasted(a: Tensor, b: Tensor, inner: Box) -> Tensor:
    y0, x0, y1, x1 = inner
    kept, beside, weight = _coordinates(inner, *a.shape[1:])
    step = a.flatten(1)[:, kept] - b.flatten(1)[:, beside]
    out = (b + weight * step).clamp(0, 1)
    out[:, y0:y1, x0:x1] = a[:, y0:y1, x0:x1]
    return out


def naive_bridged(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H,W), pair by pair."""
    return torch.stack([_pasted(a[i], b[j], inner) for i, j in pairs.tolist()])


def naive_bridged_lr(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H/4,W/4), pair by pair."""
    return torch.cat([_quartered(_pasted(a[i], b[j], inner)[None]) for i, j in pairs.tolist()])


class _Batches:
    """Composites of a few pairs at a time, each side's and corner's steps spread over its part."""

    def __init__(self, a: Tensor, b: Tensor, inner: Box) -> None:
        self.a, self.b = a, b
        height, width = a.shape[2:]
        y0, x0, y1, x1 = inner
        _, _, self.weight = _coordinates(inner, height, width)
        parts = []  # of the image, of the box, beside the box, along each axis
        for low, high, size in ((y0, y1, height), (x0, x1, width)):
            parts.append(
                (
                    (slice(0, low), slice(low, low + 1), slice(low - 1, low)),
                    (slice(low, high),) * 3,
                    (slice(high, size), slice(high - 1, high), slice(high, high + 1)),
                )
            )
        self.sides = []
        for down, across in ((v, h) for v in parts[0] for h in parts[1]):
            image, kept, beside = zip(down, across, strict=True)
            self.sides.append((image, a[(..., *kept)].contiguous(), b[(..., *beside)].contiguous()))
        self.inside, self.kept, _ = self.sides.pop(4)

    def compose(self, pairs: Tensor) -> Tensor:
        first, second = pairs[:, 0], pairs[:, 1]
        out = self.a.new_empty((len(pairs), *self.a.shape[1:]))
        for part, of_a, of_b in self.sides:
            out[(..., *part)] = of_a[first] - of_b[second]
        out.mul_(self.weight).add_(self.b[second]).clamp_(0, 1)
        out[(..., *self.inside)] = self.kept[first]
        return out


def good_bridged(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H,W)."""
    batches = _Batches(a, b, inner)
    out = a.new_empty((len(pairs), *a.shape[1:]))
    for at in range(0, len(pairs), BATCH):
        out[at : at + BATCH] = batches.compose(pairs[at : at + BATCH])
    return out


def good_bridged_lr(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H/4,W/4)."""
    batches = _Batches(a, b, inner)
    return torch.cat([_quartered(batches.compose(part)) for part in pairs.split(BATCH)])
