"""Gradients that are zero everywhere: right for a clipped window, empty of meaning behind rounding.

A module that rounds (`round`, `byte`, `argmax`) is made of steps: its gradient is zero wherever it
exists, while its output changes. A window that is clipped has a gradient of zero, too, but there
the output does not change, and zero is the answer.
"""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastbg import users_line

LEAST = 1e-6  # of the values: a smaller change counts as rounding error
REASON = (
    "the network or the objective rounds (round, byte, argmax), so that its gradient says nothing, "
    "or is clipped at each point where the gradient was taken"
)


class ZeroGradient(UserWarning):
    """A gradient is zero everywhere, although what it is the gradient of changes."""


def without(values: Tensor) -> Tensor:
    """Which of `values` (B,N,C,h,w) are zero everywhere: (B,N) bool; none of fake tensors."""
    if isinstance(values, FakeTensor):
        return torch.zeros(values.shape[:2], dtype=torch.bool, device="cpu")
    return ~values.flatten(2).any(2).cpu()


def changed(first: Tensor, second: Tensor) -> Tensor:
    """Where `first` and `second` differ by more than rounding errors: bool, on the CPU."""
    scale = torch.maximum(first.abs(), second.abs())
    return ((first - second).abs() > LEAST * scale).cpu()


def warn(count: int, what: str, when: str) -> None:
    """ZeroGradient for `count` windows whose `what` is zero although they change `when`."""
    windows = "a window" if count == 1 else f"{count} windows"
    users_line.warn(
        f"the {what} of {windows} is zero at every pixel, although the objective changes {when}: "
        f"{REASON}",
        ZeroGradient,
    )
