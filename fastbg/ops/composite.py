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
    """Put foregrounds of `a` into backgrounds of `b`, one composite for each pair.

    Output n shows b[pairs[n, 1]] inside `outer` and outside `inner`, and a[pairs[n, 0]] everywhere
    else. This covers the paper's composites: a swapped background (`inner` is the foreground,
    `outer` is None, the whole image), a foreign ring (method 1, Fig. 7: `inner` 16x16, `outer` SxS)
    and foreign content that grows inwards (method 2, Figs 11 to 13: `inner` KxK).

    With ``seam="hard"`` the colours jump at the rim of the inner box. With a decay length tau as
    `seam` they are bridged: a pixel of b at Chebyshev distance d >= 1 from the inner box becomes
    b + (a[n] - b[r]) exp(-(d - 1) / tau), clipped to [0,1], where n is the nearest pixel of the
    box and r the nearest pixel of the box grown by one pixel on each side. Only the part of the
    inner box inside `outer` counts. Pixels of a never change; pixels of b do, even where a and b
    are the same image.

    Sides of the outer box that do not lie on the image's border are bridged as well. There d
    counts inwards from the side, 1 for the border pixels of the box; r is the border pixel straight
    towards the nearest side, and n the pixel of a just beyond it. Where two opposite sides are
    equally near, their mean is taken; where rows and columns are, the mean of both. Where the inner
    box covers r nothing is added. Both corrections are added before the result is clipped.

    Weights below 2^-18 (1/1028 grey level for a step from black to white) are taken as 0. The
    bridge therefore reaches 12.5 tau pixels; beyond that b is unchanged, and not clipped.

    Args:
        a, b: sources (A,C,H,W) and (B,C,H,W): float in [0,1], or uint8, read as grey level / 255.
        pairs: (N,2) integers, an index into a and an index into b.
        inner, outer: boxes y0, x0, y1, x1, half-open, in pixels: (4) for all pairs, or (N,4).
        seam: "hard", or the decay length tau of the bridge, in pixels.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (N,C,H,W) in the dtype of a; float32 for uint8 sources (bridged values are not rounded to
        grey levels). Differentiable in float a and b, with gradient 0 where a value was clipped.

    Raises:
        InvalidArgument: wrong shape, dtype or device; an index or box out of range.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> black, white = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
        >>> fastbg.composite(black, white, [[0, 0]], inner=(1, 1, 3, 3))[0, 0]
        tensor([[1., 1., 1., 1.],
                [1., 0., 0., 1.],
                [1., 0., 0., 1.],
                [1., 1., 1., 1.]])
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
    """`composite`, bicubically down-sampled by `scale`; the HR composite is never stored.

    Args:
        a, b, pairs, inner, outer, seam, backend: as for `composite`; boxes and decay length in HR
            pixels. With a hard seam the pairs share most of the work; a bridge is computed for
            each pair, up to its reach of 12.5 tau.
        scale: integer that divides H and W.
        kernel: "matlab" (antialiased, borders mirrored; networks are usually trained on it) or
            "pil" (kernel cut off and renormalised at the borders).
        quantize: clip to [0,1] and round to grey levels once, at the end, as MATLAB's `imresize`
            does for doubles. For uint8 images `imresize`, Pillow's `resize` and
            `fastbg.data.degradation.downsample` round after the first of their two passes as well;
            one value in seven differs from theirs, by one grey level.

    Returns:
        (N,C,H/s,W/s) in the dtype of a; float32 for uint8 sources. Not differentiable.

    Raises:
        InvalidArgument: as for `composite`; `scale` or `kernel`; with `quantize` also floats on a
            CPU outside of [-0.5, 1.5], such as 0..255, which clipping would turn white.
        BackendUnavailable: the named backend cannot run here.
        NoDerivative: a gradient is asked for.

    Example:
        >>> import torch, fastbg
        >>> a, b = torch.rand(10, 3, 128, 128), torch.rand(20, 3, 128, 128)
        >>> pairs = torch.cartesian_prod(torch.arange(10), torch.arange(20))  # all 200
        >>> fastbg.composite_lr(a, b, pairs, inner=(48, 48, 80, 80)).shape
        torch.Size([200, 3, 32, 32])
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
    """Tile the plane with flipped, rotated and zoomed copies (section 6.2, Figs 14 and 15).

    Args:
        tiles: (N,C,h,w) float.
        cells: (N,g,g) integers, the `Transform` of each cell, row by row. Quarter turns need
            square tiles.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (N,C,g*h,g*w) in the dtype of `tiles`. Not differentiable.

    Raises:
        InvalidArgument: wrong shape or dtype; a code that is no `Transform`.
        BackendUnavailable: the named backend cannot run here.
        NoDerivative: a gradient is asked for.

    Example:
        >>> import torch, fastbg
        >>> tile = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> kind = fastbg.Transform
        >>> cells = [[[kind.IDENTITY, kind.ROTATE_90], [kind.FLIP_VERTICAL, kind.ROTATE_180]]]
        >>> fastbg.mosaic(tile, cells)[0, 0]
        tensor([[1., 2., 2., 4.],
                [3., 4., 1., 3.],
                [3., 4., 4., 3.],
                [1., 2., 2., 1.]])
    """
    check_images("tiles", tiles)
    codes = integers("cells", cells, tiles.device)
    n = len(tiles)
    if codes.dim() != 3 or codes.shape[0] != n or codes.shape[1] != codes.shape[2]:
        raise InvalidArgument("cells", f"shape {tuple(codes.shape)}", f"shape ({n}, g, g)")
    return registered.mosaic(tiles, codes, backend)


def _decay_length(seam: str | float) -> float | None:
    """The decay length that `seam` asks for; None for a hard seam."""
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
    """Check the arguments of both composites; returns pairs, inner and outer as tensors."""
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
