"""Progress of long commands: on a terminal two lines that are updated, otherwise plain lines.

On a terminal: a bar for the whole command (share, elapsed, remaining) and a line for the current
step; results are printed above them. Elsewhere, for example in a log: the results, and a progress
line at intervals.
"""

import logging
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fastbg.printable import printable_lines
from fastbg.runs.forecast import Forecast, Key

log = logging.getLogger(__name__)
QUIET, NORMAL, VERBOSE = -1, 0, 1
REFRESHES = 2  # per second
PAUSE = {NORMAL: 30.0, VERBOSE: 5.0}  # seconds between plain lines of progress
BAR = 40  # characters


class Display:
    """Prints progress and results inside a `with` block; nothing else may print there.

    With `steps`, each step is printed on a line if there is no terminal, for commands that print no
    results in between.
    """

    def __init__(self, console: Console, level: int = NORMAL, *, steps: bool = False) -> None:
        self.console = console
        self.level = level
        self.steps = steps
        self.start = self.last = self.counted = time.monotonic()
        self.doing = ""
        self.count = ""
        self.forecast: Forecast | None = None
        self.live = Live(
            console=console,
            get_renderable=self.lines,
            refresh_per_second=REFRESHES,
            transient=True,
        )

    def __enter__(self) -> "Display":
        if self.moving:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.moving:
            self.live.stop()

    @property
    def moving(self) -> bool:
        """Whether lines are updated in place."""
        return self.console.is_terminal and self.level > QUIET

    def print(self, line: str, level: int = NORMAL) -> None:
        """Print a line that stays, at output level `level` or above; a quiet command logs it."""
        line = printable_lines(line)
        if self.level == QUIET:
            log.info("%s", line)
        elif self.level >= level:
            self.console.print(line, markup=False, soft_wrap=True)

    def now(self, text: str) -> None:
        """Set the text of the current step."""
        self.doing, self.count = text, ""
        if self.steps and not self.moving:
            self.print(text)

    def follow(self, key: Key, total: int, stored: int) -> "Follower":
        """A counter for a part of the forecast with `total` items, `stored` of them already."""
        self.now(" ".join(filter(None, key)))
        self.counted = time.monotonic()
        return Follower(self, key, total, stored)

    def tick(self) -> None:
        """Without a terminal, print a progress line if it is due."""
        pause = PAUSE.get(self.level)
        if self.moving or pause is None or time.monotonic() - self.last < pause:
            return
        self.last = time.monotonic()
        self.print(f"  {self.summary()}; {self.doing}{self.count}")

    def summary(self) -> str:
        """ "37 %, 2:05 so far, about 4 min left"."""
        spent = clock(time.monotonic() - self.start)
        if self.forecast is None or not self.forecast.known:
            return f"{spent} so far"
        left = rough(self.forecast.remaining(self.since))
        return f"{self.forecast.share(self.since):.0%}, {spent} so far, {left} left"

    @property
    def since(self) -> float:
        """Seconds since items were last counted."""
        return time.monotonic() - self.counted

    def lines(self) -> RenderableType:
        """The two lines that are updated."""
        doing = Text(f"{self.doing}{self.count}", no_wrap=True, overflow="ellipsis")
        if self.forecast is None:
            spent = clock(time.monotonic() - self.start)
            return Text.assemble(doing, f"  {spent}", no_wrap=True, overflow="ellipsis")
        share = self.forecast.share(self.since) if self.forecast.known else 0.0
        row = Table.grid(padding=(0, 1))
        row.add_column(width=BAR)
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(1.0, share, width=BAR), self.summary())
        return Group(row, doing)


class Follower:
    """Counts the items of one part."""

    def __init__(self, display: Display, key: Key, total: int, stored: int) -> None:
        self.display, self.key = display, key
        self.total, self.stored, self.done = total, stored, 0
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.start

    def advance(self, count: int) -> None:
        """Note that `count` more items are stored; items of an earlier run are counted first."""
        self.done += count
        display, fresh = self.display, self.total - self.stored
        if display.forecast is not None and fresh:
            share = min(max(self.done - self.stored, 0) / fresh, 1.0)
            display.forecast.note(self.key, self.seconds, share)
        display.counted = time.monotonic()
        display.count = f": {self.done} of {self.total} items"
        display.tick()

    def finish(self) -> None:
        """Note that everything is stored."""
        if self.display.forecast is not None:
            self.display.forecast.note(self.key, self.seconds, 1.0)
        self.display.counted = time.monotonic()


def clock(seconds: float) -> str:
    """ "2:05", "1:02:05"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rough(seconds: float) -> str:
    """A rounded time: "less than 10 s", "about 40 s", "about 4 min", "about 2.5 h"."""
    if seconds < 10:
        return "less than 10 s"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
