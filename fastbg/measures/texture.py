"""Texture of image regions as Gram matrices, and the distance of two (paper, section 6.1)."""

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.filters.dtypes import accumulation_dtype, as_float
from fastbg.models.vgg import conv1_1, imagenet_normalised
from fastbg.ops.checks import FLOATS, check_images, check_no_other_range
from fastbg.ops.gram import conv_gram

BEYOND = 7.0  # allowed beyond [0,1], as images that are being optimised may leave that range


def texture_gram(images: Tensor, mask: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Gram matrices of VGG16's conv1_1 features after ReLU, normalised (paper, section 6.1).

    Each is divided by 64 (the channels) times the number of pixels, or the sum of the mask, so that
    regions of different size can be compared. A region without pixels gives NaN.

    Args:
        images: (B,3,H,W) RGB in [0,1], any float, or uint8, read as grey level / 255.
        mask: (B,H,W), or (B,M,H,W) for M regions in one pass, as for `fastbg.conv_gram`.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (B,64,64), or (B,M,64,64) for M regions, float32 (float64 for float64 images).
        Differentiable in float images.

    Raises:
        InvalidArgument: wrong type, shape, dtype or device; floats on a CPU outside of [-7, 8],
            such as 0..255.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> images = torch.rand(4, 3, 64, 64)
        >>> fastbg.texture_gram(images).shape
        torch.Size([4, 64, 64])
    """
    check_images("images", images, (*FLOATS, torch.uint8))
    check_no_other_range("images", images, BEYOND)
    if images.shape[1] != 3:
        raise InvalidArgument("images", f"shape {tuple(images.shape)}", "shape (B, 3, H, W)")
    dtype = accumulation_dtype(images.dtype)
    weight, bias = conv1_1(images.device, dtype)
    normalised = imagenet_normalised(as_float(images).to(dtype))
    total = conv_gram(normalised, weight, bias, mask, backend=backend)
    channels = weight.shape[0]
    if mask is None:
        return total / (channels * images.shape[2] * images.shape[3])
    pixels = mask.sum((-2, -1), dtype=dtype)
    return total / (channels * pixels[..., None, None])


def gram_distance(ga: Tensor, gb: Tensor) -> Tensor:
    """Squared Frobenius distance between each matrix of `ga` and each matrix of `gb`.

    Computed as |a|^2 + |b|^2 - 2 a.b in float64, with one matrix product for all pairs. A distance
    below the rounding error of that sum is set to 0: identical matrices have distance exactly 0,
    and no distance is negative.

    Args:
        ga, gb: (A,C,C) and (B,C,C), real floats of one dtype and device.

    Returns:
        (A,B), float32 or, for float64 matrices, float64.

    Raises:
        InvalidArgument: wrong shape, dtype or device.

    Example:
        >>> import torch, fastbg
        >>> ga, gb = torch.zeros(1, 2, 2), torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
        >>> fastbg.gram_distance(ga, gb)
        tensor([[0., 4.]])
    """
    for name, value in (("ga", ga), ("gb", gb)):
        if not isinstance(value, Tensor):
            raise InvalidArgument(name, type(value).__name__, "a torch.Tensor")
        if value.dim() != 3 or value.shape[1] != value.shape[2]:
            raise InvalidArgument(name, f"shape {tuple(value.shape)}", "shape (N, C, C)")
        if value.dtype not in FLOATS:
            raise InvalidArgument(name, value.dtype, f"one of {', '.join(map(str, FLOATS))}")
    if gb.shape[1] != ga.shape[1]:
        raise InvalidArgument("gb", f"shape {tuple(gb.shape)}", f"ga's C = {ga.shape[1]}")
    if gb.dtype != ga.dtype:
        raise InvalidArgument("gb", gb.dtype, f"ga's dtype {ga.dtype}")
    if gb.device != ga.device:
        raise InvalidArgument("gb", f"device {gb.device}", f"ga's device {ga.device}")
    centre = ga.double().mean(0)  # subtracted: a common part would only add rounding error
    a, b = ((g.double() - centre).flatten(1) for g in (ga, gb))
    norms = a.square().sum(1)[:, None] + b.square().sum(1)  # [A,B]
    distance = norms - 2 * (a @ b.mT)
    # Bound of the rounding error of a sum of C*C products.
    rounding = a.shape[1] * torch.finfo(torch.float64).eps * norms
    measured = torch.where(distance > rounding, distance, 0.0)
    return measured.to(accumulation_dtype(ga.dtype))
