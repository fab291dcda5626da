"""What a run store should hold: the number of rows of each kind, and a digest of all of them.

Checksums protect each row by itself. What they cannot show is a row that is missing, or one that
was copied from another run, together with its checksum, in the place of this run's own.

All rows are read when a run is opened, pictures too: a row whose key was changed would otherwise
look as if nothing had been stored, and be measured again.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fastbg.runs.values import checksum

Kind: TypeAlias = tuple[str, str, str]  # "records", experiment, model; "notes" and "identity"

IDENTITY: Kind = ("identity", "", "")
NOTES: Kind = ("notes", "", "")
_RECORDS = "SELECT experiment, model, item, vals, checksum FROM records"
_ARRAYS = "SELECT experiment, model, item, name, dtype, shape, data, checksum FROM arrays"


@dataclass
class Inventory:
    """Numbers of rows, and the exclusive or of their checksums.

    Runs that fastbg began before it stored digests have none (`digests` is None): only numbers of
    their rows are known, and none of their identity.
    """

    numbers: Counter[Kind] = field(default_factory=Counter)
    digests: Counter[Kind] | None = field(default_factory=Counter)

    def add(self, kind: Kind, written: bytes, replaced: bytes = b"") -> None:
        """A row with the checksum `written` is there, in the place of one with `replaced`."""
        if not replaced:
            self.numbers[kind] += 1
        if self.digests is not None:
            for each in (written, replaced):
                self.digests[kind] ^= int.from_bytes(each, "little")

    def update(self, added: "Inventory") -> None:
        """Add the rows of `added`, which has digests."""
        for kind, number in added.numbers.items():
            self.numbers[kind] += number
        if self.digests is None:
            self.numbers.pop(IDENTITY, None)
            return
        for kind, digest in (added.digests or Counter()).items():
            self.digests[kind] ^= digest

    def stored(self) -> list[list[Any]]:
        """As JSON values; `from_stored` reads them."""
        if self.digests is None:
            return [[*kind, number] for kind, number in sorted(self.numbers.items())]
        return [
            [*kind, self.numbers[kind], f"{self.digests[kind]:032x}"]
            for kind in sorted({*self.numbers, *self.digests, IDENTITY})
        ]

    @classmethod
    def from_stored(cls, values: Sequence[Sequence[Any]]) -> "Inventory":
        """The inventory that `stored` gave."""
        numbers: Counter[Kind] = Counter({(k, e, m): n for k, e, m, n, *_ in values})
        if not all(len(value) == 5 for value in values) or not values:
            return cls(numbers, None)
        return cls(numbers, Counter({(k, e, m): int(told, 16) for k, e, m, _, told in values}))

    def differences(self, found: "Inventory") -> list[str]:
        """A text for each kind of which `found` holds fewer, more or other rows than this."""
        texts = []
        for kind in sorted({*self.numbers, *found.numbers}):
            if self.digests is None and kind == IDENTITY:
                continue
            name = " ".join(filter(None, kind))
            expected, there = self.numbers[kind], found.numbers[kind]
            if expected != there:
                texts.append(f"{name}: {expected} stored, {there} found")
            elif (
                self.digests is not None
                and self.digests[kind] != (found.digests or Counter())[kind]
            ):
                texts.append(f"{name}: other ones than were stored, such as another run's")
        return texts


def is_intact(stored: object, *texts: object, data: object = None) -> bool:
    """Whether the row that has the checksum `stored` is as it was written.

    SQLite would also hold bytes in the place of a text, with the same checksum: another key.
    """
    parts: list[str | bytes] = [text for text in texts if isinstance(text, str)]
    if len(parts) != len(texts) or not isinstance(stored, bytes):
        return False
    if isinstance(data, bytes):
        parts.append(data)
    elif data is not None:
        return False
    return checksum(*parts) == stored


def name_of(table: str, *key: object) -> str:
    """A row of a table, for messages."""
    if table == "meta":
        return f"what it says of {str(key[0]).removeprefix('remember ')}"
    return f"{table.removesuffix('s')} {key}"


def inspect(connection: sqlite3.Connection) -> tuple[Inventory, list[str]]:
    """What all rows amount to, and the names of those that are not as they were written."""
    found, changed = Inventory(), []
    for experiment, model, item, values, stored in connection.execute(_RECORDS):
        if is_intact(stored, experiment, model, item, values):
            found.add(("records", experiment, model), stored)
        else:
            changed.append(name_of("records", experiment, model, item))
    for experiment, model, item, name, dtype, shape, data, stored in connection.execute(_ARRAYS):
        if is_intact(stored, experiment, model, item, name, dtype, shape, data=data):
            found.add(("arrays", experiment, model), stored)
        else:
            changed.append(name_of("arrays", experiment, model, item, name))
    for key, value, stored in connection.execute("SELECT key, value, checksum FROM meta"):
        if not is_intact(stored, key, value):
            changed.append(name_of("meta", key))
        elif key != "counts":
            found.add(NOTES if key.startswith("remember ") else IDENTITY, stored)
    return found, changed
