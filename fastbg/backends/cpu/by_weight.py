"""What is made of weights, kept as long as their memory."""

import weakref
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor, UntypedStorage

T = TypeVar("T")


class ByWeight(Generic[T]):
    """One thing for each weight, by its address. It goes with the weight's storage.

    The address may hold other values later, so whoever takes a thing must compare contents first.
    The tensor itself is not referred to: `torch.utils.swap_tensors` refuses tensors that are.
    """

    def __init__(self) -> None:
        # The reference is kept, too: its callback is called only while it is alive.
        self._kept: dict[int, tuple[T, weakref.ref[UntypedStorage]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, weight: Tensor) -> T | None:
        """What was kept last for a tensor of this address."""
        found = self._kept.get(weight.data_ptr())
        return None if found is None else found[0]

    def keep(self, weight: Tensor, made: T) -> T:
        """`made`, which takes the place of what was kept before."""
        key, storage = weight.data_ptr(), weight.untyped_storage()
        self._kept[key] = made, weakref.ref(storage, partial(self._forget, key))
        return made

    def _forget(self, key: int, reference: "weakref.ref[UntypedStorage]") -> None:
        """The storage is gone; what a later one at the same address has kept stays."""
        found = self._kept.get(key)
        if found is not None and found[1] is reference:
            del self._kept[key]
