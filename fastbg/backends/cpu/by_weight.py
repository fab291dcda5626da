"""A cache of what is computed from weights, kept as long as their memory."""

import weakref
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor, UntypedStorage

T = TypeVar("T")


class ByWeight(Generic[T]):
    """One value for each weight, by the weight's address; deleted together with its storage.

    Another tensor may lie at the same address later, so callers must compare contents before they
    use the value. The tensor itself is not referred to: `torch.utils.swap_tensors` refuses tensors
    that have weak references.
    """

    def __init__(self) -> None:
        # The weak reference must be stored, as its callback is called only while it is alive.
        self._kept: dict[int, tuple[T, weakref.ref[UntypedStorage]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, weight: Tensor) -> T | None:
        """The value stored last for a tensor at this address."""
        found = self._kept.get(weight.data_ptr())
        return None if found is None else found[0]

    def keep(self, weight: Tensor, made: T) -> T:
        """Store `made` instead of an earlier value, and return it."""
        key, storage = weight.data_ptr(), weight.untyped_storage()
        self._kept[key] = made, weakref.ref(storage, partial(self._forget, key))
        return made

    def _forget(self, key: int, reference: "weakref.ref[UntypedStorage]") -> None:
        """Delete the value of a storage that is gone, but not a later one's at its address."""
        found = self._kept.get(key)
        if found is not None and found[1] is reference:
            del self._kept[key]
