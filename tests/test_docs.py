"""The documentation: its Python runs as printed, and its reference pages are complete.

`nox -s docs` builds the site, where a broken link or an unknown name is an error.
"""

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import emulation_build
import pytest
import torch
from native_build import INCLUDE, run_compiler

import fastbg
from fastbg.backends.tensor_view import view
from fastbg.cli import parser
from fastbg.experiments import EXPERIMENTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documents are not beside the tests")

# These add to registries and search paths, so each gets a process of its own.
APART = ("tutorials/write_operator.md", "tutorials/write_experiment.md")


def python_of(page: str) -> str:
    """The Python blocks of a page, one after the other."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))


PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if python_of(path.relative_to(DOCS).as_posix())
)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in APART])
def test_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "captum" in python_of(page) and importlib.util.find_spec("captum") is None:
        pytest.skip("the package captum is not installed")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile(python_of(page), page, "exec"), vars(module))  # noqa: S102


@pytest.mark.parametrize("page", APART)
def test_python_of_a_page_that_extends_fastbg_runs(page: str, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text(python_of(page), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded(name: str, path: Path) -> ModuleType:
    """The module in the file `path`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULE = """
#include <pybind11/pybind11.h>
namespace fastbg { void register_mse(pybind11::module_& m); }
PYBIND11_MODULE(written, m) { fastbg::register_mse(m); }
"""


def test_cpp_of_the_new_operator_computes_its_reference(tmp_path: Path) -> None:
    """The files that `write_operator` prints, beside those of csrc/."""
    reason = emulation_build.missing()
    if reason is not None:
        pytest.skip(reason)
    import pybind11

    text = (DOCS / "tutorials" / "write_operator.md").read_text(encoding="utf-8")
    names = ("mse_params.h", "mse.h", "mse.cpp", "mse_bindings.cpp")
    blocks = re.findall(r"^```cpp\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    for name, block in zip((*names, "module.cpp"), (*blocks, MODULE), strict=True):
        (tmp_path / name).write_text(block, encoding="utf-8")
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), pybind11.get_include())]
    flags = ["-std=c++17", "-O1", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]
    sources = [str(path) for path in sorted(tmp_path.glob("*.cpp"))]
    module = tmp_path / f"written{sysconfig.get_config_var('EXT_SUFFIX')}"
    where = ["-DFASTBG_VARIANT=baseline", f"-I{tmp_path}", *INCLUDE, *include]
    run_compiler(["g++", *flags, *where, *sources, "-shared", "-o", str(module)])
    written = loaded("written", module)
    sr, hr = torch.rand(2, 2, 3, 24, 32).half()
    windows = torch.tensor([[0, 0, 8, 8], [4, 6, 24, 32]], dtype=torch.int32)
    found = torch.empty(2)
    written.window_mse(*map(view, (sr, hr, windows, found)), 2)
    for i, (y0, x0, y1, x1) in enumerate(windows.tolist()):
        error = (sr[i].float() - hr[i].float())[:, y0:y1, x0:x1]
        torch.testing.assert_close(found[i], error.square().mean())


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/command_line.py, which makes two of the pages."""
    return loaded("command_line", DOCS / "command_line.py")


def test_every_argument_of_every_command_is_in_the_reference(reference: ModuleType) -> None:
    text = reference.commands()
    commands = list(reference.subcommands(parser()))
    assert {name for name, _, _ in commands} >= {"run", "report", "attribute", "evaluate", "train"}
    for name, made, _ in commands:
        assert f"## `fastbg {name}" in text
        section = text.split(f"## `fastbg {name}")[1].split("\n## ")[0]
        for option in (o for action in made._actions for o in action.option_strings):
            assert option in ("-h", "--help") or re.search(rf"{option}\b", section), option


def test_defaults_are_in_the_reference(reference: ModuleType) -> None:
    text = reference.commands()
    assert re.search(r"`--out DIR` .*`fastbg-run`", text)
    assert re.search(r"`--seed N` .*`0`", text)
    assert re.search(r"`--window Y X SIZE.*required", text)


def test_every_option_of_every_experiment_is_in_the_reference(reference: ModuleType) -> None:
    text = reference.options()
    for name, kind in EXPERIMENTS.items():
        for field in dataclasses.fields(kind.options_type):
            owner = "EXPERIMENT" if field.name in ("kernel", "channel", "lr") else name
            assert f"| `{owner}.{field.name}` |" in text
    row = re.search(r"\| `table1.region` \| (.*) \| (.*) \| `64` \|", text)
    assert row is not None
    meaning = "side of the region that is restored alone, HR pixels"
    assert row.groups() == (meaning, "a whole number, at least 1")


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in fastbg.__all__ if not re.search(rf":: (.*\.)?{name}$", text, re.M)]
    assert not missing


def test_every_experiment_has_its_line_in_the_guide() -> None:
    text = (DOCS / "guide" / "experiments.md").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_to_files(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    for link in links:
        assert "://" in link or (ROOT / link).exists(), link
