"""The run folder: every record of a run in one SQLite file, which survives a kill at any moment.

A record is committed and flushed to disk before `put` returns. A killed run leaves only committed
records; the same command then opens the store again, asks for `done`, and measures the rest.
"""

import json
import os
import platform
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fastbg.errors import FastbgError, InvalidArgument, RunStoreError
from fastbg.given_path import path_of
from fastbg.printable import printable
from fastbg.runs.inventory import IDENTITY, NOTES, Inventory, inspect, is_intact, name_of
from fastbg.runs.lock import FolderLock
from fastbg.runs.remedies import DAMAGED, reported
from fastbg.runs.tables import ARRAY, NEW, check_tables, flaw, make_tables
from fastbg.runs.values import Json, checksum, differences, listed
from fastbg.version import __version__

Value: TypeAlias = float | int | str | None

_REMEDY = "run.sqlite was changed or damaged; use a copy of it, or measure again in another folder"
_EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # it becomes the name of a CSV file


@dataclass(frozen=True)
class Record:
    """The values measured with one model on one item of one experiment."""

    experiment: str
    model: str
    item: str
    values: Mapping[str, Value]


class RunStore:
    """`run.sqlite` in a run folder, opened by `open` for writing or by `read` for reading."""

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, lock: FolderLock | None
    ) -> None:
        self.folder = folder
        self._connection = connection
        connection.text_factory = _text
        self._lock = lock
        self._made: list[Path] | None = None  # folders that `open` made; None: an older run
        self._in_transaction = False
        self._added = Inventory()  # in this transaction

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        config: Mapping[str, Json],
        *,
        seeds: Mapping[str, int] | None = None,
        manifest: Json = None,
        environment: Mapping[str, str] | None = None,
    ) -> "RunStore":
        """Create the run of this `config` in `folder`, or resume it.

        `config` holds all that decides the records, as JSON values; so do `seeds` and `manifest`.
        What belongs to one experiment only is better stored with `remember`. The versions of
        fastbg, torch, numpy, scipy, Pillow, Python and the platform, and `environment` (what else
        may change the last digits), are stored too; resuming under others is allowed and adds to
        `versions`.

        Raises RunStoreError if the folder holds a run of another configuration (naming each key
        that differs), lacks what was stored in it, another process has it open, or it cannot be
        written.
        """
        path = path_of("folder", folder)
        with reported(path):
            new = not (path / "run.sqlite").exists()
            made = [each for each in (path, *path.parents) if not each.exists()]
            path.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(path)
            try:
                _check_kind(path / "run.sqlite")
                connection = sqlite3.connect(path / "run.sqlite", timeout=5, isolation_level=None)
            except BaseException:
                lock.release()
                raise
        store = cls(path, connection, lock)
        store._made = made if new else None
        try:
            store._prepare()
            with reported(path):
                lock.watch("run.sqlite")
            store._check_rows()
            identity = {"config": config, "seeds": dict(seeds or {}), "manifest": manifest}
            store._settle(identity, environment or {})
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "RunStore":
        """Open the run in `folder` for reading, without a lock or a configuration.

        Raises RunStoreError if there is none, or it lacks what was stored in it.
        """
        path = path_of("folder", folder)
        file = path / "run.sqlite"
        with reported(path):
            there = file.is_file()
        if not there:
            raise RunStoreError(
                f"{printable(path)}: holds no run (no run.sqlite); expected the --out folder of "
                "fastbg run"
            )
        # Even a reader of a WAL database writes its index, unless it is opened as immutable.
        writable = os.access(path, os.W_OK, effective_ids=True)
        settled = not writable and not (path / "run.sqlite-wal").exists()
        options = "mode=ro&immutable=1" if settled else "mode=ro"
        with reported(path):
            uri = f"{file.resolve().as_uri()}?{options}"
            store = cls(path, sqlite3.connect(uri, uri=True, isolation_level=None), None)
        try:
            store._check_tables()
            store._check_rows()
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close. A new run that an error in its input ended before any result is removed.

        Otherwise its settings would bind the folder, and the corrected command would be refused.
        """
        lock = self._lock
        if isinstance(error, FastbgError) and lock is not None and lock.is_own and self._is_unused:
            self._remove(lock)
        else:
            self.close()

    @property
    def _is_unused(self) -> bool:
        """Whether `open` made this run, and nothing was measured."""
        if self._made is None:
            return False
        tables = "SELECT 1 FROM records UNION ALL SELECT 1 FROM arrays LIMIT 1"
        try:
            return not self._rows(tables)
        except RunStoreError:
            return False

    def _remove(self, lock: FolderLock) -> None:
        """Close, and remove what `open` made."""
        try:
            with reported(self.folder):
                self._connection.close()
                for name in ("run.sqlite", "run.sqlite-wal", "run.sqlite-shm", "run.lock"):
                    (self.folder / name).unlink(missing_ok=True)
        finally:
            lock.release()
        for folder in self._made or ():
            with suppress(OSError):  # others have written there
                folder.rmdir()

    def close(self) -> None:
        """Close the file and release the lock; a second call does nothing."""
        if self._lock is not None and not self._lock.is_own:
            _OF_PARENT.append(self._connection)
            return
        try:
            with reported(self.folder):
                self._connection.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    # The run's identity.

    @property
    def config(self) -> Json:
        """The configuration that the run was created with."""
        return self._meta("config")

    @property
    def seeds(self) -> dict[str, int]:
        """The seeds that the run was created with."""
        seeds: dict[str, int] = self._meta("seeds")
        return seeds

    @property
    def manifest(self) -> Json:
        """The manifest that the run was created with, None if there was none."""
        return self._meta("manifest")

    @property
    def versions(self) -> list[dict[str, str]]:
        """Versions of the packages that wrote to the run, oldest first; several if they changed."""
        versions: list[dict[str, str]] = self._meta("versions")
        return versions

    def remember(self, name: str, make: Callable[[], Json]) -> Json:
        """The JSON value stored as `name`; made and stored first if there is none yet.

        For values that must stay the same when the run resumes, such as the items of an experiment.
        """
        key = f"remember {name}"
        if not self._rows("SELECT 1 FROM meta WHERE key = ?", key):
            text = _dumps(name, make())
            with self.transaction():
                self._added.add(NOTES, self._put_meta(key, text))
        return self._meta(key)

    def remembered(self, prefix: str) -> list[str]:
        """The names of values stored by `remember` that begin with `prefix`."""
        rows = self._rows("SELECT key FROM meta ORDER BY key")
        names = [key.removeprefix("remember ") for (key,) in rows if key.startswith("remember ")]
        return [name for name in names if name.startswith(prefix)]

    # Records.

    def put(self, experiment: str, model: str, item: str, values: Mapping[str, Value]) -> None:
        """Store one record; on return it is on disk.

        Storing the same record again does nothing. Raises RunStoreError if the key is taken by
        other values or the folder cannot be written.
        """
        self.put_many([Record(experiment, model, item, values)])

    def put_many(self, records: Iterable[Record]) -> None:
        """Store all of these records or, on an error or a kill, none of them."""
        with self.transaction():
            for record in records:
                self._put(record)

    def put_array(
        self, experiment: str, model: str, item: str, name: str, array: NDArray[Any]
    ) -> None:
        """Store a small array beside a record: an attribution map, a crop, the bytes of a PNG.

        Write it in one `transaction` with the record, so that neither exists without the other.
        Taken names are handled as in `put`.
        """
        if array.dtype.hasobject or array.dtype.names:
            raise InvalidArgument("array", f"dtype {array.dtype}", "numbers or booleans")
        _check_key(experiment, model, item)
        key = (experiment, model, item, name)
        new = (array.dtype.str, json.dumps(array.shape), array.tobytes())
        digest = checksum(*key, *new)
        with self.transaction():
            if self._insert("arrays", *key, *new, digest):
                self._added.add(("arrays", experiment, model), digest)
            elif self._rows(ARRAY, *key)[0][:3] != new:
                raise self._error(f"array {key} is already stored with other contents")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything stored inside the block is committed at its end, or nothing."""
        if self._in_transaction:
            yield
            return
        if self._lock is not None:
            with reported(self.folder):
                self._lock.check()
        self._execute("BEGIN IMMEDIATE")
        self._in_transaction = True
        self._added = Inventory()
        try:
            yield
            self._count()
            self._execute("COMMIT")
        except BaseException:
            # After an error such as a full disk, SQLite may already have rolled back.
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise
        finally:
            self._in_transaction = False

    def done(self, experiment: str, model: str) -> set[str]:
        """The items that have a record."""
        rows = self._rows(
            "SELECT item FROM records WHERE experiment = ? AND model = ?", experiment, model
        )
        return {row[0] for row in rows}

    def records(self, experiment: str | None = None, model: str | None = None) -> list[Record]:
        """Records, of one experiment or model or of all, sorted by experiment, model and item."""
        rows = self._rows(
            "SELECT experiment, model, item, vals, checksum FROM records "
            "WHERE experiment = ifnull(?, experiment) AND model = ifnull(?, model) "
            "ORDER BY experiment, model, item",
            experiment,
            model,
        )
        return [Record(e, m, item, self._values(e, m, item, *rest)) for e, m, item, *rest in rows]

    def _values(self, experiment: str, model: str, item: str, text: str, stored: bytes) -> Any:
        """The values of a record; RunStoreError if its checksum differs."""
        if not is_intact(stored, experiment, model, item, text):
            raise self._changed(name_of("records", experiment, model, item))
        return json.loads(text)

    def _changed(self, *rows: str) -> RunStoreError:
        be, their = (
            ("is", "its checksum differs") if len(rows) == 1 else ("are", "checksums differ")
        )
        return self._error(f"{listed([*rows])} {be} not what was stored ({their}): {_REMEDY}")

    def _error(self, text: str) -> RunStoreError:
        return RunStoreError(f"{printable(self.folder)}: {text}")

    def arrays(self, experiment: str, model: str) -> set[tuple[str, str]]:
        """Item and name of each stored array."""
        rows = self._rows(
            "SELECT item, name FROM arrays WHERE experiment = ? AND model = ?", experiment, model
        )
        return set(rows)

    def array(self, experiment: str, model: str, item: str, name: str) -> NDArray[Any]:
        """The array that `put_array` stored; RunStoreError if there is none."""
        key = (experiment, model, item, name)
        rows = self._rows(ARRAY, *key)
        if not rows:
            raise self._error(f"no array is stored as {key}")
        dtype, shape, data, stored = rows[0]
        if not is_intact(stored, *key, dtype, shape, data=data):
            raise self._changed(name_of("arrays", *key))
        return np.frombuffer(data, dtype).reshape(json.loads(shape)).copy()

    # Inside.

    def _put(self, record: Record) -> None:
        _check_key(record.experiment, record.model, record.item)
        for name, value in record.values.items():
            if name in ("model", "item"):
                raise InvalidArgument("values", f"a value named {name!r}", "another name")
            if not (value is None or isinstance(value, (int, float, str))):
                raise InvalidArgument(
                    f"values[{name!r}]", type(value).__name__, "float, int, str or None"
                )
        key = (record.experiment, record.model, record.item)
        row = (*key, _dumps("values", dict(record.values)))
        digest = checksum(*row)
        if self._insert("records", *row, digest):
            self._added.add(("records", record.experiment, record.model), digest)
            return
        old = self._rows(
            "SELECT vals, checksum FROM records WHERE experiment = ? AND model = ? AND item = ?",
            *key,
        )
        wrong = differences(self._values(*key, *old[0]), dict(record.values))
        if wrong:
            raise self._error(f"record {key} is already stored with other values: {listed(wrong)}")

    def _prepare(self) -> None:
        """Make the tables of a new file, or check those of an old one."""
        empty = not self._rows("SELECT name FROM sqlite_master")
        if not empty:
            self._check_tables()
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits in WAL mode
        if empty:
            with self.transaction(), reported(self.folder):
                make_tables(self._connection)

    def _check_tables(self) -> None:
        with reported(self.folder):
            check_tables(self._connection, self.folder / "run.sqlite")

    def _settle(self, identity: Mapping[str, Json], environment: Mapping[str, str]) -> None:
        """Store the run's identity, or compare it with the stored one."""
        texts = {key: _dumps(key, value) for key, value in identity.items()}
        versions = {
            "fastbg": __version__,
            "torch": torch.__version__,
            **{name: version(name) for name in ("numpy", "scipy", "pillow")},
            "python": platform.python_version(),
            "platform": platform.platform(),
            **environment,
        }
        with self.transaction():
            if not self._rows("SELECT 1 FROM meta"):
                texts |= {"versions": json.dumps([versions])}
                for key, text in texts.items():
                    self._added.add(IDENTITY, self._put_meta(key, text))
                self._put_meta("counts", json.dumps(Inventory().stored()))
                return
            old = {key: self._meta(key) for key in texts}
            differing = differences(old, {key: json.loads(text) for key, text in texts.items()})
            if differing:
                raise self._error(
                    f"holds a run of another configuration: {listed(differing)}. Repeat that "
                    "configuration to resume it, or choose another folder"
                )
            known = self._meta("versions")
            if versions not in known:
                before = self._rows("SELECT checksum FROM meta WHERE key = 'versions'")[0][0]
                after = self._put_meta("versions", json.dumps([*known, versions]))
                self._added.add(IDENTITY, after, replaced=before)

    def _count(self) -> None:
        """Store the new inventory, in the transaction that adds rows."""
        if self._added != Inventory():
            whole = Inventory.from_stored(self._meta("counts"))
            whole.update(self._added)
            self._put_meta("counts", json.dumps(whole.stored()))

    def _check_rows(self) -> None:
        """RunStoreError if rows were changed, or are missing, added or exchanged."""
        self._execute("BEGIN")  # read all in one snapshot, as another process may write
        try:
            with reported(self.folder):
                found, changed = inspect(self._connection)
                flawed = flaw(self._connection)
            if changed:
                raise self._changed(*changed)
            if flawed:
                raise self._error(f"{flawed}; {DAMAGED}")
            if found == Inventory() and not self._rows("SELECT 1 FROM meta"):
                return  # killed before the identity was stored
            wrong = Inventory.from_stored(self._meta("counts")).differences(found)
        finally:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
        if wrong:
            raise self._error(f"does not hold what was stored ({listed(wrong)}): {_REMEDY}")

    def _meta(self, key: str) -> Json:
        rows = self._rows("SELECT value, checksum FROM meta WHERE key = ?", key)
        if not rows:
            raise self._error(f"{name_of('meta', key)} is missing: {_REMEDY}")
        value, stored = rows[0]
        if not is_intact(stored, key, value):
            raise self._changed(name_of("meta", key))
        return json.loads(value)

    def _put_meta(self, key: str, text: str) -> bytes:
        digest = checksum(key, text)
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", key, text, digest)
        return digest

    def _rows(self, query: str, *values: Value) -> list[Any]:
        with reported(self.folder):
            return self._connection.execute(query, values).fetchall()

    def _insert(self, table: str, *row: Value | bytes) -> bool:
        """Add a row; False, and nothing added, if its key is taken."""
        with reported(self.folder):
            return self._connection.execute(NEW[table], row).rowcount == 1

    def _write(self, statement: str, *values: Value | bytes) -> None:
        with reported(self.folder):
            self._connection.execute(statement, values)

    def _execute(self, statement: str) -> None:
        self._write(statement)


def _check_kind(file: Path) -> None:
    if file.exists() and not file.is_file():
        raise RunStoreError(
            f"{printable(file)}: is no regular file; expected a run, or nothing: choose another "
            "folder"
        )


def _text(data: bytes) -> str:
    """What is no UTF-8 was not written by fastbg: its checksum will tell."""
    return data.decode("utf-8", "surrogateescape")


def _check_key(experiment: str, model: str, item: str) -> None:
    if not _EXPERIMENT_NAME.fullmatch(experiment):
        raise InvalidArgument("experiment", repr(experiment), "letters, digits, '_', '.', '-'")
    for name, value in {"model": model, "item": item}.items():
        if not value:
            raise InvalidArgument(name, repr(value), "a name")


def _dumps(argument: str, value: Json) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(argument, str(error), "values that JSON can hold") from error


_OF_PARENT: list[sqlite3.Connection] = []  # of forked processes; closing them would change the file
