"""The command `fastbg`: run, report, attribute, effect, evaluate, train, info, options."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from fastbg.cli.arguments import parser
from fastbg.errors import FastbgError

STOPPED = 130  # exit status after Ctrl-C, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 for errors of the user's making, 130 after Ctrl-C or SIGTERM."""
    hint = ""
    try:
        options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
        try:
            with interruptible():
                options.command(options)
        finally:
            hint = getattr(options, "resume_hint", "")
    except FastbgError as error:
        say(f"fastbg: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        say(f"\nstopped. {hint}".rstrip())
        return STOPPED
    return 0


def say(text: str, style: str = "") -> None:
    """Print to the error stream."""
    from rich.console import Console

    Console(stderr=True).print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM stop in good order; a second one stops at once.

    What is stored is on disk already, so that nothing but the order is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(STOPPED)

    def in_order(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, at_once)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, in_order) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
