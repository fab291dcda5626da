"""Reference of the path family. B images, K nodes, kernels of k = 2r + 1 taps."""

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastbg.filters.dtypes import accumulation_dtype


def mirrored(size: int, radius: int, device: torch.device) -> Tensor:
    """Source pixel of each position of an axis padded by `radius`, reflect-101 (dcb|abcd|cba)."""
    place = torch.arange(-radius, size + radius, device=device).abs()
    return torch.minimum(place, 2 * (size - 1) - place)


def separable_filter(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B,C,H,W) filtered down its columns with `rows` (K,k), along them with `columns` (K,k).

    Result (B,K,C,H,W), in the dtype in which it was computed.
    """
    h, w = image.shape[-2:]
    radius = rows.shape[1] // 2
    x = image.to(accumulation_dtype(image.dtype))[:, None]
    x = x.index_select(3, mirrored(h, radius, x.device))
    x = x.index_select(4, mirrored(w, radius, x.device))  # [B,1,C,H+2r,W+2r]
    x = _sum(tap * x[..., t : t + w] for t, tap in enumerate(_taps(columns, x)))
    return _sum(tap * x[..., t : t + h, :] for t, tap in enumerate(_taps(rows, x)))


def separable_filter_adjoint(grad: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Adjoint of `separable_filter`: (B,K,C,H,W) -> (B,C,H,W)."""
    b, _, c, h, w = grad.shape
    radius = rows.shape[1] // 2
    x = grad.to(accumulation_dtype(grad.dtype))
    last = 2 * radius
    x = _sum(pad(tap * x, (0, 0, t, last - t)) for t, tap in enumerate(_taps(rows, x)))
    x = _sum(pad(tap * x, (t, last - t)) for t, tap in enumerate(_taps(columns, x)))
    x = x.sum(1)  # [B,C,H+2r,W+2r]
    x = x.new_zeros(b, c, h, w + last).index_add(2, mirrored(h, radius, x.device), x)
    return x.new_zeros(b, c, h, w).index_add(3, mirrored(w, radius, x.device), x)


def _taps(table: Tensor, like: Tensor) -> Sequence[Tensor]:
    """The columns of a table (K,k), each as (K,1,1,1)."""
    return table.to(like.dtype).T.reshape(table.shape[1], -1, 1, 1, 1).unbind()


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(Tensor.add, terms)


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
    x = sr.to(accumulation_dtype(sr.dtype))
    down = x[..., 1:, :-1] - x[..., :-1, :-1]
    right = x[..., :-1, 1:] - x[..., :-1, :-1]
    row = torch.arange(down.shape[-2], device=sr.device)[:, None]
    column = torch.arange(down.shape[-1], device=sr.device)
    y0, x0, y1, x1 = windows.reshape(-1, 4, 1, 1, 1).unbind(1)  # [B or 1, 1, 1, 1]
    inside = (y0 <= row) & (row < y1) & (x0 <= column) & (column < x1)
    down, right = (torch.where(inside, x, 0) for x in (down, right))  # lets no NaN leak in
    square = down * down + right * right
    flat = square == 0
    return down, right, torch.where(flat, 1, square).sqrt().where(~flat, 0)  # derivative 0 at 0


def gradient_detector(sr: Tensor, windows: Tensor) -> Tensor:
    """Sum of the gradient lengths in each window: (B), in the dtype of the computation."""
    return _differences(sr, windows)[2].sum((1, 2, 3))


def gradient_detector_backward(grad: Tensor, sr: Tensor, windows: Tensor) -> Tensor:
    """Gradient (B,C,H,W) to `sr`, zero outside the windows; that of sqrt at 0 is 0."""
    down, right, length = _differences(sr, windows)
    upstream = grad.to(length.dtype).reshape(-1, 1, 1, 1)
    flat = length == 0
    share = (upstream / torch.where(flat, 1, length)).where(~flat, 0)  # of a NaN it is NaN
    down, right = down * share, right * share
    result = pad(down, (0, 1, 1, 0)) + pad(right, (1, 0, 0, 1)) - pad(down + right, (0, 1, 0, 1))
    height, width = sr.shape[-2:]
    return result[..., :height, :width].to(sr.dtype)  # an image without pixels stays one
