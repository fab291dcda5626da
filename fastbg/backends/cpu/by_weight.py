"""A cache of what is computed from weights, kept as long as the weights live."""

import weakref
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class ByWeight(Generic[T]):
    """One value for each weight, by the weight's id; deleted together with the weight.

    Another tensor may get the same id later, so callers must compare contents before they use it.
    """

    def __init__(self) -> None:
        # The weak reference must be stored, as its callback is called only while it is alive.
        self._kept: dict[int, tuple[T, weakref.ref[Tensor]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, weight: Tensor) -> T | None:
        """The value stored last for a tensor of this id."""
        found = self._kept.get(id(weight))
        return None if found is None else found[0]

    def keep(self, weight: Tensor, made: T) -> T:
        """Store `made` instead of an earlier value, and return it."""
        key = id(weight)
        self._kept[key] = made, weakref.ref(weight, partial(self._forget, key))
        return made

    def _forget(self, key: int, reference: "weakref.ref[Tensor]") -> None:
        """Delete the value of a weight that is gone, but not that of a later one with its id."""
        found = self._kept.get(key)
        if found is not None and found[1] is reference:
            del self._kept[key]
