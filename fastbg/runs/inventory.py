"""What a run store should hold: the number of rows of each kind, and a digest of all of them.

Checksums protect each row by itself. What they cannot show is a row that is missing, or one that
was copied from another run, together with its checksum, in the place of this run's own.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Kind: TypeAlias = tuple[str, str, str]  # "records", experiment, model; "notes" and "identity"

IDENTITY: Kind = ("identity", "", "")
NOTES: Kind = ("notes", "", "")
ROWS = """
    SELECT 'records', experiment, model, checksum FROM records
    UNION ALL SELECT 'arrays', experiment, model, checksum FROM arrays
    UNION ALL SELECT CASE WHEN key LIKE 'remember %' THEN 'notes' ELSE 'identity' END, '', '',
        checksum FROM meta WHERE key <> 'counts'"""


@dataclass
class Inventory:
    """Numbers of rows, and the exclusive or of their checksums.

    Runs that fastbg began before it stored digests have none (`digests` is None): only numbers of
    their rows are known, and none of their identity.
    """

    numbers: Counter[Kind] = field(default_factory=Counter)
    digests: Counter[Kind] | None = field(default_factory=Counter)

    def add(self, kind: Kind, checksum: bytes, replaced: bytes | None = None) -> None:
        """A row of `kind` was written, in the place of one with the checksum `replaced`."""
        if replaced is None:
            self.numbers[kind] += 1
        if self.digests is not None:
            self.digests[kind] ^= _number(checksum) ^ _number(replaced or b"")

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

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, str, str, bytes]]) -> "Inventory":
        """The inventory of the result of `ROWS`."""
        found = cls()
        for *kind, checksum in rows:
            found.add((kind[0], kind[1], kind[2]), checksum)
        return found

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


def _number(checksum: bytes) -> int:
    """A checksum as a number; of one that was replaced by something else, that of its text."""
    data = checksum if isinstance(checksum, bytes) else str(checksum).encode()
    return int.from_bytes(data, "little")
