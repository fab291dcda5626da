"""Swin Transformer layers in C++ (csrc/cpu/attention.cpp, pixel_mlp.cpp, cells.cpp)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastbg.backends.attention_steps import Step, split
from fastbg.backends.cpu import floats, native
from fastbg.backends.cpu.attention_weight import KnownStep, known_step
from fastbg.backends.tensor_view import view


def swin_layers(
    x: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The steps on `x`, and the cells before each step but the first, if `keep`."""
    described, _owners = _described(parameters, steps, eps)
    between = len(described) - 1 if keep else 0
    kept = floats(between, x.numel())
    ends = floats(x.numel())  # the cells of x, in the end those of the result
    states = (ends.data_ptr(), *_addresses(kept), ends.data_ptr())
    if not keep:
        states = (ends.data_ptr(),) * (len(described) + 1)
    last = split(steps)[-1]
    out = floats(len(x), last.y1 - last.y0, last.x1 - last.x0, x.shape[1]).permute(0, 3, 1, 2)
    native().swin_layers(view(x), described, states, view(out), torch.get_num_threads())
    return out, kept


def swin_layers_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
) -> Tensor:
    """Gradient to x; what the forward pass has not stored is computed again."""
    described, _owners = _described(parameters, steps, eps)
    if kept is None or len(kept) != len(described) - 1:
        _, kept = swin_layers(x, parameters, steps, height, width, eps, True)
    ends = floats(2, x.numel())
    first, gradient = _addresses(ends)
    out = floats(*x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    native().swin_layers_gradient(
        view(x),
        view(grad),
        described,
        (first, *_addresses(kept), gradient),
        view(out),
        torch.get_num_threads(),
    )
    return out


def _addresses(rows: Tensor) -> list[int]:
    return [rows.data_ptr() + i * rows.stride(0) * 4 for i in range(len(rows))]


def _described(
    parameters: Sequence[Tensor], steps: Sequence[int], eps: float
) -> tuple[tuple[tuple[Any, ...], ...], list[KnownStep]]:
    """Each step for the kernel, and the tensors that own the memory it points to."""
    side, given = native().attention_cell_side, list(parameters)
    described = []
    owners = []
    for step in split(steps):
        known = known_step(given[: step.parameters], step.heads, step.window)
        del given[: step.parameters]
        owners.append(known)
        described.append(_for_kernel(step, known, side, eps))
    return tuple(described), owners


def _for_kernel(step: Step, known: KnownStep, side: int, eps: float) -> tuple[Any, ...]:
    box = tuple(v // side for v in step.box)
    attends = step.heads > 0
    sizes = known.hidden, step.heads, step.window // side, step.shift // side
    return attends, box, eps, known.addresses, *sizes
