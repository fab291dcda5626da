"""Compiles sources of csrc/cpu for a test, each again only where something is newer."""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulation_build import ROOT

CSRC = ROOT / "csrc"
INCLUDE = [f"-I{path}" for path in (CSRC, CSRC / "common", CSRC / "cpu")]


def cpu_sources() -> list[Path]:
    """Kernels and bindings."""
    return sorted((CSRC / "cpu").glob("*.cpp"))


def objects(command: Sequence[str], sources: Sequence[Path], folder: Path) -> list[str]:
    """An object file in `folder` of each source, made by `command`, as many at once as cores."""
    folders = {CSRC, *(source.parent for source in sources)}
    headers = [path for place in folders for path in place.rglob("*.h")]
    newest = max(path.stat().st_mtime for path in [*sources, *headers])
    noted = folder / "command.txt"
    same_command = noted.exists() and noted.read_text() == " ".join(command)

    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        if not (same_command and target.exists() and target.stat().st_mtime >= newest):
            run_compiler([*command, "-c", str(source), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        made = list(pool.map(compiled, sources))
    noted.write_text(" ".join(command))
    return made


def run_compiler(command: Sequence[str]) -> None:
    """RuntimeError with the compiler's words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
