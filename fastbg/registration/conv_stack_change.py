"""Which backend keeps the maps of a stack of convolutions to change a box of its input."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from fastbg.registration.dispatch import BACKENDS


def changeable_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    whole_cells: bool,
) -> Any:
    """The cpu backend's ChangeableStack; the caller has asked `why_plain` of conv_stack."""
    backend = import_module(f"{BACKENDS['cpu']}.conv_stack_change")
    return backend.ChangeableStack(x, parameters, layers, scales, whole_cells)
