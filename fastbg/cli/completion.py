"""`fastbg completion`: prints a script for shell completion."""

import argparse
from importlib import import_module
from typing import Any

from fastbg.cli.arguments import parser
from fastbg.errors import InvalidArgument
from fastbg.experiments import EXPERIMENTS


def main(arguments: argparse.Namespace) -> None:
    """Print the script."""
    try:
        shtab: Any = import_module("shtab")
    except ImportError as error:
        expected = f"shtab, which makes the script: pip install 'fastbg[completion]' ({error})"
        raise InvalidArgument("SHELL", repr(arguments.shell), expected) from error
    commands = parser()
    for command in commands.commands().values():
        for action in command._actions:
            if action.dest == "experiments":  # whose names are checked later, with a better message
                action.choices = [*EXPERIMENTS]
    print(shtab.complete(commands, shell=arguments.shell))  # nosec B604: the name of a shell
