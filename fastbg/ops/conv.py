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

    On CPUs by Winograd's F(4x4, 3x3), with a quarter of the multiplications (Lavin and Gray, CVPR
    2016). Its rounding error is a few times that of the plain sum (of the order 1e-6 of the
    largest output for one layer), and a NaN or infinity reaches the whole 4x4 tile.

    Args:
        x: (B,Ci,H,W) float, any strides; fastest with channels_last, or a window cut out of it.
        weight, bias: (Co,Ci,3,3) and (Co) in the dtype of `x`. On CPUs it is transformed
            once, and again whenever its contents have changed, in whatever way.
        relu: whether negative sums become 0; not together with `residual`.
        residual: (B,Co/r^2,r*H,r*W), r = `upscale`, is added.
        residual_scale: factor of what is added to it; without `residual` it has no effect.
        upscale: r of the pixel shuffle (Shi et al., CVPR 2016); Co is a multiple of r^2.
        backend: "auto", "torch" or "cpu"; on GPUs cuDNN does it, through "torch".

    Returns:
        (B,Co/r^2,r*H,r*W) in the dtype of `x`, channels_last. Differentiable, also twice.

    Raises:
        InvalidArgument: type, shape, dtype or device, or `relu` together with `residual`.
        BackendUnavailable: the named backend cannot run here.
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
