"""3x3 convolution with the ReLU, residual sum and pixel shuffle that follow it in SR networks."""

from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.ops.checks import check_images
from fastbg.registration import conv as registered


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
    upscale: int = 1,
    backend: str = "auto",
) -> Tensor:
    """``residual + residual_scale * pixel_shuffle(relu(conv2d(x, weight, bias, padding=1)))``.

    On CPUs this uses Winograd's F(4x4, 3x3) with a quarter of the multiplications (Lavin and Gray,
    CVPR 2016). The rounding error of a layer is a few times that of the plain sum, about 1e-6 of
    its largest output. A NaN or infinity in the input spreads to the whole 4x4 output tile.

    On GPUs tensor cores compute it in the precision of `fastbg.use_precision`; "ieee" takes three
    TF32 products. There, only the torch backend computes gradients to weights.

    Args:
        x: (B,Ci,H,W) float, any strides; fastest in channels_last, or cut out of such a tensor.
        weight, bias: (Co,Ci,3,3) and (Co), in the dtype of `x`. On CPUs the transformed weight is
            kept, and computed again after any change of its values.
        relu: clip negative sums to 0; not together with `residual`.
        residual: (B,Co/r^2,r*H,r*W) with r = `upscale`, to which the convolution is added.
        residual_scale: factor of the convolution; has no effect without `residual`.
        upscale: r of the pixel shuffle (Shi et al., CVPR 2016); Co is a multiple of r^2.
        backend: "auto", "torch", "cpu", "cuda" or "triton".

    Returns:
        (B,Co/r^2,r*H,r*W) in the dtype of `x`, channels_last. Twice differentiable.

    Raises:
        InvalidArgument: wrong type, shape, dtype or device; `relu` together with `residual`.
        BackendUnavailable: the named backend cannot run here.

    Example:
        >>> import torch, fastbg
        >>> x, weight = torch.rand(1, 64, 24, 24), torch.rand(256, 64, 3, 3)
        >>> fastbg.conv3x3(x, weight, upscale=2).shape  # conv2d, then PixelShuffle(2)
        torch.Size([1, 64, 48, 48])
    """
    check_images("x", x)
    if 0 in x.shape[1:]:
        raise InvalidArgument("x", f"shape {tuple(x.shape)}", "at least one channel and pixel")
    channels = x.shape[1]
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else None
    if shape is None or len(shape) != 4 or shape[1:] != (channels, 3, 3):
        raise InvalidArgument("weight", shape, f"shape (Co, {channels}, 3, 3)")
    if shape[0] == 0:
        raise InvalidArgument("weight", shape, "at least one channel Co")
    if upscale < 1 or shape[0] % upscale**2:
        raise InvalidArgument("upscale", upscale, f"r >= 1 whose square divides Co = {shape[0]}")
    if relu and residual is not None:
        raise InvalidArgument("relu", relu, "False, where a residual is given")
    out = (len(x), shape[0] // upscale**2, upscale * x.shape[2], upscale * x.shape[3])
    for name, value, expected in (("bias", bias, shape[:1]), ("residual", residual, out)):
        if value is not None and tuple(value.shape) != expected:
            raise InvalidArgument(name, f"shape {tuple(value.shape)}", f"shape {expected}")
    for name, value in (("weight", weight), ("bias", bias), ("residual", residual)):
        if value is not None and (value.dtype, value.device) != (x.dtype, x.device):
            expected_kind = f"{x.dtype} on {x.device}, as x"
            raise InvalidArgument(name, f"{value.dtype} on {value.device}", expected_kind)
    return registered.conv3x3(
        x, weight, bias, residual, float(residual_scale), relu, upscale, backend
    )
