"""Reference of composites with a bridged seam. N pairs, C channels, H x W pixels.

A pixel of b becomes b + sum over rims of weight * (a[kept] - b[foreign]), clipped to [0,1] once:
`kept` is a pixel just on a's side of the rim, `foreign` one just on b's side.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastbg.backends.torch_reference.composite import down_sample, taken_from_b
from fastbg.filters.dtypes import accumulation_dtype, as_float
from fastbg.filters.seam import decay


class Rim(NamedTuple):
    """One rim's part of the bridge: (N or 1, 1, H*W); pixels counted row by row."""

    weight: Tensor  # float64, 0 where the rim corrects nothing
    kept: Tensor
    foreign: Tensor


def bridge(inner: Tensor, outer: Tensor, tau: float, height: int, width: int) -> list[Rim]:
    """The rim of the inner box and the four sides of the outer one."""
    y = torch.arange(height, device=inner.device)[:, None]  # [H, 1]
    x = torch.arange(width, device=inner.device)  # [W]
    taken = taken_from_b(inner, outer, height, width)[:, 0]  # [N or 1, H, W]
    y0, x0, y1, x1 = outer.reshape(-1, 4, 1, 1).unbind(1)  # [N or 1, 1, 1] each
    # The visible part of the inner box: inside the outer one.
    inner_y0, inner_x0, inner_y1, inner_x1 = inner.reshape(-1, 4, 1, 1).unbind(1)
    top, left = torch.maximum(inner_y0, y0), torch.maximum(inner_x0, x0)
    bottom, right = torch.minimum(inner_y1, y1), torch.minimum(inner_x1, x1)
    exists = (top < bottom) & (left < right)

    def rim(weight: Tensor, kept: tuple[Tensor, Tensor], foreign: tuple[Tensor, Tensor]) -> Rim:
        fields = [torch.where(taken, weight, 0.0)]
        for row, column in (kept, foreign):  # clamped where the weight is 0 and they may be outside
            row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
            fields.append(row * width + column)
        size = torch.broadcast_shapes(*(f.shape for f in fields))
        return Rim(*(f.expand(size).reshape(size[0], 1, height * width) for f in fields))

    def nearest(at: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(at, low), high - 1)

    def distance(at: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.maximum(low - at, at - (high - 1)).clamp(min=0)

    away = torch.maximum(distance(y, top, bottom), distance(x, left, right))
    rims = [
        rim(
            torch.where(exists, decay(away, tau), 0.0),
            (nearest(y, top, bottom), nearest(x, left, right)),
            (nearest(y, top - 1, bottom + 1), nearest(x, left - 1, right + 1)),
        )
    ]

    # From each side of the outer box that has pixels of the image beyond it.
    beyond = height + width  # farther than any
    from_top = torch.where(y0 > 0, y - y0 + 1, beyond)
    from_bottom = torch.where(y1 < height, y1 - y, beyond)
    from_left = torch.where(x0 > 0, x - x0 + 1, beyond)
    from_right = torch.where(x1 < width, x1 - x, beyond)
    vertical, horizontal = (
        torch.minimum(from_top, from_bottom),
        torch.minimum(from_left, from_right),
    )
    inwards = torch.minimum(vertical, horizontal)
    depth = torch.where(inwards < beyond, decay(inwards, tau), 0.0)

    def share(here: Tensor, along: Tensor, opposite: Tensor) -> Tensor:
        """1 on the nearest side alone; sides that are equally near share by halves."""
        of_axis = torch.where(here == opposite, 0.5, 1.0) * (here == along)
        across = horizontal if along is vertical else vertical
        return of_axis * torch.where(along == across, 0.5, 1.0) * (along == inwards)

    def covered(row: Tensor, column: Tensor) -> Tensor:
        """Whether the inner box lies on the rim there: a on both of its sides."""
        return (row >= top) & (row < bottom) & (column >= left) & (column < right)

    for here, opposite, along, foreign, kept in (
        (from_top, from_bottom, vertical, (y0, x), (y0 - 1, x)),
        (from_bottom, from_top, vertical, (y1 - 1, x), (y1, x)),
        (from_left, from_right, horizontal, (y, x0), (y, x0 - 1)),
        (from_right, from_left, horizontal, (y, x1 - 1), (y, x1)),
    ):
        weight = depth * share(here, along, opposite)
        rims.append(rim(torch.where(covered(*foreign), 0.0, weight), kept, foreign))
    return rims


def bridged(a: Tensor, b: Tensor, rims: list[Rim]) -> tuple[Tensor, Tensor]:
    """b (N,C,H,W) with its corrections, before it is clipped, and where there are any."""
    flat_a, flat_b = a.flatten(2), b.flatten(2)
    size = flat_b.shape
    total, reached = torch.zeros_like(flat_b), torch.zeros_like(rims[0].weight, dtype=torch.bool)
    for weight, kept, foreign in rims:
        step = flat_a.gather(2, kept.expand(size)) - flat_b.gather(2, foreign.expand(size))
        # Selected, not multiplied: a rim that corrects nothing may hold a NaN.
        total = total + torch.where(weight > 0, weight.to(step.dtype) * step, 0.0)
        reached = reached | (weight > 0)
    return (flat_b + total).reshape(b.shape), reached.reshape(len(reached), 1, *b.shape[2:])


def bridged_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, tau: float
) -> Tensor:
    """`composite` whose seam is bridged with decay length tau: (N,C,H,W)."""
    dtype = as_float(a[:0]).dtype
    first, second = pairs.long().unbind(1)
    of_a, of_b = (
        as_float(source).to(accumulation_dtype(dtype))[index]
        for source, index in ((a, first), (b, second))
    )
    height, width = a.shape[-2:]
    value, reached = bridged(of_a, of_b, bridge(inner, outer, tau, height, width))
    foreign = torch.where(reached, value.clamp(0, 1), of_b)
    return torch.where(taken_from_b(inner, outer, height, width), foreign, of_a).to(dtype)


def bridged_composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    tau: float,
    scale: int,
    kernel: str,
    quantize: bool,
) -> Tensor:
    """Bicubic down-sampling of `bridged_composite`: (N,C,H/s,W/s)."""
    dtype = as_float(a[:0]).dtype
    # Rounded to the sources' dtype once, at the end.
    a, b = (as_float(source).to(accumulation_dtype(dtype)) for source in (a, b))
    image = bridged_composite(a, b, pairs, inner, outer, tau)
    return down_sample(image, scale, kernel, quantize).to(dtype)


def bridged_composite_gradients(
    grad: Tensor,
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    tau: float,
) -> tuple[Tensor, Tensor]:
    """Gradients to a and b of each pair from `grad` (N,C,H,W), before pairs are summed."""
    first, second = pairs.long().unbind(1)
    height, width = grad.shape[-2:]
    wide = accumulation_dtype(grad.dtype)
    rims = bridge(inner, outer, tau, height, width)
    value, reached = bridged(a.to(wide)[first], b.to(wide)[second], rims)
    taken = taken_from_b(inner, outer, height, width)
    # As torch.clamp: the gradient passes at the ends of the range, and not for NaN.
    passed = torch.where(~reached | ((value >= 0) & (value <= 1)), grad.to(wide), 0.0)
    planes = (*grad.shape[:2], height * width)
    of_foreign = torch.where(taken, passed, 0.0).reshape(planes)
    of_a = torch.where(taken, 0.0, grad.to(wide)).reshape(planes)
    of_b = of_foreign
    for weight, kept, foreign in rims:
        pulled = torch.where(weight > 0, weight.to(wide) * of_foreign, 0.0)
        of_a = of_a.scatter_add(2, kept.expand(pulled.shape), pulled)
        of_b = of_b.scatter_add(2, foreign.expand(pulled.shape), -pulled)
    return of_a.reshape(grad.shape), of_b.reshape(grad.shape)
