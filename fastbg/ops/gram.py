"""Gram matrices of feature maps, and of a convolution's features (paper, section 6.1)."""

from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.filters.dtypes import accumulation_dtype
from fastbg.ops.checks import check_images
from fastbg.registration import gram as registered

CONV_WEIGHT = (64, 3, 3, 3)  # VGG's conv1_1: what the kernels are written for


def gram(features: Tensor, mask: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Gram matrix G[i, j] = sum over pixels p of mask[p] * features[i, p] * features[j, p].

    The sum is not normalised, and the result is exactly symmetric. Without a mask it equals
    ``torch.bmm(f, f.mT)`` of ``f = features.flatten(2)``. On GPUs a sum that contains an infinity
    may be NaN instead of infinite, because each float32 goes to the tensor cores as three parts.

    Args:
        features: (B,C,H,W) or (B,C,N) float, any strides.
        mask: finite weight of each pixel, real or bool: (B,H,W), or (B,M,H,W) for M regions in one
            pass; N in place of H,W for (B,C,N) features. With B = 1 it is used for all images.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (B,C,C), or (B,M,C,C) for M regions, in the dtype of `features`, summed in float32 (float64
        for float64). Twice differentiable in `features` and in a float `mask`. float16 overflows
        where a sum exceeds 65504; scale the features first.

    Raises:
        InvalidArgument: wrong type, shape, dtype or device.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> features = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]])  # two channels
        >>> fastbg.gram(features)
        tensor([[[14.,  2.],
                 [ 2.,  1.]]])
        >>> fastbg.gram(features, mask=torch.tensor([[True, False, True]]))
        tensor([[[10.,  0.],
                 [ 0.,  0.]]])
    """
    row = isinstance(features, Tensor) and features.dim() == 3
    maps = features.unsqueeze(2) if row else features  # N pixels are an image of one row
    check_images("features", maps)
    result = registered.gram(maps, _weights(mask, features), backend)
    return _per_region(result, mask, features)


def conv_gram(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """`gram` of ``relu(conv2d(images, weight, bias, padding=1))`` without storing the features.

    On CPUs this uses Winograd's F(2x2, 3x3), which turns the neighbours of an infinite pixel into
    NaN: the result for such an image may be NaN where the plain sums are infinite or finite.

    Args:
        images: (B,3,H,W) float, any strides; padded with zeros.
        weight, bias: (64,3,3,3) and (64) in the images' dtype.
        mask: (B,H,W) or (B,M,H,W), as for `gram`. It weights the features: those at the rim of a
            region still depend on the pixels outside of it.
        backend: "auto", "torch", "cpu", "triton" or "cuda".

    Returns:
        (B,64,64), or (B,M,64,64) for M regions, in the images' dtype. Differentiable in every
        argument; the backward pass computes the features again.

    Raises:
        InvalidArgument: wrong type, shape, dtype or device.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> conv = torch.nn.Conv2d(3, 64, 3, padding=1)
        >>> images = torch.rand(2, 3, 96, 128)
        >>> fastbg.conv_gram(images, conv.weight, conv.bias).shape
        torch.Size([2, 64, 64])
    """
    check_images("images", images)
    if images.shape[1] != CONV_WEIGHT[1]:
        raise InvalidArgument("images", f"shape {tuple(images.shape)}", "shape (B, 3, H, W)")
    if 0 in images.shape[2:]:
        raise InvalidArgument("images", f"shape {tuple(images.shape)}", "at least one pixel")
    for name, value, shape in (("weight", weight, CONV_WEIGHT), ("bias", bias, CONV_WEIGHT[:1])):
        if not isinstance(value, Tensor):
            raise InvalidArgument(name, type(value).__name__, "a torch.Tensor")
        if value.shape != shape:
            raise InvalidArgument(name, f"shape {tuple(value.shape)}", f"shape {shape}")
        if value.dtype != images.dtype:
            raise InvalidArgument(name, value.dtype, f"images' dtype {images.dtype}")
        if value.device != images.device:
            raise InvalidArgument(name, f"device {value.device}", f"images' device {images.device}")
    result = registered.conv_gram(images, weight, bias, _weights(mask, images), backend)
    return _per_region(result, mask, images)


def _weights(mask: Tensor | None, maps: Tensor) -> Tensor | None:
    """`mask` as (B,M,H,W) weights in the dtype that sums over `maps` have."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise InvalidArgument("mask", type(mask).__name__, "a torch.Tensor or None")
    batch, pixels = maps.shape[0], maps.shape[2:]
    one = mask.dim() == 1 + len(pixels)
    many = mask.dim() == 2 + len(pixels)
    if not (one or many) or mask.shape[0] not in (1, batch) or mask.shape[-len(pixels) :] != pixels:
        size = ", ".join(map(str, pixels))
        expected = f"shape ({batch} or 1, {size}) or ({batch} or 1, M, {size})"
        raise InvalidArgument("mask", f"shape {tuple(mask.shape)}", expected)
    if mask.is_complex():
        raise InvalidArgument("mask", mask.dtype, "real numbers or bool")
    if mask.device != maps.device:
        raise InvalidArgument("mask", f"device {mask.device}", f"the images' device {maps.device}")
    regions = mask.unsqueeze(1) if one else mask
    if len(pixels) == 1:
        regions = regions.unsqueeze(2)
    wide = regions.to(accumulation_dtype(maps.dtype))
    return wide.expand(batch, -1, -1, -1)


def _per_region(result: Tensor, mask: Tensor | None, maps: Tensor) -> Tensor:
    """Without the axis of regions, unless the mask had one."""
    return result if mask is not None and mask.dim() == maps.dim() else result.squeeze(1)
