"""The command `fastbg`: run, report, attribute, evaluate, train, info."""

import argparse
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from fastbg.cli import attribute as attribute
from fastbg.cli import evaluate, info, report, run, train
from fastbg.errors import FastbgError
from fastbg.version import __version__

ABOUT = "Which pixels did a super-resolution network use, and did they help?"
STOPPED = 130  # exit status after Ctrl-C, as shells have it
COMMANDS = (run, report, attribute, evaluate, train, info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 for errors of the user's making, 130 after Ctrl-C or SIGTERM."""
    options = parser().parse_args(arguments)
    try:
        with interruptible():
            options.command(options)
    except FastbgError as error:
        Console(stderr=True).print(f"fastbg: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        hint = getattr(options, "resume_hint", "")
        Console(stderr=True).print(f"\nstopped. {hint}".rstrip(), markup=False, soft_wrap=True)
        return STOPPED
    return 0


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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = argparse.ArgumentParser(prog="fastbg", description=ABOUT)
    whole.add_argument("--version", action="version", version=f"fastbg {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return whole
