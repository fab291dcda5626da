"""Sessions: lint, tests, interpret, compile_only, emulate, wheel, bench, gpu. `nox -l` lists them.

Every session installs what it needs. FASTBG_TORCH names the torch to test with
(default: the pinned release below).
"""

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests", "compile_only", "emulate", "wheel"]

TORCH = os.environ.get("FASTBG_TORCH", "torch==2.13.0")
ROOT = Path(__file__).parent


def install(session: nox.Session, *extras: str) -> None:
    """Torch first, so that fastbg's own range keeps it, then fastbg with its `extras`."""
    session.install(TORCH)
    session.install(f".[{','.join(extras)}]" if extras else ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, ruff, mypy --strict."""
    session.env["FASTBG_CUDA"] = "OFF"  # nothing is run
    install(session, "test", "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, as README's command runs it."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def interpret(session: nox.Session) -> None:
    """Every Triton kernel in Triton's interpreter, against the reference."""
    install(session, "test")
    session.run("pytest", "-k", "triton", *session.posargs, env={"TRITON_INTERPRET": "1"})


@nox.session
def compile_only(session: nox.Session) -> None:
    """Every Triton and CUDA kernel to machine code for each architecture, and its static budget."""
    install(session, "test")
    session.run(
        "pytest", "tests/test_compile_only.py", "tests/test_gpu_static.py", *session.posargs
    )


@nox.session
def emulate(session: nox.Session) -> None:
    """The unchanged CUDA sources on the CPU, plain and under AddressSanitizer and UBSan."""
    install(session, "test")
    session.run("pytest", "-k", "cuda or emulat", *session.posargs, env={"FASTBG_EMULATE": "1"})


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, install the wheel in a clean environment, test from elsewhere."""
    session.install("build")
    built = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-m", "build", "--outdir", str(built), str(ROOT))
    (archive,) = built.glob("*.whl")
    session.install(TORCH)
    session.install(f"{archive}[test]")
    session.chdir(session.create_tmp())
    session.run("python", "-c", "import fastbg.kernels; from fastbg import _cpu; print(_cpu.isa())")
    session.run("pytest", "-c", str(ROOT / "pyproject.toml"), str(ROOT / "tests"), *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios against plain PyTorch; answers are checked first."""
    install(session, "test")
    session.run("pytest", "bench", "--benchmark-only", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Operator tests and benchmarks on this machine's GPU; fails where there is none."""
    install(session, "test")
    check = "import torch; assert torch.cuda.is_available(), 'no CUDA device is visible'"
    session.run("python", "-c", check)
    session.run("pytest", "tests", *session.posargs)
    session.run("pytest", "bench", "--benchmark-only")
