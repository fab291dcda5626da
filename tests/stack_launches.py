"""How many kernels an operator starts."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Counts kernels that a GPU would start: those that a test adds, and PyTorch's functions."""

    NONE = (
        "empty",
        "view",
        "slice",
        "permute",
        "detach",
        "as_strided",
        "select",
        "unsqueeze",
        "expand",
        "alias",
    )

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.torch = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if func.namespace == "aten" and not any(none in name for none in self.NONE):
            self.torch.append(name)
        return func(*args, **kwargs or {})

    @property
    def total(self) -> int:
        return self.kernels + len(self.torch)
