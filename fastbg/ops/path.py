"""The parts of path-integrated gradients (LAM, paper sections 3.1 and 5).

The blur path, the integral along it, and the objective.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.filters.constants import on_device
from fastbg.filters.gaussian import difference_taps, gaussian_taps
from fastbg.ops.checks import BoxLike, boxes, check_images, values_are_known
from fastbg.registration import path as registered

Sigmas = Tensor | Sequence[float] | Sequence[Sequence[float]]


def blur_path(
    image: Tensor, sigmas: Sigmas, kernel_size: int = 9, *, backend: str = "auto"
) -> Tensor:
    """LAM's path: node k is the image blurred by a Gaussian of width ``sigmas[k]``.

    An infinite pixel makes the values that it contributes to infinite or NaN, depending on the
    order in which the backend sums.

    Args:
        image: (B,C,H,W) float; H and W at least ``kernel_size // 2 + 1``.
        sigmas: (K) widths in pixels of the image, at least 0; 0 gives the image itself.
        kernel_size: odd number of taps along each axis; borders are mirrored without repeating
            the border pixel ("reflect" of torch, reflect-101 of OpenCV).
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (B,K,C,H,W) in the image's dtype. Differentiable in `image`.

    Raises:
        InvalidArgument: wrong shape or dtype; a negative width; an even kernel size.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> path = fastbg.blur_path(torch.rand(2, 3, 32, 32), [1.2, 0.6, 0.0])
        >>> path.shape
        torch.Size([2, 3, 3, 32, 32])
    """
    _check_image(image, kernel_size)
    widths = _widths(sigmas)
    if widths.dim() != 1:
        raise InvalidArgument("sigmas", f"shape {tuple(widths.shape)}", "shape (K,)")
    taps = _like(gaussian_taps(widths, kernel_size), image)
    return registered.blur_path(image, taps, backend)


def path_integral(
    gradients: Tensor,
    image: Tensor,
    sigmas: Sigmas,
    kernel_size: int = 9,
    *,
    weights: Tensor | Sequence[float] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Integrate gradients along the blur path: sum over k of ``gradients[:, k] * step[k]``.

    step[k] is the image blurred with the last width of cell k, minus the image blurred with its
    first width. For K cells of equal length this is LAM's mean of gradient times derivative. The
    steps are computed on the fly and never stored. Integrals over consecutive groups of cells may
    be added. An infinite pixel makes the values that it contributes to infinite or NaN.

    Args:
        gradients: (B,K,C,H,W), the objective's gradient at a node of each cell.
        image: (B,C,H,W), in the dtype of `gradients`.
        sigmas: widths in pixels of the image: (K+1) borders of the cells in the order of the path,
            or (K,2) first and last width of each cell.
        kernel_size: odd number of taps along each axis, as for `blur_path`.
        weights: (K) factors of the steps, for quadrature rules whose cells overlap; default 1.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (B,C,H,W) in the image's dtype, accumulated in float32 (float64 for float64).
        Differentiable in `gradients` and `image`.

    Raises:
        InvalidArgument: wrong shape or dtype; a negative width; an even kernel size.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> image, gradients = torch.rand(1, 3, 32, 32), torch.rand(1, 2, 3, 32, 32)
        >>> fastbg.path_integral(gradients, image, [1.2, 0.6, 0.0]).shape
        torch.Size([1, 3, 32, 32])
    """
    _check_image(image, kernel_size)
    shape = gradients.shape
    if len(shape) != 5 or (shape[0], *shape[2:]) != tuple(image.shape):
        wanted = f"(B, K, C, H, W) with the image's (B, C, H, W) = {tuple(image.shape)}"
        raise InvalidArgument("gradients", f"shape {tuple(shape)}", wanted)
    if gradients.dtype != image.dtype or gradients.device != image.device:
        raise InvalidArgument(
            "gradients",
            f"{gradients.dtype} on {gradients.device}",
            f"the image's {image.dtype} on {image.device}",
        )
    count = shape[1]
    cells = _widths(sigmas)
    if cells.shape == (count + 1,):
        cells = torch.stack((cells[:-1], cells[1:]), -1)
    if cells.shape != (count, 2):
        wanted = f"({count + 1},) or ({count}, 2) for {count} gradients"
        raise InvalidArgument("sigmas", f"shape {tuple(cells.shape)}", wanted)
    change, level = difference_taps(cells, kernel_size)
    if weights is not None:
        factor = torch.as_tensor(weights, dtype=torch.float64, device=change.device)
        _check_constant("weights", factor)
        if factor.shape != (count,):
            raise InvalidArgument("weights", f"shape {tuple(factor.shape)}", f"({count},)")
        change = change * factor[:, None]
    return registered.path_integral(
        gradients, image, _like(change, image), _like(level, image), backend
    )


def gradient_detector(sr: Tensor, windows: BoxLike, *, backend: str = "auto") -> Tensor:
    """LAM's objective: how much structure each SR image has in its window.

    Sum over channels and window of ``sqrt(dh^2 + dw^2)`` with forward differences dh and dw. They
    read one pixel below and one pixel right of the window; in the last row and column of the image
    they are taken as 0. The derivative of the square root at 0 is taken as 0.

    Args:
        sr: (B,C,H,W) float.
        windows: boxes y0, x0, y1, x1, half-open, in pixels of `sr`: (4) for all images, or (B,4).
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (B) float32 (float64 for float64). Twice differentiable in `sr`.

    Raises:
        InvalidArgument: wrong shape or dtype; a box that leaves the image.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> edge = torch.tensor([[0.0, 1.0, 1.0]] * 3).expand(1, 1, 3, 3)
        >>> fastbg.gradient_detector(edge, (0, 0, 2, 2))
        tensor([2.])
    """
    check_images("sr", sr)
    box = boxes("windows", windows, len(sr), sr.device)
    return registered.gradient_detector(sr, box, backend)


def _check_image(image: Tensor, kernel_size: int) -> None:
    check_images("image", image)
    whole = isinstance(kernel_size, int | np.integer) and not isinstance(kernel_size, bool)
    if not whole or kernel_size < 1 or kernel_size % 2 == 0:
        raise InvalidArgument("kernel_size", kernel_size, "an odd number of taps")
    if min(image.shape[2:]) <= kernel_size // 2:
        size = f"{image.shape[2]}x{image.shape[3]}"
        wanted = f"H and W above {kernel_size // 2}, half the kernel: borders are mirrored"
        raise InvalidArgument("image", size, wanted)


def _widths(sigmas: Sigmas) -> Tensor:
    place = sigmas.device if isinstance(sigmas, Tensor) else "cpu"
    widths = torch.as_tensor(sigmas, dtype=torch.float64, device=place)
    _check_constant("sigmas", widths)
    good = widths >= 0
    if values_are_known(widths):
        if not bool(good.all()):
            raise InvalidArgument("sigmas", widths[~good][0].item(), "widths of at least 0")
        return widths
    return widths.where(good, torch.nan)  # cannot be read here: a wrong width gives NaN


def _check_constant(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise InvalidArgument(name, "requires_grad=True", "constants; there is no gradient")


def _like(taps: Tensor, image: Tensor) -> Tensor:
    """Taps as the kernels expect them: float32 (float64 for float64), on the image's device."""
    wide = torch.float64 if image.dtype == torch.float64 else torch.float32
    return on_device(taps, image.device, wide)
