"""Sessions: lint, tests, interpret, compile_only, emulate, wheel, kill, fuzz, races, mutate,
compatibility, audit, docs, bench, gpu.

`nox -l` lists them with what they do.

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
    """Formatting, ruff, mypy --strict, bandit."""
    session.env["FASTBG_CUDA"] = "OFF"  # nothing is run
    install(session, "test", "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("bandit", "--quiet", "--recursive", "fastbg", "kernels")
    # Scripts for developers: they check answers with assert (B101) and start fixed programs, such
    # as cuobjdump and git, from PATH and without a shell (B404, B603, B607).
    skipped = "B101,B404,B603,B607"
    session.run("bandit", "--quiet", "--recursive", "--skip", skipped, "bench", "noxfile.py")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, as README's command runs it."""
    install(session, "test")
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


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
    for capability in ("80", "100", "120"):  # 90 is in the tests
        session.run("python", "bench/gpu_static.py", "--check", "--arch", capability)


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
def kill(session: nox.Session) -> None:
    """A run killed with -9 at 100 random moments, resumed, and compared with an unbroken one."""
    install(session, "test")
    arguments = session.posargs or ["--kills", "100"]
    session.run("python", str(ROOT / "tests" / "kill_campaign.py"), *arguments)


@nox.session
def fuzz(session: nox.Session) -> None:
    """2,000 cases of the operators on all backends, damaged files, entry points in libFuzzer."""
    install(session, "test")
    session.env.setdefault("FASTBG_FUZZ_CASES", "100")
    session.env.setdefault("FASTBG_FUZZ_SECONDS", "600")  # of each instruction set
    session.run("pytest", "tests/test_fuzz.py", "tests/test_fuzz_native.py", *session.posargs)


@nox.session
def races(session: nox.Session) -> None:
    """The CPU kernels under ThreadSanitizer, and equal bits for any number of threads."""
    install(session, "test")
    session.run("pytest", "tests/test_races.py", *session.posargs, env={"FASTBG_TSAN": "1"})


AREAS = ["statistics", "similarity", "attribution", "experiments", "data", "checkpoints"]


@nox.session
@nox.parametrize("area", AREAS, ids=AREAS)
def mutate(session: nox.Session, area: str) -> None:
    """One line changed at a time: the share that the tests notice, and what survives (mutmut)."""
    install(session, "test", "mutate")
    session.run("python", "tests/mutation_campaign.py", area, *session.posargs)


CORE = ["composite", "path", "gram", "conv", "models", "missing_parts"]
NUMPY = ["composite", "images", "statistics", "missing_parts"]
OTHERS = {  # what is installed in place of the usual releases, and the tests that it is to pass
    "numpy1.26": (["numpy==1.26.4"], NUMPY),
    "triton3.6": (["triton==3.6.0"], ["triton_kernels"]),
    "triton3.7": (["triton==3.7.1"], ["triton_kernels"]),
    "torch2.14": (["torch==2.14.1"], CORE),
}


@nox.session
@nox.parametrize("other", list(OTHERS), ids=list(OTHERS))
def compatibility(session: nox.Session, other: str) -> None:
    """The oldest numpy, other Tritons, a newer torch (and test_missing_parts.py: none)."""
    install(session, "test")
    packages, tests = OTHERS[other]
    session.install(*packages)
    session.run("pytest", *(f"tests/test_{name}.py" for name in tests), *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what fastbg installs; needs the network."""
    session.install("pip-audit")
    install(session, "zoo", "ray")
    # Without --strict, packages that its database does not answer for are skipped, and it passes.
    # fastbg itself is no release that it could know.
    listed = session.run("pip", "freeze", "--exclude", "fastbg", silent=True)
    pins = Path(session.create_tmp()).resolve() / "pins.txt"
    pins.write_text(str(listed).replace("+cpu", ""))
    strict = ("--strict", "--no-deps", "--disable-pip", "--requirement", str(pins))
    session.run("pip-audit", *strict, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site in build/docs; warnings are errors."""
    session.env.setdefault("FASTBG_CUDA", "OFF")  # nothing is run
    install(session, "docs")
    source, built = str(ROOT / "docs"), str(ROOT / "build" / "docs")
    # From elsewhere, so that the installed fastbg is documented.
    session.chdir(session.create_tmp())
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-b", "html", source, built)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios against plain PyTorch; answers are checked first."""
    install(session, "test")
    session.run("pytest", "bench", "--benchmark-only", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """bench/on_gpu.sh and the benchmarks on this machine's GPU; fails where there is none."""
    install(session, "test")
    check = "import torch; assert torch.cuda.is_available(), 'no CUDA device is visible'"
    session.run("python", "-c", check)
    phases = session.posargs or ["check", "time"]
    session.run("bash", str(ROOT / "bench" / "on_gpu.sh"), *phases, external=True)
    session.run("pytest", "bench", "--benchmark-only")
