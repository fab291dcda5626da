"""The type stubs of the compiled modules say what the bindings in csrc/ register."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import fastbg

PACKAGE = Path(fastbg.__file__).parent
ROOT = Path(__file__).parents[1]


def stub(name: str) -> tuple[dict[str, ast.arguments], set[str]]:
    """The functions of fastbg/NAME.pyi with their arguments, and its other public names."""
    functions, values = {}, set()
    for node in ast.parse((PACKAGE / f"{name}.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node.args
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            values.add(node.target.id)
    return functions, values - {"View", "Layer", "Step", "Tail"}


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_cpu_stub_has_the_names_and_argument_counts_of_the_module() -> None:
    functions, values = stub("_cpu")
    module = pytest.importorskip("fastbg._cpu")
    public = {name for name in vars(module) if not name.startswith("__")}
    assert public == functions.keys() | values
    for name, arguments in functions.items():
        signature = getattr(module, name).__doc__.splitlines()[0]
        count = len(re.findall(r"\barg\d+:", signature))
        assert len(arguments.posonlyargs) == count, signature
        assert not arguments.args, name  # the bindings name no arguments
    for name in values:
        assert isinstance(getattr(module, name), int)


def test_cuda_stub_has_the_names_and_arguments_of_the_bindings() -> None:
    functions, values = stub("_cuda")
    assert not values
    found = {}
    for path in sorted((ROOT / "csrc" / "cuda").glob("*_bindings.cpp")):
        for call in re.findall(r"m\.def\((.*?)\);\n(?=  m\.def|\})", path.read_text(), re.DOTALL):
            name = re.match(r'"(\w+)"', call)
            assert name, call
            found[name[1]] = re.findall(r'arg\("(\w+)"\)', call)
    assert found == {name: [a.arg for a in args.args] for name, args in functions.items()}


def test_stub_of_a_view_is_the_backends_own() -> None:
    backends = import_module("fastbg.backends.tensor_view")
    for name in ("_cpu", "_cuda"):
        assert f"View: TypeAlias = {backends.View}" in (PACKAGE / f"{name}.pyi").read_text()
