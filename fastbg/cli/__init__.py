"""The command `fastbg`: run, report, attribute, evaluate, train, info."""

import argparse
from collections.abc import Sequence

from rich.console import Console

import fastbg
from fastbg.attribution import command as attribute
from fastbg.cli import evaluate, info, report, run, train
from fastbg.errors import FastbgError

COMMANDS = (run, report, attribute, evaluate, train, info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 2 for errors of the user's making, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except FastbgError as error:
        Console(stderr=True).print(f"fastbg: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        hint = getattr(options, "resume_hint", "")
        Console(stderr=True).print(f"\nstopped. {hint}".rstrip(), markup=False, soft_wrap=True)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = argparse.ArgumentParser(prog="fastbg", description=fastbg.__doc__)
    whole.add_argument("--version", action="version", version=f"fastbg {fastbg.__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return whole
