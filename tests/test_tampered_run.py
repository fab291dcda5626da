"""A run that somebody changed, or a disk: every command that opens it names what, and stops.

Nothing is measured again, and no report, table or file is written from it.
"""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from small_run import OPTIONS, make_images, make_network

from fastbg.cli import main
from fastbg.errors import RunStoreError
from fastbg.runs import RunStore
from fastbg.runs.result import RunResult

# What is done to run.sqlite, and what is said of it. ONE: the first item of table1.
ROWS = {
    "another value": (
        "UPDATE records SET vals = replace(vals, '1', '2') WHERE item = ONE",
        r"record \('table1', '\S+', '\S+'\) is not what was stored",
    ),
    "bytes for values": (
        "UPDATE records SET vals = CAST(vals AS BLOB) WHERE item = ONE",
        r"record \('table1', '\S+', '\S+'\) is not what was stored",
    ),
    "no text": (
        "UPDATE records SET vals = CAST(x'7BFF7D' AS TEXT) WHERE item = ONE",
        r"record \('table1', '\S+', '\S+'\) is not what was stored",
    ),
    "two records exchanged": (
        "UPDATE records SET (vals, checksum) = (SELECT o.vals, o.checksum FROM records AS o WHERE "
        "o.experiment = records.experiment AND o.item <> records.item ORDER BY o.item LIMIT 1) "
        "WHERE experiment = 'table1' AND item = ONE",
        r"record \('table1', '\S+', '\S+'\) is not what was stored",
    ),
    "a record of another name": (
        "UPDATE records SET item = 'elsewhere' WHERE item = ONE",
        r"record \('table1', '\S+', 'elsewhere'\) is not what was stored",
    ),
    "an item as bytes": (
        "UPDATE records SET item = CAST(item AS BLOB) WHERE item = ONE",
        r"record \('table1', '\S+', b'\S+'\) is not what was stored",
    ),
    "networks as bytes": (
        "UPDATE records SET model = CAST(model AS BLOB) WHERE experiment = 'slicing'",
        r"record \('slicing', b'\S+', '\S+'\); .* are not what was stored",
    ),
    "an experiment as bytes": (
        "UPDATE records SET experiment = CAST(experiment AS BLOB) WHERE experiment = 'slicing'",
        r"record \(b'slicing', '\S+', '\S+'\); .* are not what was stored",
    ),
    "a record less": (
        "DELETE FROM records WHERE item = ONE",
        r"records table1 \S+: 25 stored, 24 found",
    ),
    "a record more": (
        "INSERT INTO records SELECT * FROM other.records WHERE item NOT IN (SELECT item FROM "
        "records)",
        r"records table1 \S+: 25 stored, \d+ found",
    ),
    "no records": ("DELETE FROM records", r"records slicing \S+: 6 stored, 0 found"),
    "another checksum": (
        "UPDATE records SET checksum = zeroblob(16) WHERE item = ONE",
        r"record \('table1', '\S+', '\S+'\) is not what was stored",
    ),
    "a number for a checksum": (
        "UPDATE records SET checksum = 17 WHERE item = ONE",
        r"record \('table1', '\S+', '\S+'\) is not what was stored",
    ),
    "another picture": (
        "UPDATE arrays SET data = zeroblob(length(data)) WHERE name = 'hr'",
        r"array \('\w+', '\S+', '\S+', 'hr'\)",
    ),
    "a picture of another name": (
        "UPDATE arrays SET name = 'aside' WHERE name = 'hr'",
        r"array \('\w+', '\S+', '\S+', 'aside'\)",
    ),
    "text for numbers": (
        "UPDATE arrays SET data = CAST(x'41424344' AS TEXT) WHERE name = 'mse_whole'",
        r"array \('slicing', '\S+', '\S+', 'mse_whole'\)",
    ),
    "a picture less": (
        "DELETE FROM arrays WHERE rowid = (SELECT max(rowid) FROM arrays WHERE name = 'hr')",
        r"arrays slicing \S+: 26 stored, 25 found",
    ),
    "another option": (
        "UPDATE meta SET value = replace(value, '64', '32') WHERE key = 'remember options table1'",
        "what it says of options table1 is not what was stored",
    ),
    "an option's name as bytes": (
        "UPDATE meta SET key = CAST(key AS BLOB) WHERE key = 'remember options table1'",
        "what it says of b'remember options table1' is not what was stored",
    ),
    "options of another experiment": (
        "INSERT INTO meta SELECT 'remember options ring', value, checksum FROM meta "
        "WHERE key = 'remember options table1'",
        "what it says of options ring is not what was stored",
    ),
    "another plan": (
        "REPLACE INTO meta SELECT * FROM other.meta WHERE key = 'remember plan table1'",
        "notes: other ones than were stored",
    ),
    "another seed": (
        "REPLACE INTO meta SELECT * FROM other.meta WHERE key = 'seeds'",
        "identity: other ones than were stored",
    ),
    "another configuration": (
        "UPDATE meta SET value = replace(value, 'float32', 'float16') WHERE key = 'config'",
        "what it says of config is not what was stored",
    ),
    "no configuration": ("DELETE FROM meta", "what it says of counts is missing"),
    "no table": ("DROP TABLE arrays", r"not those that fastbg made \(no table arrays\)"),
    "a column more": (
        "ALTER TABLE records ADD COLUMN more TEXT",
        r"not those that fastbg made \(records has more TEXT; expected no such\)",
    ),
    "a column of another name": (
        "ALTER TABLE records RENAME COLUMN vals TO numbers",
        "records has numbers TEXT NOT NULL; expected vals TEXT NOT NULL",
    ),
    "a trigger": (
        "CREATE TRIGGER forget AFTER INSERT ON records BEGIN DELETE FROM records; END",
        "a trigger 'forget', expected none",
    ),
    "an older schema": ("PRAGMA user_version = 2", "has schema 2, written by an older fastbg"),
    "a newer schema": ("PRAGMA user_version = 9", "has schema 9, written by a newer fastbg"),
    "another program's file": ("PRAGMA application_id = 0", "is not a run of fastbg"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a network, a run and one with another seed."""
    folder = tmp_path_factory.mktemp("tampered")
    make_images(folder / "images", 6)
    make_network(folder / "net.safetensors")
    for name, seed in (("run", "0"), ("other", "4")):
        assert main([*resumed(folder, folder / name), "--seed", seed]) == 0
    return folder


def resumed(place: Path, run: Path) -> list[str]:
    """The command that measures the run."""
    given = ["--data", str(place / "images"), "--model", str(place / "net.safetensors")]
    return ["run", "slicing", "table1", *given, *OPTIONS, "--out", str(run)]


def changed(place: Path, run: Path, change: str) -> None:
    shutil.copytree(place / "run", run)
    with closing(sqlite3.connect(run / "run.sqlite")) as connection:
        connection.execute("ATTACH ? AS other", (str(place / "other" / "run.sqlite"),))
        one = "(SELECT min(item) FROM records WHERE experiment = 'table1')"
        with connection:
            assert connection.execute(change.replace("ONE", one)).rowcount


def written(run: Path) -> dict[str, bytes]:
    """All files but the lock, and what SQLite keeps beside its file."""
    beside = ("run.lock", "run.sqlite-shm", "run.sqlite-wal")
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in beside)
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def refused(command: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that says what is wrong in the run's folder."""
    capsys.readouterr()
    assert main(command) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"fastbg: {run}")
    return message


@pytest.mark.parametrize("name", ROWS)
def test_every_command_names_what_was_changed(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = tmp_path / "run", tmp_path / "table.csv"
    change, named = ROWS[name]
    changed(place, run, change)
    before = written(run)
    again = resumed(place, run)
    compared = ["compare", str(place / "run"), str(run), "--csv", str(table)]
    for command in (["report", str(run)], again, [*again, "--dry-run"], compared):
        assert re.search(named, refused(command, run, capsys))
    result = RunResult(run / "report.html", ["table1"])
    for look in (lambda: result.verdicts, lambda: result.records("table1")):
        with pytest.raises(RunStoreError, match=named):
            look()
    assert written(run) == before
    assert not table.exists()


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "half of it": (lambda data: data[: len(data) // 2], "malformed; run.sqlite is damaged"),
    "a page less": (lambda data: data[:-4096], "malformed; run.sqlite is damaged"),
    "its header": (lambda data: data[:100], "malformed; run.sqlite is damaged"),
    "zeros": (lambda data: bytes(len(data)), "not a database; run.sqlite is damaged"),
    "text": (lambda data: b"text" * 1000, "not a database; run.sqlite is damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_command_names_a_damaged_file(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    damage, named = FILES[name]
    data = damage((run / "run.sqlite").read_bytes())
    (run / "run.sqlite").write_bytes(data)
    before = written(run)
    compared = ["compare", str(run), str(place / "run")]
    for command in (["report", str(run)], resumed(place, run), compared):
        assert named in refused(command, run, capsys)
    assert written(run) == before


def read_all(run: Path) -> tuple[object, ...]:
    """Everything that fastbg reads of a run."""
    with RunStore.read(run) as store:
        records = store.records()
        keys = sorted({(record.experiment, record.model) for record in records})
        arrays = {
            (*key, *place): (array.dtype, array.shape, array.tobytes())
            for key in keys
            for place in sorted(store.arrays(*key))
            for array in [store.array(*key, *place)]
        }
        notes = {name: store.remember(name, dict) for name in store.remembered("")}
        done = {key: store.done(*key) for key in keys}
        return repr(records), arrays, notes, done, store.config, store.seeds, store.versions


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with a bit turned over, mostly in what orders the rows, or parts lost or exchanged."""
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    kind = rng.choice(["bit", "tree", "tree", "sector", "exchange", "cut"])
    place = int(rng.integers(len(data)))
    if kind == "cut":
        return data[:place]
    if kind == "exchange":
        one, two = rng.choice(len(pages), 2, replace=False)
        pages[one], pages[two] = pages[two], pages[one]
        return b"".join(pages)
    if kind == "sector":
        start = place // 512 * 512
        return data[:start] + bytes(512) + data[start + 512 :]
    if kind == "tree":
        trees = [i for i, page in enumerate(pages) if page[0] in (2, 5, 10, 13)]
        place = int(4096 * rng.choice(trees) + rng.integers(rng.choice([60, 4096])))
    return data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :]


def test_a_damage_is_refused_or_changes_nothing(place: Path, tmp_path: Path) -> None:
    whole, data = read_all(place / "run"), (place / "run" / "run.sqlite").read_bytes()
    rng, refusals = np.random.default_rng(1), 0
    for _ in range(300):
        for file in tmp_path.iterdir():
            file.unlink()
        (tmp_path / "run.sqlite").write_bytes(damaged(data, rng))
        try:
            assert read_all(tmp_path) == whole
        except RunStoreError:
            refusals += 1
    assert 150 < refusals < 300
