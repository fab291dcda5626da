"""Kill a run with -9 at random moments, resume it, compare it with one that nobody killed.

    python tests/kill_campaign.py [--kills 100] [--seed 0]

A run folder is resumed until it ends; then the campaign goes on in a new folder, until as many
processes have been killed as asked for. Of each folder: the records, arrays and tables must equal
the unbroken run's, and no item may have been measured again after it was stored. Runs are forked
from one process that has imported everything, so that hardly any kill hits an import.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from small_run import EXPERIMENTS, OPTIONS, contents, make_images, make_network

from fastbg.cli import main
from fastbg.runs import pipeline
from fastbg.runs.local import Job

CHUNKS = 16  # of table1, 10 records each: many to be killed between, for few reports
TOTAL = 4 + 10 * CHUNKS  # records of the run


@dataclass
class Folder:
    """A run folder, with the log of what was stored there."""

    path: Path
    command: list[str]

    def start(self, commit_every: float = pipeline.COMMIT_EVERY) -> int:
        """A process that creates or resumes the run, with a commit so often; its id."""
        pid = os.fork()
        if pid:
            return pid
        code = 70  # of a run that raises
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, sys.stdout.fileno())
            put = Job.put

            def logged(job: Job, items: list, columns: dict) -> None:  # type: ignore[type-arg]
                put(job, items, columns)
                lines = [f"{job.experiment.name} {item.key}\n" for item in items]
                os.write(log, "".join(lines).encode())

            Job.put = logged  # type: ignore[method-assign]
            pipeline.COMMIT_EVERY = commit_every
            code = main([*self.command, "--out", str(self.path)])
        finally:
            os._exit(code)

    @property
    def log(self) -> Path:
        """One line for each item, written after it was stored."""
        return self.path.with_suffix(".log")

    def kept(self) -> int:
        """Items that are known to be stored."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def check(self, unbroken: "Folder") -> None:
        """AssertionError unless this run is the unbroken one."""
        assert contents(self.path) == contents(unbroken.path), f"{self.path}: other records"
        assert tables(self.path) == tables(unbroken.path), f"{self.path}: other tables"
        stored = self.log.read_text().splitlines()
        assert len(stored) == len(set(stored)), f"{self.path}: measured twice"


def tables(folder: Path) -> dict[str, bytes]:
    """The CSV files of a run."""
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


def campaign(root: Path, kills: int, seed: int) -> dict[str, int]:
    """How many processes were killed in all, and in how many of them something was kept."""
    draw = random.Random(seed)  # noqa: S311
    images, network = make_images(root / "images"), make_network(root / "net.safetensors")
    command = ["run", *EXPERIMENTS, "--data", str(images), "--model", str(network), *OPTIONS]
    command += ["-o", f"table1.count={10 * CHUNKS}"]
    unbroken = Folder(root / "unbroken", command)
    began = time.monotonic()
    assert wait(unbroken.start()) == 0
    whole = time.monotonic() - began
    assert len(contents(unbroken.path)["records"]) == TOTAL
    found = {"killed": 0, "with records": 0, "while reporting": 0, "folders": 0}
    while found["killed"] < kills:
        folder = Folder(root / f"broken{found['folders']}", command)
        found["folders"] += 1
        code = None
        while code != 0:
            kept = folder.kept()
            # So small a run is over in a few commits of a second: most have one for each chunk.
            pid = folder.start(draw.choice([0.0, 0.0, 0.1, pipeline.COMMIT_EVERY]))
            wanted = found["killed"] < kills and (kept < TOTAL or draw.random() < 0.5)
            code = kill(pid, folder, draw, whole) if wanted else wait(pid)
            assert code in (0, -signal.SIGKILL), f"{folder.path}: the run ended with {code}"
            if code:
                found["killed"] += 1
                print("killed", found["killed"], "at", folder.kept(), flush=True)
                found["with records"] += folder.kept() > 0
                found["while reporting"] += kept == TOTAL
        folder.check(unbroken)
    return found


def kill(pid: int, folder: Folder, draw: random.Random, whole: float) -> int:
    """Kill after a few more records, or at any time; the exit code, 0 if the run was faster."""
    kept = folder.kept()
    enough = kept + draw.randrange(15) if kept < TOTAL and draw.random() < 0.8 else 2 * TOTAL
    latest = time.monotonic() + (draw.random() * whole if enough > TOTAL else 10 * whole)
    while folder.kept() < enough and time.monotonic() < latest:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    time.sleep(draw.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def wait(pid: int) -> int:
    """Exit code of the process."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(campaign(Path(name), asked.kills, asked.seed))
