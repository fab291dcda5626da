"""What is made of weights, kept as long as they live."""

import weakref
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class ByWeight(Generic[T]):
    """One thing for each weight, by its id. It goes with its weight.

    Another tensor may have the id later, so whoever takes a thing must compare contents first.
    """

    def __init__(self) -> None:
        # The reference is kept, too: its callback is called only while it is alive.
        self._kept: dict[int, tuple[T, weakref.ref[Tensor]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, weight: Tensor) -> T | None:
        """What was kept last for a tensor of this id."""
        found = self._kept.get(id(weight))
        return None if found is None else found[0]

    def keep(self, weight: Tensor, made: T) -> T:
        """`made`, which takes the place of what was kept before."""
        key = id(weight)
        self._kept[key] = made, weakref.ref(weight, partial(self._forget, key))
        return made

    def _forget(self, key: int, reference: "weakref.ref[Tensor]") -> None:
        """The weight is gone; what a later tensor of the same id has kept stays."""
        found = self._kept.get(key)
        if found is not None and found[1] is reference:
            del self._kept[key]
