"""Numbers computed from an attribution: map, Gini coefficient, diffusion index, shares of boxes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument

GINI_OFFSET = 1e-7  # of the public LAM code


# Ways to reduce an attribution (...,C,h,w) to a map (...,h,w). In the published "abs_of_sum",
# channels of opposite signs cancel; in "sum_of_abs" they do not.
AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs_of_sum": lambda attribution: attribution.sum(-3).abs(),
    "sum_of_abs": lambda attribution: attribution.abs().sum(-3),
}


def check_aggregation(aggregation: str) -> str:
    """`aggregation`, or InvalidArgument."""
    if aggregation not in AGGREGATIONS:
        expected = f"one of {tuple(AGGREGATIONS)}"
        raise InvalidArgument("aggregation", repr(aggregation), expected)
    return aggregation


def attribution_map(attribution: Tensor, aggregation: str = "abs_of_sum") -> Tensor:
    """Aggregates channels and divides by the maximum: (...,C,h,w) -> (...,h,w) in [0,1].

    "abs_of_sum" is |sum over channels|, as in the public LAM code; "sum_of_abs" adds the channels'
    absolute values. An attribution that is 0 everywhere has a map of zeros.
    """
    total = AGGREGATIONS[check_aggregation(aggregation)](attribution)
    peak = total.amax((-2, -1), keepdim=True)
    return total / torch.where(peak > 0, peak, 1)


def gini(maps: Tensor) -> Tensor:
    """Gini coefficient of each map (...,h,w), float64: 0 if all values are equal, near 1 if one
    pixel has nearly everything.
    """
    values = maps.double().flatten(-2) + GINI_OFFSET
    values = values.sort(-1).values
    n = values.shape[-1]
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=maps.device)
    return ((2 * rank - n - 1) * values).sum(-1) / (n * values.sum(-1))


def diffusion_index(maps: Tensor) -> Tensor:
    """(1 - Gini) * 100 of each map (...,h,w): larger if more pixels are used."""
    return (1 - gini(maps)) * 100


def offset_index(maps: Tensor) -> Tensor:
    """How much of each map's diffusion index (...,h,w) is the offset's, not the map's: float64.

    The public code adds GINI_OFFSET to every pixel. Where millions of them have nothing else,
    these make the index: of 12 million pixels and a map that sums up to 10, about 11.
    """
    offset = GINI_OFFSET * maps.shape[-2] * maps.shape[-1]
    return 100 * offset / (maps.double().sum((-2, -1)) + offset)


def contribution_area(maps: Tensor, share: float = 0.95) -> Tensor:
    """Area of contribution of each map (...,h,w): the fewest pixels that hold `share` of it; int64.

    0 for a map of zeros.
    """
    if not 0 < share <= 1:
        raise InvalidArgument("share", share, "0 < share <= 1")
    values = maps.double().flatten(-2).sort(-1, descending=True).values
    held = values.cumsum(-1)
    total = held[..., -1:]
    # Rounding of the sum must not ask for a pixel more.
    lacking = (held < share * total * (1 - 1e-12)).sum(-1)
    return torch.where(total[..., 0] > 0, lacking + 1, 0)


def box_share(maps: Tensor, boxes: Tensor | Sequence[int], scale: int) -> Tensor:
    """Share of each map (...,h,w) that lies inside a box: float64 (...), or (...,N) for N boxes.

    Args:
        maps: LR maps, not negative.
        boxes: y0, x0, y1, x1, half-open, in SR pixels: (4) or (N,4). An LR pixel that lies partly
            inside a box counts in proportion.
        scale: SR pixels per LR pixel and axis.
    """
    box = torch.as_tensor(boxes, device=maps.device)
    if box.dim() not in (1, 2) or box.shape[-1] != 4:
        raise InvalidArgument("boxes", f"shape {tuple(box.shape)}", "(4,) or (N, 4)")
    box = box.to(torch.float64) / scale
    y0, x0, y1, x1 = box.reshape(-1, 4, 1).unbind(1)  # [N,1]
    height, width = maps.shape[-2:]
    rows, columns = _coverage(y0, y1, height), _coverage(x0, x1, width)  # [N,h], [N,w]
    values = maps.double()
    inside = torch.einsum("...hw,nh,nw->...n", values, rows, columns)
    total = values.sum((-2, -1))[..., None]
    share = inside / torch.where(total > 0, total, 1)
    return share if box.dim() == 2 else share[..., 0]


def _coverage(start: Tensor, end: Tensor, size: int) -> Tensor:
    """How much of each of `size` unit cells lies in start..end (N,1): (N,size)."""
    cell = torch.arange(size, dtype=start.dtype, device=start.device)
    return (torch.minimum(end, cell + 1) - torch.maximum(start, cell)).clamp(0, 1)
