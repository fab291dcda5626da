"""Reference of the path family. B images, K nodes, kernels of k = 2r + 1 taps."""

import torch
import torch.nn.functional as F
from torch import Tensor

ACCUMULATE = {torch.float64: torch.float64}  # everything else accumulates in float32


def mirrored(size: int, radius: int, device: torch.device) -> Tensor:
    """Pixel that stands at each place of an axis padded by `radius`, reflect-101 (dcb|abcd|cba)."""
    place = torch.arange(-radius, size + radius, device=device).abs()
    return torch.minimum(place, 2 * (size - 1) - place)


def separable_filter(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B,C,H,W) filtered down its columns with `rows` (K,k), along with `columns` (K,k).

    Result (B,K,C,H,W), in the dtype in which it was computed.
    """
    b, c, h, w = image.shape
    count, size = rows.shape
    dtype = ACCUMULATE.get(image.dtype, torch.float32)
    x = image.to(dtype)[:, :, mirrored(h, size // 2, image.device)]
    x = x[..., mirrored(w, size // 2, image.device)].reshape(b * c, 1, h + size - 1, w + size - 1)
    x = F.conv2d(x, columns.to(dtype).reshape(count, 1, 1, size))  # [BC,K,H+2r,W]
    x = F.conv2d(x, rows.to(dtype).reshape(count, 1, size, 1), groups=count)
    return x.reshape(b, c, count, h, w).transpose(1, 2)


def separable_filter_adjoint(grad: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Adjoint of `separable_filter`: (B,K,C,H,W) -> (B,C,H,W)."""
    b, count, c, h, w = grad.shape
    size = rows.shape[1]
    dtype = ACCUMULATE.get(grad.dtype, torch.float32)
    x = grad.to(dtype).transpose(1, 2).reshape(b * c, count, h, w)
    x = F.conv_transpose2d(x, rows.to(dtype).reshape(count, 1, size, 1), groups=count)
    x = F.conv_transpose2d(x, columns.to(dtype).reshape(count, 1, 1, size))[:, 0]
    x = x.new_zeros(b * c, h, x.shape[2]).index_add(1, mirrored(h, size // 2, x.device), x)
    x = x.new_zeros(b * c, h, w).index_add(2, mirrored(w, size // 2, x.device), x)
    return x.reshape(b, c, h, w)


def blur_path(image: Tensor, taps: Tensor) -> Tensor:
    """Nodes (B,K,C,H,W): `image` filtered with taps[k] along both axes."""
    return separable_filter(image, taps, taps).to(image.dtype)


def path_derivative(image: Tensor, change: Tensor, level: Tensor) -> Tensor:
    """Steps (B,K,C,H,W): `image` under the kernels change x level + level x change."""
    return separable_filter(image, change, level) + separable_filter(image, level, change)


def path_integral(gradients: Tensor, image: Tensor, change: Tensor, level: Tensor) -> Tensor:
    """Sum over k of gradients[:, k] times step k: (B,C,H,W)."""
    steps = path_derivative(image, change, level)
    return (gradients.to(steps.dtype) * steps).sum(1).to(image.dtype)


def _differences(sr: Tensor, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differences down and right (B,C,H-1,W-1), zero outside the windows, and their length."""
    x = sr.to(ACCUMULATE.get(sr.dtype, torch.float32))
    down = x[..., 1:, :-1] - x[..., :-1, :-1]
    right = x[..., :-1, 1:] - x[..., :-1, :-1]
    row = torch.arange(down.shape[-2], device=sr.device)[:, None]
    column = torch.arange(down.shape[-1], device=sr.device)
    y0, x0, y1, x1 = windows.reshape(-1, 4, 1, 1, 1).unbind(1)  # [B or 1, 1, 1, 1]
    inside = (y0 <= row) & (row < y1) & (x0 <= column) & (column < x1)
    down, right = down * inside, right * inside
    return down, right, torch.hypot(down, right)


def gradient_detector(sr: Tensor, windows: Tensor) -> Tensor:
    """Sum of the gradient lengths in each window: (B), in the dtype of the computation."""
    return _differences(sr, windows)[2].sum((1, 2, 3))


def gradient_detector_backward(grad: Tensor, sr: Tensor, windows: Tensor) -> Tensor:
    """Gradient (B,C,H,W) to `sr`, zero outside the windows; that of sqrt at 0 is 0."""
    down, right, length = _differences(sr, windows)
    share = grad.to(length.dtype).reshape(-1, 1, 1, 1) / torch.where(length > 0, length, 1)
    down, right = down * share, right * share
    result = sr.new_zeros(sr.shape, dtype=length.dtype)
    result[..., 1:, :-1] += down
    result[..., :-1, 1:] += right
    result[..., :-1, :-1] -= down + right
    return result.to(sr.dtype)
