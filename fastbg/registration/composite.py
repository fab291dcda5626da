"""Registration of the composite family."""

from typing import Any

import torch
from torch import Tensor

from fastbg.backends.torch_reference.composite import taken_from_b
from fastbg.registration.dispatch import implementation
from fastbg.registration.indices import boxes_inside, cell_codes, image_pairs
from fastbg.registration.operator import Operator


def float_dtype(source: Tensor) -> torch.dtype:
    """The dtype of a composite of `source`."""
    return torch.float32 if source.dtype == torch.uint8 else source.dtype


def regions(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs and boxes of both composites, checked, in int32 on the images' device."""
    (height, width), device = a.shape[-2:], a.device
    return (
        image_pairs(pairs, len(a), len(b), device),
        boxes_inside("inner", inner, height, width, device),
        boxes_inside("outer", outer, height, width, device),
    )


@Operator
def composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, backend: str
) -> Tensor:
    """(N,C,H,W): b inside outer and outside inner, a elsewhere."""
    run = implementation("composite", backend, a)
    result: Tensor = run(a, b, *regions(a, b, pairs, inner, outer))
    return result


@composite.register_fake
def _(a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, backend: str) -> Tensor:
    return a.new_empty((pairs.shape[0], *a.shape[1:]), dtype=float_dtype(a))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, pairs, inner, outer, _ = inputs
    ctx.save_for_backward(pairs, inner, outer)
    ctx.sources = a.shape[0], b.shape[0]


def _composite_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Each source receives the gradients of the pixels that were taken from it."""
    pairs, inner, outer = (x.to(grad.device, non_blocking=True) for x in ctx.saved_tensors)
    mask = taken_from_b(inner, outer, *grad.shape[-2:])
    grads: list[Tensor | None] = []
    for side, taken in ((0, ~mask), (1, mask)):
        grads.append(None)
        if ctx.needs_input_grad[side]:
            empty = grad.new_zeros((ctx.sources[side], *grad.shape[1:]))
            grads[side] = empty.index_add(0, pairs[:, side].long(), grad * taken)
    return (*grads, None, None, None, None)


composite.register_autograd(_composite_backward, setup_context=_keep_for_backward)


@Operator
def composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: int,
    kernel: str,
    quantize: bool,
    backend: str,
) -> Tensor:
    """(N,C,H/s,W/s): `composite`, bicubically down-sampled."""
    run = implementation("composite_lr", backend, a)
    result: Tensor = run(a, b, *regions(a, b, pairs, inner, outer), scale, kernel, quantize)
    return result


@composite_lr.register_fake
def _(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: int,
    kernel: str,
    quantize: bool,
    backend: str,
) -> Tensor:
    n, (_, channels, height, width) = pairs.shape[0], a.shape
    return a.new_empty((n, channels, height // scale, width // scale), dtype=float_dtype(a))


@Operator
def mosaic(tiles: Tensor, cells: Tensor, backend: str) -> Tensor:
    """(N,C,g*h,g*w): a grid of transformed copies of each tile."""
    run = implementation("mosaic", backend, tiles)
    height, width = tiles.shape[-2:]
    result: Tensor = run(tiles, cell_codes(cells, height, width, tiles.device))
    return result


@mosaic.register_fake
def _(tiles: Tensor, cells: Tensor, backend: str) -> Tensor:
    n, channels, height, width = tiles.shape
    g = cells.shape[-1]
    return tiles.new_empty((n, channels, g * height, g * width))
