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
    backend: str,
) -> Any:
    """The ChangeableStack of `backend`, one that has `conv_stack` too.

    `whole_cells` only for the cpu backend; the caller has checked that the backend takes these
    arguments.
    """
    module = import_module(f"{BACKENDS[backend]}.conv_stack_change")
    if backend == "cpu":
        return module.ChangeableStack(x, parameters, layers, scales, whole_cells)
    return module.ChangeableStack(x, parameters, layers, scales)
