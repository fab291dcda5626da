"""3x3 convolution with Triton kernels: packs weights, allocates results, launches kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.backends.conv_arguments import empty_maps, gated
from fastbg.errors import InvalidArgument
from fastbg.filters.constants import on_device
from fastbg.kernels.conv import Filter, Packed, plan_conv3x3, plan_pack
from fastbg.kernels.conv_ending import Ending, Placed
from fastbg.precision import current

MOST_PIXELS = 2**31 - 2**16  # of one image: pixel indices have 32 bits, element offsets 64


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
    ending = Ending(
        bias=None if bias is None else bias.contiguous(),
        relu=relu,
        scale=1.0 if residual is None else residual_scale,
        residual=None if residual is None else Placed(residual),
    )
    return _run(x, Filter(weight, upscale, False), ending)


def conv3x3_input_gradient(
    grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int
) -> Tensor:
    """Gradient to x of pixel_shuffle(relu(conv3x3(x))); `gate` is its result, None without ReLU."""
    return _run(gated(grad, gate), Filter(weight, upscale, True), Ending())


def pack(filters: Sequence[Filter]) -> list[Packed]:
    """Packs filters for the kernel in the current precision, in one launch.

    Weights are packed again in every call, so that changed weights always take effect.
    """
    weight = filters[0].weight
    plan = plan_pack(filters, current())
    table = on_device(
        torch.tensor(plan.rows, device="cpu"), weight.device
    )  # cached while addresses repeat
    with torch.cuda.device_of(weight):
        plan.launch(table).run()
    return plan.packed


def run(x: Placed, packed: Packed, ending: Ending, out: Tensor, any_size: bool = False) -> Tensor:
    """Computes the convolution into `out`, and returns it; `any_size` as for `plan_conv3x3`."""
    for name, maps in (("x", x.map), ("out", out)):
        if maps.shape[2] * maps.shape[3] > MOST_PIXELS:
            expected = f"at most {MOST_PIXELS} pixels an image on the triton backend"
            raise InvalidArgument(name, f"shape {tuple(maps.shape)}", expected)
    if out.numel():
        with torch.cuda.device_of(out):
            plan_conv3x3(x, packed, ending, out, any_size).run()
    return out


def _run(x: Tensor, one: Filter, ending: Ending) -> Tensor:
    batch, _, height, width = x.shape
    sides = (side // one.read * one.written for side in (height, width))
    out = empty_maps(x, batch, one.outputs, *sides)
    return run(Placed(x), pack([one])[0], ending, out)
