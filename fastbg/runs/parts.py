"""Stores the arrays of a long computation in a run folder part by part, to resume it."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.runs.store import RunStore

_ARRAY = "values"


class StoredParts(MutableMapping[str, NDArray[Any]]):
    """A mapping of names to arrays in a `RunStore`; each assignment is written to disk at once.

    Each part is a record and its array, stored in one transaction. A stored part cannot be deleted,
    nor changed (RunStoreError).
    """

    def __init__(self, store: RunStore, experiment: str, model: str) -> None:
        self._store, self._experiment, self._model = store, experiment, model

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise KeyError(name)
        return self._store.array(self._experiment, self._model, name, _ARRAY)

    def __setitem__(self, name: str, values: NDArray[Any]) -> None:
        with self._store.transaction():
            counts = {"values": int(np.size(values))}
            self._store.put(self._experiment, self._model, name, counts)
            self._store.put_array(self._experiment, self._model, name, _ARRAY, np.asarray(values))

    def __delitem__(self, name: str) -> None:
        raise TypeError("a part of a run folder is not deleted")

    def __contains__(self, name: object) -> bool:
        return name in self._store.done(self._experiment, self._model)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._store.done(self._experiment, self._model)))

    def __len__(self) -> int:
        return len(self._store.done(self._experiment, self._model))
