"""What `import fastbg` and the command line load, and what they leave for later."""

import pickle
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import fastbg
from fastbg import vocabulary
from fastbg.attribution.quadrature import METHODS
from fastbg.experiments import EXPERIMENTS
from fastbg.models.registry import BUILT_IN
from fastbg.registration.dispatch import BACKENDS

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "rich", "PIL", "skimage", "jinja2")


def loads(program: str) -> list[str]:
    """Which of the HEAVY packages a program has loaded when it ends."""
    tell = f"atexit.register(lambda: print('loaded', *({set(HEAVY)} & sys.modules.keys())))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import atexit, sys; {tell}\n{program}"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *found = done.stdout.splitlines()[-1].split()
    assert first == "loaded"
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["completion", "--help"],
        *([name, "--help"] for name in ("run", "attribute", "train")),
    ],
    ids=" ".join,
)
def test_help_loads_no_package(arguments: list[str]) -> None:
    assert loads(f"from fastbg.cli import main; main({arguments!r})") == []


def test_a_refused_argument_does_not_load_pytorch() -> None:
    program = "from fastbg.cli import main; assert main(['run', '--limit', 'x']) == 2"
    assert "torch" not in loads(program)


def test_import_alone_loads_no_package() -> None:
    assert loads("import fastbg; dir(fastbg); fastbg.__version__") == []


def test_the_package_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastbg", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *rest = done.stdout.splitlines()
    assert first == f"fastbg {fastbg.__version__}"
    told = dict(line.strip().split(" ", 1) for line in rest)
    assert told["Python"].startswith(platform.python_version())
    assert told["torch"] == version("torch")
    assert {"triton", "numpy", "CUDA"} <= told.keys()


@pytest.mark.parametrize(
    "program",
    [
        "import torch, fastbg; torch.ops.fastbg.gram",
        "import fastbg, torch; fastbg.wrap; torch.ops.fastbg.conv3x3",
        "import torch; from fastbg import load_model; torch.ops.fastbg.mosaic",
        "import fastbg.ops, torch; torch.ops.fastbg.path_integral",
    ],
)
def test_operators_are_registered(program: str) -> None:
    assert "torch" in loads(program)


def test_every_public_name_is_there_once() -> None:
    assert dir(fastbg) == sorted([*fastbg.__all__, "__version__"])
    assert set(fastbg.__all__) == fastbg._HOMES.keys()
    for name in fastbg.__all__:
        found = getattr(fastbg, name)
        assert found.__name__ == name
        assert pickle.loads(pickle.dumps(found)) is found  # noqa: S301


def test_modules_are_found_by_their_names() -> None:
    for name in ("models", "ops", "errors", "attribution"):
        assert getattr(fastbg, name).__name__ == f"fastbg.{name}"
    with pytest.raises(ImportError, match="cannot import name 'gramm'"):
        from fastbg import gramm  # type: ignore[attr-defined]  # noqa: F401


def test_names_on_the_command_line_are_those_of_the_code() -> None:
    """A new experiment, network, backend or method has a line in fastbg/vocabulary.py too."""
    assert tuple(EXPERIMENTS) == vocabulary.EXPERIMENTS
    assert tuple(name for name, e in EXPERIMENTS.items() if e.extra) == vocabulary.EXTRA
    assert tuple(BUILT_IN) == vocabulary.NETWORKS
    assert tuple(BACKENDS) == vocabulary.BACKENDS
    assert tuple(METHODS) == vocabulary.METHODS


def test_a_module_that_moved_is_found_by_its_old_name_with_a_warning() -> None:
    from fastbg.stats import intervals

    with pytest.warns(DeprecationWarning, match=r"fastbg\.statistics is fastbg\.stats\.intervals"):
        assert fastbg.statistics is intervals  # type: ignore[attr-defined]


def test_a_reader_that_stops_early_sees_no_traceback() -> None:
    """As in ``fastbg --version | head -2``."""
    command = [sys.executable, "-m", "fastbg", "--version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
