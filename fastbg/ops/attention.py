"""Swin Transformer layers (Liu et al., ICCV 2021): window attention, MLP, and sequences of both."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.ops import frozen
from fastbg.ops.checks import check_images
from fastbg.registration import attention as registered
from fastbg.registration.attention import Step as Step
from fastbg.registration.dispatch import Place, select

CELL = 4  # pixels; boxes, windows and shifts of the CPU kernel are multiples of it
LARGEST_WINDOW = {"cpu": 32, "triton": 8}  # pixels a side
NORM = ("norm_weight", "norm_bias")
ATTENTION = (*NORM, "qkv_weight", "qkv_bias", "bias_table", "proj_weight", "proj_bias")
MLP = (*NORM, "fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")


def window_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    bias_table: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    *,
    heads: int,
    window: int,
    shift: int = 0,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """``x + proj(attention(qkv(layer_norm(x))))``, attention among the pixels of each window.

    On CPUs one kernel computes it on cells of 4x4 pixels; on GPUs a Triton kernel attends, between
    PyTorch's layers. Both address shifted windows, without copies and without a mask. Where they
    cannot run, PyTorch's own functions are used.

    Args:
        x: (B,C,H,W) float, any strides; H and W are multiples of `window`.
        norm_weight, norm_bias: (C), of the layer norm.
        qkv_weight, qkv_bias: (3C,C) and (3C): queries, then keys, then values; the heads of each
            one after another.
        bias_table: ((2 window - 1)^2, heads), added to the logits by relative position, row by row.
        proj_weight, proj_bias: (C,C) and (C), of the projection.
        heads: number of heads, a divisor of C.
        window: side of a window in pixels.
        shift: pixels by which the windows are shifted down and right, less than `window`. A window
            that the border cuts is not joined with the one on the opposite side: their pixels do
            not attend to each other.
        backend: "auto", "torch", "cpu" or "triton".

    Returns:
        (B,C,H,W) in the dtype of `x`. Twice differentiable in `x`. Where parameters need
        gradients, PyTorch's own functions compute it.

    Raises:
        InvalidArgument: wrong type, shape or size.
        BackendUnavailable: the named backend cannot run here, or not with these arguments.

    Example:
        >>> import torch, fastbg
        >>> c, heads, window = 32, 4, 8
        >>> qkv, proj = torch.nn.Linear(c, 3 * c), torch.nn.Linear(c, c)
        >>> parameters = (torch.ones(c), torch.zeros(c), qkv.weight, qkv.bias)
        >>> parameters += (torch.zeros((2 * window - 1) ** 2, heads), proj.weight, proj.bias)
        >>> x = torch.rand(1, c, 16, 24)
        >>> fastbg.window_attention(x, *parameters, heads=heads, window=window, shift=4).shape
        torch.Size([1, 32, 16, 24])
    """
    parameters = [norm_weight, norm_bias, qkv_weight, qkv_bias, bias_table, proj_weight, proj_bias]
    check_images("x", x)
    channels, height, width = x.shape[1:]
    if heads < 1 or channels % heads:
        raise InvalidArgument("heads", heads, f"a divisor of C = {channels}")
    if window < 1 or 0 in (height, width) or height % window or width % window:
        raise InvalidArgument("window", window, f"a divisor of the sides {height} and {width}")
    if not 0 <= shift < window:
        raise InvalidArgument("shift", shift, f"0 <= shift < {window}")
    shapes = [
        *((channels,), (channels,), (3 * channels, channels), (3 * channels,)),
        *(((2 * window - 1) ** 2, heads), (channels, channels), (channels,)),
    ]
    _check_parameters(x, ATTENTION, parameters, shapes)
    step = Step(heads, window, shift, 0, 0, height, width)
    return swin_layers(x, parameters, [step], height, width, eps, backend)


def pixel_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    *,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """``x + fc2(gelu(fc1(layer_norm(x))))`` on each pixel of `x` (B,C,H,W), with the exact GELU.

    Args:
        x: (B,C,H,W) float, any strides; the CPU kernel needs sides that are multiples of 4.
        norm_weight, norm_bias: (C), of the layer norm.
        fc1_weight, fc1_bias: (F,C) and (F).
        fc2_weight, fc2_bias: (C,F) and (C).
        backend: "auto", "torch", "cpu" or "triton".

    Returns:
        (B,C,H,W) in the dtype of `x`. Twice differentiable in `x`. Where parameters need
        gradients, PyTorch's own functions compute it.

    Raises:
        InvalidArgument: wrong type, shape or size.
        BackendUnavailable: the named backend cannot run here, or not with these arguments.

    Example:
        >>> import torch, fastbg
        >>> up, down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        >>> parameters = (torch.ones(16), torch.zeros(16), up.weight, up.bias)
        >>> parameters += (down.weight, down.bias)
        >>> fastbg.pixel_mlp(torch.rand(1, 16, 8, 8), *parameters).shape
        torch.Size([1, 16, 8, 8])
    """
    parameters = [norm_weight, norm_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias]
    check_images("x", x)
    channels, height, width = x.shape[1:]
    if 0 in x.shape[1:]:
        raise InvalidArgument("x", f"shape {tuple(x.shape)}", "at least one channel and pixel")
    hidden = len(fc1_weight)
    shapes = [*((channels,),) * 2, (hidden, channels), (hidden,), (channels, hidden), (channels,)]
    _check_parameters(x, MLP, parameters, shapes)
    step = Step(0, 0, 0, 0, 0, height, width)
    return swin_layers(x, parameters, [step], height, width, eps, backend)


def swin_layers(
    x: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[Step],
    height: int,
    width: int,
    eps: float,
    backend: str = "auto",
    sure: bool = False,
) -> Tensor:
    """Several Swin layers in a row on a part of a map; between them it keeps the kernel's layout.

    Args:
        x: the first step's box of a map (B,C,height,width).
        parameters: those of each step, one step after another, as for `window_attention` and
            `pixel_mlp`.
        steps: each with the box that it computes, in pixels. It lies inside the box of the step
            before and, for attention, is made of whole windows.
        height, width: of the whole map.
        eps: of the layer norms.
        backend: "auto", "torch", "cpu" or "triton".
        sure: whether the caller has already checked that `why_plain` is None.

    Returns and raises as `window_attention`, for the box of the last step.
    """
    numbers = list(chain.from_iterable(steps))
    reason = None if sure else why_plain(x, parameters, steps, backend)
    if reason is not None:
        if backend not in ("auto", "torch"):
            raise BackendUnavailable(f"backend {backend!r} cannot run swin_layers: {reason}")
        return registered.plain(x, parameters, numbers, height, width, eps)
    keep = torch.is_grad_enabled() and x.requires_grad
    given = list(parameters), numbers, height, width, eps, keep, backend
    return registered.swin_layers(x, *given)[0]


def why_plain(
    x: Tensor, parameters: Sequence[Tensor], steps: Sequence[Step], backend: str = "auto"
) -> str | None:
    """The reason why PyTorch's own functions must compute it; None if a kernel can."""
    reason = frozen.why_plain("swin_layers", x, parameters, backend)
    if reason is not None:
        return reason
    if len(x) == 0:
        return "there is no image"
    chosen = select("swin_layers", Place(x.device, x.dtype), backend)
    largest = LARGEST_WINDOW[chosen]
    for step in steps:
        y0, x0, y1, x1 = step.box
        # CELL is a power of two.
        if chosen == "cpu" and (step.window | step.shift | y0 | x0 | y1 | x1) % CELL:
            return f"windows, shifts and boxes must be multiples of {CELL} pixels"
        if step.window > largest:
            return f"windows must have at most {largest} pixels a side"
    return None


def mlp_box(attention: Step, box: Box, height: int, width: int) -> Box:
    """The box of the MLP behind an attention step, of which only `box` is needed.

    A CPU computes whole cells, which the step's windows hold unless it is no CPU's.
    """
    whole = (attention.window | attention.shift) % CELL == 0
    return box.align(CELL, 0, height, width) if whole else box


def _check_parameters(
    x: Tensor, names: Sequence[str], parameters: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
) -> None:
    for name, value, shape in zip(names, parameters, shapes, strict=True):
        if tuple(value.shape) != shape:
            raise InvalidArgument(name, f"shape {tuple(value.shape)}", f"shape {shape}")
        if (value.dtype, value.device) != (x.dtype, x.device):
            expected = f"{x.dtype} on {x.device}, as x"
            raise InvalidArgument(name, f"{value.dtype} on {value.device}", expected)
