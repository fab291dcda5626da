"""Objectives: the number computed from a window of the SR image that is attributed to the input."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.ops.path import gradient_detector


class Objective(ABC):
    """A differentiable number for the window of each SR image. Subclass it for one of your own.

    For a function of the window's pixels alone, `CustomObjective` is enough.

    Attributes:
        margin: SR pixels below and right of the window that the objective reads as well; they are
            passed to it as far as the image has them.
    """

    margin: int = 0

    @abstractmethod
    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height + margin,width + margin), whose upper left part is the
        window, height x width SR pixels.
        """


class GradientDetector(Objective):
    """LAM's objective: `fastbg.gradient_detector` of the window (Gu and Dong, CVPR 2021).

    Args:
        backend: of `fastbg.gradient_detector`.

    Example:
        >>> import torch, fastbg
        >>> objective = fastbg.GradientDetector()
        >>> objective(torch.ones(2, 3, 17, 17), 16, 16)  # no structure
        tensor([0., 0.])
    """

    margin = 1

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend

    def __repr__(self) -> str:
        return "GradientDetector()"

    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height + 1,width + 1), or less at the image's lower and right
        border.
        """
        return gradient_detector(patch, (0, 0, height, width), backend=self.backend)


class PixelSum(Objective):
    """Sum of the window's pixels over all channels, in [0,1] units.

    Example:
        >>> import torch, fastbg
        >>> fastbg.PixelSum()(torch.ones(1, 3, 2, 2), 2, 2)
        tensor([12.])
    """

    def __repr__(self) -> str:
        return "PixelSum()"

    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height,width)."""
        return patch.float().sum((1, 2, 3))


class CustomObjective(Objective):
    """Any differentiable function of the window's pixels.

    Args:
        function: window (B,C,size,size) -> (B), a number for each image.

    Raises:
        InvalidArgument: on use, if the function returns another shape than (B).

    Example:
        >>> import torch, fastbg
        >>> redness = fastbg.CustomObjective(lambda patch: patch[:, 0].mean((1, 2)))
        >>> redness(torch.ones(2, 3, 16, 16), 16, 16)
        tensor([1., 1.])
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
        """Values (B) for `patch` (B,C,height,width)."""
        values = self._function(patch)
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            wanted = "a float tensor (B), a number for each image"
            raise InvalidArgument("objective", f"a result of {kind}", wanted)
        if values.shape != patch.shape[:1]:
            wanted = f"({patch.shape[0]},): a number for each image"
            raise InvalidArgument("objective", f"a result of shape {tuple(values.shape)}", wanted)
        return values


def as_objective(objective: Objective | Callable[[Tensor], Tensor] | None) -> Objective:
    """`objective`, or what a function of the window's pixels is as one; None is LAM's."""
    if objective is None:
        return GradientDetector()
    if not callable(objective):
        expected = "an objective or a function of the window's pixels"
        raise InvalidArgument("objective", type(objective).__name__, expected)
    return objective if isinstance(objective, Objective) else CustomObjective(objective)
