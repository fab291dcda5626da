"""The command `fastbg` and its subcommands, see `fastbg.cli.arguments`."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from fastbg.cli.arguments import parser
from fastbg.errors import FastbgError
from fastbg.printable import printable, printable_lines
from fastbg.working_folder import is_removed

STOPPED = 130  # exit status after Ctrl-C, as shells have it
UNREAD = 141  # after SIGPIPE, likewise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0; 1 if some images were left out; 2 for errors in the input; 130 after Ctrl-C or SIGTERM; 141
    if the reader of the output has stopped, as in `| head`.
    """
    with every_character():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    hint = ""
    try:
        options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
        try:
            with interruptible():
                return options.command(options) or 0
        finally:
            hint = getattr(options, "resume_hint", "")
    except FastbgError as error:
        say(f"fastbg: {error}", style="red")
        return 2
    except KeyboardInterrupt:
        say(f"\nstopped. {hint}".rstrip())
        return STOPPED
    except BrokenPipeError:
        # Otherwise Python flushes again at exit, and reports the same error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except OSError as error:  # a full disk, no right to write, a name that is too long
        say(f"fastbg: {_refusal(error)}", style="red")
        return 2


def _refusal(error: OSError) -> str:
    """What the file system refuses, and for which file."""
    if isinstance(error, FileNotFoundError) and is_removed():
        return (
            "the working folder was removed, and a path of this command is relative to it: give "
            "absolute paths, or begin in a folder that exists"
        )
    if isinstance(error.filename, (str, bytes)) and error.strerror is not None:
        return f"{printable(os.fsdecode(error.filename))}: {error.strerror}"
    return str(error)


def say(text: str, style: str = "") -> None:
    """Print to the error stream."""
    from rich.console import Console

    Console(stderr=True).print(printable_lines(text), style=style, markup=False, soft_wrap=True)


@contextmanager
def every_character() -> Iterator[None]:
    """Inside, characters that the output's encoding lacks are printed as escapes, not refused."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            stream.reconfigure(errors=errors)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the command with clean-up; a second one ends it at once.

    Finished results are on disk, so neither loses any.
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
