"""Objectives: one number per SR image, of which the attribution explains the origin."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.ops.path import gradient_detector


class Objective(ABC):
    """Called with the window's part of the SR image. Subclass, or pass any function of it.

    `margin` is how many pixels below and right of the window the objective also reads; they are
    delivered where the image has them.
    """

    margin: int = 0

    @abstractmethod
    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height + margin, width + margin), window in its corner."""


class GradientDetector(Objective):
    """LAM's objective: `fastbg.gradient_detector` of the window."""

    margin = 1

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend

    def __repr__(self) -> str:
        return "GradientDetector()"

    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height + 1, width + 1), less at the image's end."""
        return gradient_detector(patch, (0, 0, height, width), backend=self.backend)


class PixelSum(Objective):
    """Sum of the window's pixels over all channels."""

    def __repr__(self) -> str:
        return "PixelSum()"

    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height,width)."""
        return patch.float().sum((1, 2, 3))


class CustomObjective(Objective):
    """A function of the window's pixels (B,C,size,size) with a value for each image (B)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height,width)."""
        values = self._function(patch)
        if values.shape != patch.shape[:1]:
            wanted = f"({patch.shape[0]},): a number for each image"
            raise InvalidArgument("objective", f"a result of shape {tuple(values.shape)}", wanted)
        return values


def as_objective(objective: Objective | Callable[[Tensor], Tensor] | None) -> Objective:
    """`objective`, or what a function of the window's pixels is as one; None is LAM's."""
    if objective is None:
        return GradientDetector()
    return objective if isinstance(objective, Objective) else CustomObjective(objective)
