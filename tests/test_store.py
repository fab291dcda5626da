"""The run store: exact values, checksums, resuming, and errors that help."""

import math
import os
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from fastbg.errors import InvalidArgument, RunStoreError
from fastbg.runs import Record, RunStore
from fastbg.runs.values import checksum

CONFIG = {"models": ["edsr"], "scale": 4, "lam": {"steps": 50}}
ODD_FLOATS = [math.pi, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 1e23, math.inf, -math.inf]


def bits(value: object) -> bytes:
    assert isinstance(value, float)
    return struct.pack("<d", value)


class TestRecords:
    def test_records_come_back_sorted_whatever_the_order_they_were_put_in(
        self, tmp_path: Path
    ) -> None:
        keys = [(e, m, i) for e in ("lam", "table1") for m in ("edsr", "rcan") for i in "abc"]
        shuffled = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
        with RunStore.open(tmp_path, CONFIG) as store:
            for key in shuffled:
                store.put(*key, {"psnr": 1.5})
            everything = store.records()
            assert [(r.experiment, r.model, r.item) for r in everything] == keys
            assert store.records("lam") == everything[:6]
            assert store.records(model="rcan") == everything[3:6] + everything[9:]
            assert store.done("lam", "edsr") == {"a", "b", "c"}
            assert store.done("lam", "swinir") == set()

    def test_floats_survive_bit_for_bit(self, tmp_path: Path) -> None:
        patterns = np.random.default_rng(0).integers(0, 2**64, 2000, dtype=np.uint64)
        floats = [f for f in patterns.view(np.float64).tolist() if not math.isnan(f)] + ODD_FLOATS
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put_many(Record("e", "m", f"{i:04}", {"v": v}) for i, v in enumerate(floats))
        with RunStore.read(tmp_path) as store:
            stored = [record.values["v"] for record in store.records()]
        assert [bits(value) for value in stored] == [bits(value) for value in floats]

    def test_other_values_keep_their_type(self, tmp_path: Path) -> None:
        values = {"n": 2**60, "name": "Größe\n,\"'", "none": None, "nan": math.nan, "one": 1.0}
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put("e", "m", "i", values)
            stored = dict(store.records()[0].values)
        assert math.isnan(stored.pop("nan"))
        assert stored == {name: value for name, value in values.items() if name != "nan"}
        assert isinstance(stored["one"], float)
        assert isinstance(stored["n"], int)

    def test_the_same_record_twice_is_stored_once(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put("e", "m", "i", {"a": 1.5, "b": math.nan})
            store.put("e", "m", "i", {"b": math.nan, "a": 1.5})
            assert len(store.records()) == 1

    def test_another_value_for_a_taken_key_is_an_error(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put("e", "m", "i", {"a": 1.5, "b": 2.0})
            with pytest.raises(
                RunStoreError, match=r"'i'.*other values: a: stored 1\.5, now 1\.6$"
            ):
                store.put("e", "m", "i", {"a": 1.6, "b": 2.0})
            assert store.records()[0].values == {"a": 1.5, "b": 2.0}

    def test_a_batch_is_stored_whole_or_not_at_all(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put("e", "m", "2", {"a": 0.0})
            batch = [Record("e", "m", str(i), {"a": 1.0}) for i in range(4)]
            with pytest.raises(RunStoreError, match="already stored"):
                store.put_many(batch)
            assert store.done("e", "m") == {"2"}
            store.put_many([*batch[:2], *batch[3:]])  # the store goes on after the failure
            assert store.done("e", "m") == {"0", "1", "2", "3"}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("", "m", "i", {}), "experiment: got ''"),
            (("../up", "m", "i", {}), r"experiment: got '\.\./up'"),
            (("e", "", "i", {}), "model: got ''"),
            (("e", "m", "", {}), "item: got ''"),
            (("e", "m", "i", {"model": 1.0}), "values: got a value named 'model'"),
            (("e", "m", "i", {"psnr": np.float32(1)}), r"values\['psnr'\]: got float32; expected"),
        ],
    )
    def test_bad_records_are_refused(
        self, tmp_path: Path, arguments: tuple[str, str, str, dict[str, float]], message: str
    ) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            with pytest.raises(InvalidArgument, match=message):
                store.put(*arguments)
            assert store.records() == []


class TestArrays:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64, np.bool_])
    @pytest.mark.parametrize("shape", [(), (0, 3), (4, 5, 3)])
    def test_arrays_survive(self, tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
        array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put_array("lam", "edsr", "i", "map", array)
            store.put_array("lam", "edsr", "i", "map", array)
            stored = store.array("lam", "edsr", "i", "map")
        assert stored.dtype == array.dtype
        np.testing.assert_array_equal(stored, array)
        assert stored.flags.writeable

    def test_strided_arrays_are_stored_as_they_look(self, tmp_path: Path) -> None:
        array = np.arange(24.0).reshape(4, 6)[::2, ::-1].T
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put_array("lam", "edsr", "i", "map", array)
            np.testing.assert_array_equal(store.array("lam", "edsr", "i", "map"), array)

    def test_what_cannot_be_stored_or_found(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            with pytest.raises(InvalidArgument, match="array: got dtype object"):
                store.put_array("lam", "edsr", "i", "map", np.array([{}]))
            with pytest.raises(RunStoreError, match=r"no array is stored as .*'map'"):
                store.array("lam", "edsr", "i", "map")
            store.put_array("lam", "edsr", "i", "map", np.zeros(3))
            with pytest.raises(RunStoreError, match="already stored with other contents"):
                store.put_array("lam", "edsr", "i", "map", np.ones(3))


def read_all(store: RunStore) -> tuple[object, ...]:
    values = store.records()[0].values
    array = store.array("e", "m", "i", "map").tolist()
    return store.config, store.remember("plan", list), values, array


class TestChecksums:
    """What was changed in the file behind fastbg's back is named, and never shown as a result."""

    CHANGES = (
        ("UPDATE records SET vals = replace(vals, '1.25', '1.35')", r"record \('e', 'm', 'i'\)"),
        ("UPDATE records SET vals = 'no JSON'", r"record \('e', 'm', 'i'\)"),
        ("UPDATE records SET item = 'j'", r"record \('e', 'm', 'j'\)"),
        ("UPDATE arrays SET data = zeroblob(24)", r"array \('e', 'm', 'i', 'map'\)"),
        ("UPDATE arrays SET shape = '[1, 3]'", r"array \('e', 'm', 'i', 'map'\)"),
        ("UPDATE meta SET value = '{}' WHERE key = 'config'", "what it says of config"),
        ("UPDATE meta SET value = '[2]' WHERE key = 'remember plan'", "what it says of plan"),
    )

    @pytest.mark.parametrize(("change", "named"), CHANGES)
    def test_a_change_is_named(self, tmp_path: Path, change: str, named: str) -> None:
        with RunStore.open(tmp_path, CONFIG) as store, store.transaction():
            store.remember("plan", lambda: [1])
            store.put("e", "m", "i", {"psnr": 1.25})
            store.put_array("e", "m", "i", "map", np.ones(3))
        with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
            assert connection.execute(change).rowcount == 1
        for open_again in (RunStore.read, lambda folder: RunStore.open(folder, CONFIG)):
            with pytest.raises(RunStoreError, match=rf"{named} is not what was stored"):
                open_again(tmp_path)

    @pytest.mark.parametrize(("change", "named"), CHANGES)
    def test_a_change_while_the_run_is_read_is_named(
        self, tmp_path: Path, change: str, named: str
    ) -> None:
        with RunStore.open(tmp_path, CONFIG) as store, store.transaction():
            store.remember("plan", lambda: [1])
            store.put("e", "m", "i", {"psnr": 1.25})
            store.put_array("e", "m", "i", "map", np.ones(3))
        with RunStore.read(tmp_path) as store:
            with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
                assert connection.execute(change).rowcount == 1
            with pytest.raises(RunStoreError, match=named):
                read_all(store)

    DELETIONS = (
        ("DELETE FROM records WHERE item = '1'", "records e m: 3 stored, 2 found"),
        ("DELETE FROM records", "records e m: 3 stored, 0 found; records e n: 1 stored, 0 found"),
        ("DELETE FROM arrays", "arrays e m: 1 stored, 0 found"),
        ("DELETE FROM meta WHERE key = 'remember plan'", "notes: 1 stored, 0 found"),
        ("DELETE FROM meta WHERE key = 'counts'", "what it says of counts"),
        ("DELETE FROM meta WHERE key = 'config'", "identity: 4 stored, 3 found"),
        (
            "UPDATE records SET checksum = 'none' WHERE item = '1'",
            r"record \('e', 'm', '1'\) is not what was stored",
        ),
        ("DELETE FROM meta", "what it says of counts is missing"),
        ("UPDATE meta SET value = '[]' WHERE key = 'counts'", "what it says of counts"),
        (
            "INSERT INTO records SELECT 'f', model, item, vals, checksum FROM records "
            "WHERE model = 'n'",
            r"record \('f', 'n', '0'\) is not what was stored",
        ),
    )

    @pytest.mark.parametrize(("change", "named"), DELETIONS)
    def test_what_is_missing_is_noticed(self, tmp_path: Path, change: str, named: str) -> None:
        """By who resumes and by who only looks; nothing is measured again unasked."""
        with RunStore.open(tmp_path, CONFIG) as store:
            store.remember("plan", lambda: [1])
            for item in "012":
                store.put("e", "m", item, {"psnr": 1.25})
            store.put("e", "n", "0", {"psnr": 1.25})
            store.put_array("e", "m", "0", "map", np.ones(3))
        with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
            assert connection.execute(change).rowcount > 0
        for open_again in (RunStore.read, lambda folder: RunStore.open(folder, CONFIG)):
            with pytest.raises(RunStoreError, match=named):
                open_again(tmp_path)

    COPIES = (
        ("records", "records e m: other ones than were stored"),
        ("arrays", "arrays e m: other ones than were stored"),
        ("meta WHERE key = 'remember plan'", "notes: other ones than were stored"),
        ("meta WHERE key = 'seeds'", "identity: other ones than were stored"),
        ("meta WHERE key = 'config'", "identity: other ones than were stored"),
        ("meta WHERE key = 'counts'", "arrays e m: other ones than were stored"),
    )

    @pytest.mark.parametrize(("rows", "named"), COPIES)
    def test_what_was_copied_from_another_run_is_named(
        self, tmp_path: Path, rows: str, named: str
    ) -> None:
        """With its checksum, which fits: it has the same names, of the same items."""
        for number, config in enumerate(({"a": 1}, {"a": 2})):
            folder = tmp_path / str(number)
            with RunStore.open(folder, config, seeds={"seed": number}) as store:
                store.remember("plan", lambda number=number: [number])
                store.put("e", "m", "i", {"psnr": 1.25 + number})
                store.put_array("e", "m", "i", "map", np.full(3, number))
        with closing(sqlite3.connect(tmp_path / "0" / "run.sqlite")) as connection, connection:
            connection.execute("ATTACH ? AS other", (str(tmp_path / "1" / "run.sqlite"),))
            table = rows.split()[0]
            connection.execute(f"REPLACE INTO {table} SELECT * FROM other.{rows}")  # noqa: S608
        for open_again in (RunStore.read, lambda f: RunStore.open(f, {"a": 1}, seeds={"seed": 0})):
            with pytest.raises(RunStoreError, match=named):
                open_again(tmp_path / "0")
        with RunStore.read(tmp_path / "1") as other:
            assert other.records()[0].values == {"psnr": 2.25}

    def test_a_run_from_before_there_were_digests_is_read_and_resumed(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            store.put("e", "m", "i", {"psnr": 1.25})
        text = '[["records", "e", "m", 1]]'
        with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
            row = (text, checksum("counts", text))
            connection.execute("UPDATE meta SET value = ?, checksum = ? WHERE key = 'counts'", row)
            connection.execute("PRAGMA user_version = 3")
        with RunStore.open(tmp_path, CONFIG, environment={"another": "one"}) as store:
            store.put("e", "m", "j", {"psnr": 1.5})
            store.remember("plan", lambda: [1])
        with RunStore.read(tmp_path) as store:
            assert [record.item for record in store.records()] == ["i", "j"]
            assert len(store.versions) == 2
        with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
            connection.execute("DELETE FROM records WHERE item = 'j'")
        with pytest.raises(RunStoreError, match="records e m: 2 stored, 1 found"):
            RunStore.read(tmp_path)

    def test_what_was_rolled_back_is_not_missed(self, tmp_path: Path) -> None:
        """Nor what is stored twice, alone or in a transaction around others."""
        with RunStore.open(tmp_path, CONFIG) as store:
            batch = [Record("e", "m", "0", {"psnr": 1.0}), Record("e", "m", "", {})]
            with pytest.raises(InvalidArgument, match="item"):
                store.put_many(batch)
            for _ in range(2):
                with store.transaction():
                    store.put_array("e", "m", "1", "map", np.ones(3))
                    store.put("e", "m", "1", {"psnr": 1.0})
                store.put("e", "m", "2", {"psnr": 1.0})
        RunStore.open(tmp_path, CONFIG).close()
        with RunStore.read(tmp_path) as store:
            assert store.done("e", "m") == {"1", "2"}

    def test_who_looks_while_another_stores_misses_nothing(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store:
            for item in range(20):
                store.put("e", "m", str(item), {"psnr": 1.0})
                with RunStore.read(tmp_path) as reader:
                    assert len(reader.done("e", "m")) == item + 1

    def test_a_store_that_was_killed_before_it_knew_its_run(self, tmp_path: Path) -> None:
        RunStore.open(tmp_path, CONFIG).close()
        with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
            connection.execute("DELETE FROM meta")  # as it is between two commits
        RunStore.read(tmp_path).close()
        with RunStore.open(tmp_path, CONFIG) as store:
            assert store.config == CONFIG

    def test_an_unchanged_run_is_read(self, tmp_path: Path) -> None:
        with RunStore.open(tmp_path, CONFIG) as store, store.transaction():
            store.remember("plan", lambda: [1])
            store.put("e", "m", "i", {"psnr": 1.25})
            store.put_array("e", "m", "i", "map", np.ones(3))
        with RunStore.read(tmp_path) as store:
            assert read_all(store) == (CONFIG, [1], {"psnr": 1.25}, [1, 1, 1])

    def test_parts_of_a_checksum_do_not_run_together(self) -> None:
        assert checksum("ab", "c") != checksum("a", "bc")
        assert checksum("a") != checksum("a", "")


class TestWhatTheRunIs:
    def test_identity_is_stored_and_a_resumed_run_keeps_it(self, tmp_path: Path) -> None:
        manifest = {"sub_images": [{"item": "a", "y": 0}]}
        for _ in range(2):
            with RunStore.open(tmp_path, CONFIG, seeds={"draw": 3}, manifest=manifest) as store:
                assert store.config == CONFIG
                assert store.seeds == {"draw": 3}
                assert store.manifest == manifest
                assert len(store.versions) == 1
                names = {"fastbg", "torch", "numpy", "scipy", "pillow", "python", "platform"}
                assert set(store.versions[0]) == names

    def test_another_configuration_is_refused_by_key(self, tmp_path: Path) -> None:
        RunStore.open(tmp_path, CONFIG, seeds={"draw": 3}).close()
        other = {"models": ["rcan"], "lam": {"steps": 100}, "limit": 5}
        with pytest.raises(RunStoreError) as caught:
            RunStore.open(tmp_path, other, seeds={"draw": 4})
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}: holds a run of another configuration: ")
        for part in (
            'config.models.0: stored "edsr", now "rcan"',
            "config.scale: stored 4, now nothing",
            "config.lam.steps: stored 50, now 100",
            "config.limit: stored nothing, now 5",
            "seeds.draw: stored 3, now 4",
            "choose another folder",
        ):
            assert part in message
        RunStore.open(tmp_path, CONFIG, seeds={"draw": 3}).close()  # unharmed, and not locked

    def test_other_versions_are_added(self, tmp_path: Path) -> None:
        RunStore.open(tmp_path, CONFIG, environment={"instruction set": "avx2"}).close()
        for _ in range(2):
            around = {"instruction set": "avx512"}
            with RunStore.open(tmp_path, CONFIG, environment=around) as store:
                sets = [versions["instruction set"] for versions in store.versions]
                assert sets == ["avx2", "avx512"]

    def test_remember_draws_once(self, tmp_path: Path) -> None:
        draws = iter([[1, 2], [3, 4]])
        for _ in range(2):
            with RunStore.open(tmp_path, CONFIG) as store:
                assert store.remember("table1", lambda: next(draws)) == [1, 2]
        assert next(draws) == [3, 4]

    def test_a_configuration_that_json_cannot_hold(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match=r"config: got .*PosixPath"):
            RunStore.open(tmp_path, {"data": tmp_path})


class TestReading:
    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunStoreError, match="holds no run"):
            RunStore.read(tmp_path)

    def test_a_reader_cannot_write(self, tmp_path: Path) -> None:
        RunStore.open(tmp_path, CONFIG).close()
        with RunStore.read(tmp_path) as store:
            with pytest.raises(RunStoreError, match="readonly"):
                store.put("e", "m", "i", {"a": 1.0})
            assert store.records() == []


@contextmanager
def without_write_rights(folder: Path) -> Iterator[None]:
    """`folder` and its files can be read only, also by root, who becomes nobody for a while."""
    root = os.geteuid() == 0
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


class TestBadFolders:
    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file/run"):
            with pytest.raises(RunStoreError, match=r"file.*choose another folder"):
                RunStore.open(folder, CONFIG)

    def test_a_read_only_folder(self) -> None:
        # Not in tmp_path, whose parents only its owner may enter.
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with (
                without_write_rights(folder),
                pytest.raises(RunStoreError, match=rf"{name}: .*Permission denied.*can be written"),
            ):
                RunStore.open(folder, CONFIG)
            with RunStore.open(folder, CONFIG) as store:
                store.put("e", "m", "i", {"a": 1.0})
            with without_write_rights(folder):
                with pytest.raises(RunStoreError, match=f"{name}: .*choose another folder"):
                    RunStore.open(folder, CONFIG)
                with RunStore.read(folder) as store:
                    assert store.done("e", "m") == {"i"}

    @pytest.mark.parametrize("schema", [2, 5])
    def test_a_store_of_another_schema(self, tmp_path: Path, schema: int) -> None:
        RunStore.open(tmp_path, CONFIG).close()
        with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
            connection.execute(f"PRAGMA user_version = {schema}")
        age = "a newer" if schema == 5 else "an older"
        with pytest.raises(RunStoreError, match=f"has schema {schema}, written by {age} fastbg"):
            RunStore.open(tmp_path, CONFIG)
        with pytest.raises(RunStoreError, match="expects schema 4"):
            RunStore.read(tmp_path)

    def test_a_database_of_another_program_is_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "run.sqlite"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        before = file.read_bytes()
        with pytest.raises(RunStoreError, match="is not a run of fastbg"):
            RunStore.open(tmp_path, CONFIG)
        assert file.read_bytes() == before

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "run.sqlite").write_bytes(b"no database" * 1000)
        with pytest.raises(RunStoreError, match=r"not a database; run\.sqlite is damaged"):
            RunStore.open(tmp_path, CONFIG)
