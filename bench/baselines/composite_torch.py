"""Plain PyTorch composites.

`naive_*`: one pair at a time, as analysis scripts are written: clone the background, paste
the foreground, interpolate. `batched_*`: index, paste, one `F.interpolate`. `good_*`: what a
skilled user writes: for HR composites that is the batched way; for LR ones down-sampling is linear,
so the foregrounds and the backgrounds are down-sampled once per source and added per pair.
PyTorch's antialiased bicubic equals fastbg's ``matlab`` kernel but at the image borders, where it
equals ``pil``.
"""

import torch
from torch import Tensor
from torch.nn import functional

Box = tuple[int, int, int, int]


def naive_composite(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H,W), pair by pair."""
    return torch.stack([_pasted(a[i], b[j], inner) for i, j in pairs.tolist()])


def naive_composite_lr(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H/4,W/4), pair by pair."""
    return torch.cat([_quartered(_pasted(a[i], b[j], inner)[None]) for i, j in pairs.tolist()])


def good_composite(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H,W): gather all backgrounds, paste all foregrounds."""
    y0, x0, y1, x1 = inner
    out = b[pairs[:, 1]]
    out[..., y0:y1, x0:x1] = a[:, :, y0:y1, x0:x1][pairs[:, 0]]
    return out


def batched_composite_lr(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H/4,W/4) of the batched composites."""
    return _quartered(good_composite(a, b, pairs, inner))


def good_composite_lr(a: Tensor, b: Tensor, pairs: Tensor, inner: Box) -> Tensor:
    """(N,C,H/4,W/4): the foregrounds alone and the backgrounds with a hole, down-sampled once."""
    y0, x0, y1, x1 = inner
    foreground, background = torch.zeros_like(a), b.clone()
    foreground[..., y0:y1, x0:x1] = a[..., y0:y1, x0:x1]
    background[..., y0:y1, x0:x1] = 0
    first, second = pairs.unbind(1)
    return _quartered(foreground)[first] + _quartered(background)[second]


def _pasted(foreground: Tensor, background: Tensor, inner: Box) -> Tensor:
    y0, x0, y1, x1 = inner
    out = background.clone()
    out[:, y0:y1, x0:x1] = foreground[:, y0:y1, x0:x1]
    return out


def _quartered(images: Tensor) -> Tensor:
    return functional.interpolate(
        images, scale_factor=0.25, mode="bicubic", antialias=True, align_corners=False
    )
