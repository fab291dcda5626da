"""Batched assembly of foregrounds and backgrounds (paper, sections 3.2, 3.3, 5 and 6.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.filters.bicubic import KERNELS
from fastbg.ops.checks import (
    FLOATS,
    BoxLike,
    boxes,
    check_images,
    check_no_other_range,
    check_same,
    index_pairs,
    integers,
)
from fastbg.registration import composite as registered
from fastbg.registration.indices import Transform as Transform

SOURCES = (*FLOATS, torch.uint8)
Pairs = Tensor | Sequence[Sequence[int]]


def composite(
    a: Tensor,
    b: Tensor,
    pairs: Pairs,
    inner: BoxLike,
    outer: BoxLike | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Image n is b[pairs[n, 1]] inside `outer` and outside `inner`, a[pairs[n, 0]] elsewhere.

    One operator for all of the paper's composites: a swapped background (`inner` the
    foreground, `outer` None: the whole image), a foreign ring (method 1, Fig. 7: `inner` 16x16,
    `outer` SxS) and content growing inwards (method 2, Figs 11-13: `inner` KxK).

    Args:
        a, b: sources (A,C,H,W) and (B,C,H,W): float, or uint8, read as grey level / 255.
        pairs: (N,2) integers, one index into a and one into b.
        inner, outer: boxes y0, x0, y1, x1, half-open, in pixels: one (4), or one per pair (N,4).
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (N,C,H,W) in a's dtype (float32 for uint8 sources). Differentiable in float a and b.

    Raises:
        InvalidArgument: shape, dtype, device, index or box out of range.
        BackendUnavailable: the named backend cannot run here.
    """
    pairs, inner, outer = _check_sources(a, b, pairs, inner, outer)
    return registered.composite(a, b, pairs, inner, outer, backend)


def composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Pairs,
    inner: BoxLike,
    outer: BoxLike | None = None,
    *,
    scale: int = 4,
    kernel: str = "matlab",
    quantize: bool = False,
    backend: str = "auto",
) -> Tensor:
    """`composite`, bicubically down-sampled by `scale`, without storing it in HR.

    Args:
        a, b, pairs, inner, outer, backend: as for `composite`; boxes in HR pixels.
        scale: integer that divides H and W.
        kernel: "matlab" (antialiased, mirrored borders, as the field's networks are trained) or
            "pil" (kernel cut and renormalised at borders).
        quantize: clip to [0,1] and round to grey levels, once, after both passes: MATLAB's imresize
            on doubles. On uint8 images it rounds after its first pass too, as do Pillow's `resize`
            and `fastbg.data.degradation.downsample`; one in seven values differs, by one level.

    Returns:
        (N,C,H/s,W/s) in a's dtype (float32 for uint8 sources). Not differentiable.

    Raises:
        InvalidArgument, BackendUnavailable: as for `composite`. With `quantize` InvalidArgument too
            for floats on a CPU beyond [-0.5, 1.5], such as 0..255, which would be clipped to white.
        NoDerivative: one is asked for.
    """
    pairs, inner, outer = _check_sources(a, b, pairs, inner, outer)
    if quantize:
        check_no_other_range("a", a)
        check_no_other_range("b", b)
    if kernel not in KERNELS:
        raise InvalidArgument("kernel", repr(kernel), f"one of {KERNELS}")
    if scale < 1 or a.shape[2] % scale or a.shape[3] % scale:
        size = f"{a.shape[2]}x{a.shape[3]}"
        raise InvalidArgument("scale", scale, f"an integer >= 1 that divides the image size {size}")
    return registered.composite_lr(a, b, pairs, inner, outer, scale, kernel, quantize, backend)


def mosaic(
    tiles: Tensor, cells: Tensor | Sequence[Sequence[Sequence[int]]], *, backend: str = "auto"
) -> Tensor:
    """Grid of flipped, turned and zoomed copies of each tile (section 6.2, Figs 14 and 15).

    Args:
        tiles: (N,C,h,w) float.
        cells: (N,g,g) codes of `Transform`, row by row; quarter turns need square tiles.
        backend: as for `composite`.

    Returns:
        (N,C,g*h,g*w) in the dtype of `tiles`. Not differentiable.

    Raises:
        InvalidArgument, BackendUnavailable: as for `composite`.
        NoDerivative: one is asked for.
    """
    check_images("tiles", tiles)
    codes = integers("cells", cells, tiles.device)
    n = len(tiles)
    if codes.dim() != 3 or codes.shape[0] != n or codes.shape[1] != codes.shape[2]:
        raise InvalidArgument("cells", f"shape {tuple(codes.shape)}", f"shape ({n}, g, g)")
    return registered.mosaic(tiles, codes, backend)


def _check_sources(
    a: Tensor, b: Tensor, pairs: Pairs, inner: BoxLike, outer: BoxLike | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check what both composites take; the integers come back as tensors."""
    check_images("a", a, SOURCES)
    check_images("b", b, SOURCES)
    check_same("b", b, "a", a)
    height, width = a.shape[-2:]
    index = index_pairs(pairs, a.device)
    whole = (0, 0, height, width) if outer is None else outer
    return (
        index,
        boxes("inner", inner, len(index), a.device),
        boxes("outer", whole, len(index), a.device),
    )
