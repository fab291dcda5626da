"""Draws a run's report in a second process, while this one measures.

Drawing takes about a minute of one core in the default run, and measuring does not keep all cores
busy. The second process has a low priority and reads the run's folder, as `fastbg report` does.
"""

import contextlib
import json
import os
import signal
import subprocess  # nosec B404: for this Python only
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, cast

from fastbg.errors import FastbgError, RunStoreError
from fastbg.experiments.experiment import Experiment
from fastbg.printable import printable
from fastbg.runs.records import read_run, stored_experiments
from fastbg.runs.reporting import Reporter

# Seconds of measuring that make a second process worthwhile, which takes 3 s to start.
WORTHWHILE = 60.0
NICE = 3
GRACE = 10.0  # seconds for its last page, if the run ends early

# Modules come from where this process finds them.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fastbg.runs.reporter_process import serve; serve(sys.argv[2])"
)


class ReporterProcess:
    """A `Reporter` in a process of its own, with the same methods; `update` does not wait for it.

    `say` is called with its current step while `finish` waits, `announce` with the path of the
    first page, both from another thread. Its errors are raised by the next call.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], announce: Callable[[Path], None]
    ) -> None:
        self.folder, self.say, self.announce = folder, say, announce
        self._error: str | None = None
        self._page: Path | None = None
        self._finishing = False
        # Closed by `finish` and `abandon`.
        self._printed = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # The interpreter and the code are this process's own.
        self._process = subprocess.Popen(  # noqa: S603  # nosec B603
            [sys.executable, "-c", _START, json.dumps(sys.path), os.fspath(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the run, which then ends this process
        )
        self._orders = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def update(self, experiment: Experiment, coming: Sequence[str]) -> None:
        """Ask for `Reporter.update`."""
        self._ask(draw=experiment.name, coming=list(coming))

    def finish(self) -> Path:
        """Ask for `Reporter.finish`, and wait for it; returns the page's path."""
        self._finishing = True
        self._ask(finish=True)
        self._listener.join()
        if self._process.wait() != 0 or self._error is not None or self._page is None:
            raise self._failure()
        self._close()
        return self._page

    def abandon(self) -> None:
        """End it after a last page that does not reload, as the run ends early."""
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._close()

    def _close(self) -> None:
        self._answers.close()
        self._printed.close()
        with contextlib.suppress(BrokenPipeError):  # an order that it did not read
            self._orders.close()

    def _ask(self, **order: Any) -> None:
        if self._process.poll() is not None:
            raise self._failure()
        try:
            print(json.dumps(order), file=self._orders, flush=True)
        except BrokenPipeError as error:
            raise self._failure() from error

    def _listen(self) -> None:
        for line in self._answers:
            told = json.loads(line)
            self._error = told.get("error", self._error)
            if "page" in told:
                first, self._page = self._page is None, Path(told["page"])
                if first and not self._finishing:
                    self.announce(self._page)
            elif "step" in told and self._finishing:
                self.say(told["step"])

    def _failure(self) -> RunStoreError:
        """Why it ended; what it printed last, if it did not say."""
        self._listener.join()
        status = self._process.wait()
        if self._error is not None:
            return RunStoreError(self._error)
        self._printed.seek(0)
        last = (self._printed.read().strip().splitlines() or ["it printed nothing"])[-1]
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return RunStoreError(
            f"{printable(self.folder)}: the process that writes the report {how}: {last}; all "
            f"results are stored, and the same command resumes"
        )


class _Abandoned(BaseException):
    """The run ends early."""


def serve(folder: str) -> None:
    """Carry out what `ReporterProcess` asks for, on lines of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may print there

    def tell(**answer: str) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    def leave(number: int, frame: FrameType | None) -> None:
        raise _Abandoned

    os.nice(NICE)
    signal.signal(signal.SIGTERM, leave)
    try:
        with read_run(folder) as store:
            reporter = Reporter(store, lambda step: tell(step=step))
            try:
                _obey(reporter, sys.stdin, tell)
            except _Abandoned:
                reporter.abandon()
    except FastbgError as error:
        tell(error=str(error))


def _obey(reporter: Reporter, orders: IO[str], tell: Callable[..., None]) -> None:
    for line in orders:
        order = json.loads(line)
        if "finish" in order:
            tell(page=os.fspath(reporter.finish()))
            return
        found = {each.name: each for each in stored_experiments(reporter.store)}
        reporter.update(found[order["draw"]], order["coming"])
        tell(page=os.fspath(reporter.page.path))
    raise _Abandoned  # the run was killed
