"""Who may import whom in fastbg: arrows point down, and there is no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fastbg"

# From the bottom up; a room may import those on lines above its own, and itself.
ORDER = """
printable working_folder
users_line
errors version vocabulary writing geometry upload kernels
given_path
filters precision
backends
registration
ops testing
data models
measures stats
attribution
experiments evaluation training captum
reports
runs
fastbg
cli
__main__
""".strip().splitlines()
LEVEL = {room: level for level, line in enumerate(ORDER) for room in line.split()}

# Rooms whose neighbours must not know them: backends and their helpers are registration's.
ONLY_FROM = {"backends": {"backends", "registration"}, "reports": {"reports", "runs"}}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module."""
    if not ROOT.exists():
        pytest.skip("there is no source tree beside the tests")
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(("fastbg", *parts)).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of fastbg that a file imports when it is loaded or run, not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = names & known.keys()
            found |= inner | ({node.module} if inner != names else set())
    return {name for name in found if name == "fastbg" or name.startswith("fastbg.")}


def room(module: str) -> str:
    """The first name below fastbg; "fastbg" for the package itself."""
    return module.split(".")[1] if "." in module else module


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in modules()} <= LEVEL.keys()


def test_arrows_point_down() -> None:
    known = modules()
    upwards = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        if room(other) != room(name) and LEVEL[room(other)] >= LEVEL[room(name)]
    ]
    assert not upwards


def test_backends_and_reports_are_known_to_few() -> None:
    known = modules()
    strangers = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        if room(name) not in ONLY_FROM.get(room(other), {room(name)})
    ]
    assert not strangers


def test_backends_do_not_know_one_another() -> None:
    known = modules()
    families = ("torch_reference", "cpu", "triton", "cuda")
    crossed = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        for mine in families
        for theirs in families
        if mine != theirs
        and name.startswith(f"fastbg.backends.{mine}")
        and other.startswith(f"fastbg.backends.{theirs}")
    ]
    assert not crossed


def test_no_circle_of_imports() -> None:
    known = modules()
    TopologicalSorter({name: imports(path, known) for name, path in known.items()}).prepare()
