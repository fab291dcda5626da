"""The report drawn in a second process, beside the measuring."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import make_images

import fastbg
from fastbg.errors import RunStoreError
from fastbg.models.edsr import EDSR
from fastbg.runs import running
from fastbg.runs.records import read_run, stored_experiments
from fastbg.runs.reporter_process import ReporterProcess
from fastbg.runs.reporting import report
from fastbg.runs.result import RunResult

OPTIONS = {"table1.count": 3, "table1.size": 64, "table1.region": 32, "slicing.tile": 32}
WAIT = 60.0  # seconds, on a busy machine


def run(out: Path, images: Path) -> RunResult:
    torch.manual_seed(0)
    net = EDSR(features=4, blocks=1, scale=4).eval().requires_grad_(False)
    return fastbg.run_experiments(
        {"mine": net}, ["table1", "slicing"], data=images, out=out, options=OPTIONS
    )


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder, with a report."""
    out = tmp_path / "run"
    run(out, make_images(tmp_path / "images"))
    return out


@pytest.fixture
def begun(finished: Path) -> ReporterProcess:
    """A process that has drawn the first of two experiments."""
    pages: list[Path] = []
    process = ReporterProcess(finished, lambda _: None, pages.append)
    with read_run(finished) as store:
        process.update(stored_experiments(store)[0], ["something"])
    waited(lambda: bool(pages))
    assert pages == [finished / "report.html"]
    assert reloads(finished)
    return process


def waited(until: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not until():
        assert time.monotonic() < end, "the process did nothing"
        time.sleep(0.02)


def reloads(folder: Path) -> bool:
    return "http-equiv" in (folder / "report.html").read_text()


def files(folder: Path) -> dict[str, bytes]:
    found = [folder / "report.html", *folder.glob("figures/*.csv"), *folder.glob("tables/*")]
    return {path.name: path.read_bytes() for path in found}


def test_a_long_run_has_the_report_of_a_short_one(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(finished)
    started: list[ReporterProcess] = []

    class Watched(ReporterProcess):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            started.append(self)

    monkeypatch.setattr(running, "WORTHWHILE", -1.0)
    monkeypatch.setattr(running, "ReporterProcess", Watched)
    run(finished, finished.parent / "images")
    assert files(finished) == before
    assert len(started) == 1


def test_its_errors_are_those_of_the_report(begun: ReporterProcess, finished: Path) -> None:
    figures = finished / "figures"
    figures.rename(finished / "elsewhere")
    figures.write_text("a file in its place")
    with pytest.raises(RunStoreError, match="the report cannot be written"):
        begun.finish()
    begun.abandon()


def test_a_killed_one_is_named(begun: ReporterProcess, finished: Path) -> None:
    begun._process.send_signal(signal.SIGKILL)
    with pytest.raises(RunStoreError, match=r"ended by signal 9.*all results are stored"):
        begun.finish()
    begun.abandon()
    with read_run(finished) as store:
        assert report(store).is_file()


def test_abandoned_it_leaves_a_page_that_stands_still(
    begun: ReporterProcess, finished: Path
) -> None:
    begun.abandon()
    assert not reloads(finished)
    assert begun._process.returncode == 0


def test_it_ends_with_the_run_that_started_it(begun: ReporterProcess, finished: Path) -> None:
    """Also if that was killed: then nobody writes to it any more."""
    begun._orders.close()
    begun._process.wait(WAIT)
    assert not reloads(finished)
    begun.abandon()


def test_interrupted_runs_end_it(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Watched(ReporterProcess):
        def update(self, *_: object) -> None:
            started.append(self._process.pid)
            raise KeyboardInterrupt

    monkeypatch.setattr(running, "WORTHWHILE", -1.0)
    monkeypatch.setattr(running, "ReporterProcess", Watched)
    with pytest.raises(KeyboardInterrupt):
        run(finished, finished.parent / "images")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
