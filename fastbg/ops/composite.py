"""Batched assembly of foregrounds and backgrounds (paper, sections 3.2, 3.3, 5 and 6.2)."""

import math
from collections.abc import Sequence
from numbers import Real

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
from fastbg.registration import seam as registered_seam
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
    seam: str | float = "hard",
    backend: str = "auto",
) -> Tensor:
    """Image n is b[pairs[n, 1]] inside `outer` and outside `inner`, a[pairs[n, 0]] elsewhere.

    One operator for all of the paper's composites: a swapped background (`inner` the
    foreground, `outer` None: the whole image), a foreign ring (method 1, Fig. 7: `inner` 16x16,
    `outer` SxS) and content growing inwards (method 2, Figs 11-13: `inner` KxK).

    A hard seam jumps from a to b at the rim. With `seam` a length tau the content of b meets the
    rim and returns to itself: a pixel of b at Chebyshev distance d >= 1 from the inner box becomes
    b + (a[n] - b[r]) exp(-(d - 1) / tau), clipped to [0,1]; n is the nearest pixel of the box, r
    that of the box grown by one pixel on each side. The inner box is what of it lies in `outer`;
    pixels of a stay as they are. (So an image in its own background changes a little, too.)

    An outer box inside the image has a rim too, on each side that has pixels beyond it. Its
    correction is added before the pixel is clipped: d is counted inwards, 1 for the box's own
    border pixels; r is the border pixel straight towards the nearest side, and n the pixel of a
    beyond it. Sides equally near: top and bottom (or left and right) by their mean, then rows and
    columns by the mean of both. Where the inner box covers r there is no rim, and no correction.

    Weights below 2^-18 (of a step from black to white: 1/1028 grey level) count as none, so that
    the bridge reaches 12.5 tau pixels; beyond it b is unchanged, and not clipped either.

    Args:
        a, b: sources (A,C,H,W) and (B,C,H,W): float, or uint8, read as grey level / 255.
        pairs: (N,2) integers, one index into a and one into b.
        inner, outer: boxes y0, x0, y1, x1, half-open, in pixels: one (4), or one per pair (N,4).
        seam: "hard", or the decay length of a bridge, in pixels.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (N,C,H,W) in a's dtype (float32 for uint8 sources, which a bridge does not round to grey
        levels). Differentiable in float a and b; what was clipped passes no gradient.

    Raises:
        InvalidArgument: shape, dtype, device, index or box out of range.
        BackendUnavailable: the named backend cannot run here.
    """
    pairs, inner, outer = _check_sources(a, b, pairs, inner, outer)
    tau = _decay_length(seam)
    if tau is None:
        return registered.composite(a, b, pairs, inner, outer, backend)
    return registered_seam.bridged_composite(a, b, pairs, inner, outer, tau, backend)


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
    seam: str | float = "hard",
    backend: str = "auto",
) -> Tensor:
    """`composite`, bicubically down-sampled by `scale`, without storing it in HR.

    Args:
        a, b, pairs, inner, outer, seam, backend: as for `composite`; boxes and decay length in HR
            pixels. A bridge is computed pair by pair as far as it reaches (12.5 tau); with a hard
            seam pairs share most of the work.
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
    tau = _decay_length(seam)
    if tau is None:
        return registered.composite_lr(a, b, pairs, inner, outer, scale, kernel, quantize, backend)
    return registered_seam.bridged_composite_lr(
        a, b, pairs, inner, outer, tau, scale, kernel, quantize, backend
    )


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


def _decay_length(seam: str | float) -> float | None:
    """Of a bridge; None for a hard seam."""
    if isinstance(seam, str) and seam == "hard":
        return None
    if isinstance(seam, Real) and not isinstance(seam, bool):
        tau = float(seam)
        if 0 < tau < math.inf:
            return tau
    raise InvalidArgument("seam", repr(seam), '"hard" or a decay length in pixels, finite and > 0')


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
