"""CUDA C++ backend of the 3x3 convolution (csrc/cuda/conv.cu)."""

from torch import Tensor

from fastbg.backends.conv_arguments import empty_maps, gated
from fastbg.backends.cuda import launching_on, native
from fastbg.backends.tensor_view import optional_view, view
from fastbg.errors import InvalidArgument
from fastbg.precision import current

MOST_BLOCKS = 2**31 - 1  # that a launch can have, each of 8 x 16 pixels and at least 16 channels
MOST_SIDE = 2**31 - 32  # rows and columns, which the kernel counts in 32 bits


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    upscale: int,
) -> Tensor:
    """residual + residual_scale * pixel_shuffle(relu(conv3x3(x) + bias))."""
    batch, _, height, width = x.shape
    channels = len(weight) // upscale**2
    out = empty_maps(x, batch, channels, height * upscale, width * upscale)
    offsets = None if bias is None else bias.float().contiguous()
    return _run(x, 1, weight, False, offsets, residual, residual_scale, relu, out, upscale)


def conv3x3_input_gradient(
    grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int
) -> Tensor:
    """Gradient to x of pixel_shuffle(relu(conv3x3(x))); `gate` is its result, None without ReLU."""
    batch, _, height, width = grad.shape
    out = empty_maps(grad, batch, weight.shape[1], height // upscale, width // upscale)
    return _run(gated(grad, gate), upscale, weight, True, None, None, 1.0, False, out, 1)


def check_size(out: Tensor, upscale: int) -> None:
    """Raises InvalidArgument if a result, shuffled by `upscale`, is too large for a launch."""
    batch, channels, height, width = out.shape
    tiles = -(-height // upscale // 8) * -(-width // upscale // 16)
    blocks = batch * tiles * upscale**2 * -(-channels // 16)
    if blocks > MOST_BLOCKS or max(height, width) > MOST_SIDE:
        expected = (
            f"at most {MOST_BLOCKS} blocks of 8 x 16 pixels and 16 channels a call, and "
            f"{MOST_SIDE} rows and columns, on the cuda backend"
        )
        raise InvalidArgument("x", f"a result of shape {tuple(out.shape)}", expected)


def _run(
    x: Tensor,
    x_upscale: int,
    weight: Tensor,
    transposed: bool,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    out: Tensor,
    upscale: int,
) -> Tensor:
    """Packs the weight and convolves.

    A weight is packed again in every call, so that a changed one always takes effect.
    """
    check_size(out, upscale)
    rounded = current() != "ieee"
    shape = x_upscale if transposed else upscale, transposed
    packed = weight.new_empty(native().conv3x3_packed_size(view(weight), *shape))
    with launching_on(x.device) as stream:
        native().conv3x3_pack(view(weight), *shape, rounded, view(packed), stream)
        native().conv3x3(
            view(x),
            x_upscale,
            view(packed),
            optional_view(bias),
            optional_view(residual),
            residual_scale,
            relu,
            view(out),
            upscale,
            rounded,
            stream,
        )
    return out
