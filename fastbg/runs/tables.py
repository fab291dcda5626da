"""The tables of run.sqlite: how they are made, and whether a file has them and nothing that acts.

SQLite keeps no types: whatever stands in a column, `fastbg.runs.inventory` looks at it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from fastbg.errors import RunStoreError
from fastbg.printable import printable
from fastbg.runs.values import listed
from fastbg.version import __version__

SCHEMA = 4
_READABLE = (3, SCHEMA)  # 3 is without digests, see fastbg.runs.inventory
_APPLICATION_ID = 0x46_42_47_31  # "FBG1" in the file's header: `file run.sqlite` shows it
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum BLOB NOT NULL) "
    "WITHOUT ROWID",
    # `vals` is a JSON object: Python writes floats with enough digits to read the same bits back.
    # It also keeps NaN, which SQLite would store as NULL in a REAL column.
    """CREATE TABLE records (
        experiment TEXT NOT NULL, model TEXT NOT NULL, item TEXT NOT NULL, vals TEXT NOT NULL,
        checksum BLOB NOT NULL, PRIMARY KEY (experiment, model, item)) WITHOUT ROWID""",
    """CREATE TABLE arrays (
        experiment TEXT NOT NULL, model TEXT NOT NULL, item TEXT NOT NULL, name TEXT NOT NULL,
        dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL,
        checksum BLOB NOT NULL, PRIMARY KEY (experiment, model, item, name))""",
)
ARRAY = (
    "SELECT dtype, shape, data, checksum FROM arrays "
    "WHERE experiment = ? AND model = ? AND item = ? AND name = ?"
)
NEW = {  # a row, unless its key is taken
    "records": "INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "arrays": "INSERT INTO arrays VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
}


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, in the caller's transaction."""
    for table in _TABLES:
        connection.execute(table)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def check_tables(connection: sqlite3.Connection, file: Path) -> None:
    """RunStoreError unless `file` has the tables that `make_tables` makes, and no triggers."""
    if _number(connection, "application_id") != _APPLICATION_ID:
        raise RunStoreError(f"{printable(file)}: is not a run of fastbg; choose another folder")
    schema = _number(connection, "user_version")
    if schema not in _READABLE:
        age = "a newer" if schema > SCHEMA else "an older"
        raise RunStoreError(
            f"{printable(file)}: has schema {schema}, written by {age} fastbg; fastbg "
            f"{__version__} expects schema {SCHEMA}: choose another folder"
        )
    with closing(sqlite3.connect(":memory:")) as fresh:
        make_tables(fresh)
        tables = fresh.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        expected = {name: _columns(fresh, name) for (name,) in tables}
    # They would change or remove rows while these are stored.
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    wrong = [f"a trigger {name!r}, expected none" for (name,) in triggers]
    for name, columns in expected.items():
        found = _columns(connection, name)
        if not found:
            wrong.append(f"no table {name}")
        elif found != columns:
            strange = [column for column in found if column not in columns]
            lacking = [column for column in columns if column not in found]
            wrong.append(f"{name} has {listed(strange)}; expected {listed(lacking) or 'no such'}")
    if wrong:
        raise RunStoreError(
            f"{printable(file)}: its tables are not those that fastbg made ({listed(wrong)}): it "
            "was changed; use a copy of it, or measure again in another folder"
        )


def flaw(connection: sqlite3.Connection) -> str:
    """What is wrong with the file's structure, such as an index that lacks rows; empty if nothing.

    Rows are looked for in the index, so one that it lacks would seem never to have been stored.
    """
    said: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    return "" if said == "ok" else said


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    value: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return value


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """The table's columns as they were declared; none if there is no such table."""
    kinds = connection.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,))
    if kinds.fetchall() != [("table",)]:
        return []
    told = 'SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid'
    columns = []
    for name, kind, required, key, hidden in connection.execute(told, (table,)):
        marks = [" NOT NULL" * required, f" key {key}" * bool(key), " hidden" * bool(hidden)]
        columns.append(f"{name} {kind}{''.join(marks)}")
    return columns
