"""argparse with error messages of one line: the argument, what was given, what was expected."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fastbg.errors import FastbgError

MOST_SEED = 2**63 - 1


class UsageError(FastbgError):
    """Arguments that are not valid."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print the usage and exit."""

    given: Sequence[str] = ()

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse's, after noting what was given."""
        if args is not None:
            self.given = list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Rephrase argparse's error message, and raise it."""
        said = self.reworded(message)
        raise UsageError(
            said if said.endswith("?") else f"{said}; see {self.command().prog} --help"
        )

    def reworded(self, message: str) -> str:
        """argparse's messages are the same from Python 3.10 on, quotes of choices aside."""
        missing = re.fullmatch(r"the following arguments are required: (.+)", message)
        if missing:
            return self.missing(missing[1].split(", "))
        strange = re.fullmatch(r"unrecognized arguments: (.+)", message)
        if strange:
            return self.command().strange(strange[1].split(" ")[0])
        ambiguous = re.fullmatch(r"ambiguous option: (\S+) could match (.+)", message)
        if ambiguous:
            return f"{ambiguous[1]}: could be any of {ambiguous[2]}; write it in full"
        about = re.fullmatch(r"argument (.+?): (.+)", message, flags=re.DOTALL)
        if about is None:
            return message
        name, problem = about[1].rpartition("/")[2], about[2]
        if problem.startswith("expected "):
            return f"{name}: got {self.values(name)}; expected {self.wanted(name)}"
        choice = re.fullmatch(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", problem)
        if choice:
            known = choice[2].replace("'", "").split(", ")
            expected = f"one of {', '.join(known)}"
            return f"{name}: got {choice[1]!r}; expected {expected}{meant(choice[1], known)}"
        extra = re.fullmatch(r"ignored explicit argument (.+)", problem)
        if extra:
            return f"{name}: got {extra[1]}; expected {name} alone, it takes no value"
        return f"{name}: {problem.replace('with argument ', 'beside ')}"

    def missing(self, names: Sequence[str]) -> str:
        """Error message for missing arguments; a misspelt option may be the cause."""
        if names == ["COMMAND"]:
            return f"COMMAND: missing; expected one of {', '.join(self.commands())}"
        options = self._option_string_actions
        for word in self.given:
            if word.startswith("--") and word.partition("=")[0] not in options:
                near = meant(word, [name for name in names if name.startswith("-")])
                if near:
                    return f"{word}: no such option of {self.prog}{near}"
        wanted = [f"{name} {self.wanted(name)}" if name in options else name for name in names]
        return f"{', '.join(names)}: missing; expected {' and '.join(wanted)}"

    def strange(self, word: str) -> str:
        """Error message for an unexpected argument."""
        if not word.startswith("-"):
            more = self.single(word)
            return f"{word}: got one argument too many; expected as in {self.usage_line()}{more}"
        near = meant(word, self._option_string_actions)
        return f"{word}: no such option of {self.prog}{near}"

    def single(self, word: str) -> str:
        """What to do if `word` is a second value of an option that takes one; else empty."""
        for name, value, extra in zip(self.given, self.given[1:], self.given[2:], strict=False):
            action = self._option_string_actions.get(name)
            if extra == word and action is not None and action.nargs is None:
                repeated = isinstance(action, argparse._AppendAction)
                return f"; {name} takes one value" + f": {name} {value} {name} {word}" * repeated
        return ""

    def usage_line(self) -> str:
        """The positional arguments."""
        names = [str(a.metavar or a.dest) for a in self._get_positional_actions()]
        return f"{self.prog} {' '.join(names)}".rstrip()

    def commands(self) -> dict[str, "Parser"]:
        """The commands' parsers by name; empty in one of them."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return dict(action.choices)
        return {}

    def command(self) -> "Parser":
        """The parser of the command that was given."""
        commands = self.commands()
        return next((commands[word] for word in self.given if word in commands), self)

    def wanted(self, name: str) -> str:
        """The values of an option: "Y X SIZE"."""
        action = self._option_string_actions.get(name)
        metavar = None if action is None else action.metavar
        if isinstance(metavar, tuple):
            return " ".join(metavar)
        if action is not None and action.choices:
            return f"one of {', '.join(map(str, action.choices))}"
        if metavar and action is not None and isinstance(action.nargs, int):
            return " ".join([metavar] * action.nargs)
        return metavar or "a value"

    def values(self, name: str) -> str:
        """The values given to an option: the words after it."""
        names = self._option_string_actions
        same = [other for other in names if names[other] is names.get(name)]
        first = next((i for i, word in enumerate(self.given) if word in same), len(self.given))
        found = []
        for word in self.given[first + 1 :]:
            if word.startswith("-") and not word[1:2].isdigit():
                break
            found.append(word)
        return repr(" ".join(found)) if found else "nothing"


# What other programs call some options.
ELSEWHERE = {
    "--lr": "--rate",
    "--learning-rate": "--rate",
    "--gpu": "--device",
    "--cuda": "--device",
    "--output": "--out",
    "--dataset": "--data",
    "--weights": "--model",
}


def meant(word: str, known: Iterable[str]) -> str:
    """A question, if one of `known` is near, or the same elsewhere; else empty."""
    name, known = word.partition("=")[0], list(known)
    near = [same] if (same := ELSEWHERE.get(name)) in known else []
    near = near or difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def whole(least: int | None = None) -> Callable[[str], int]:
    """A type for whole numbers, at least `least`."""
    expected = "a whole number" + ("" if least is None else f", at least {least}")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text!r}; expected {expected}") from None
        if least is not None and value < least:
            raise argparse.ArgumentTypeError(f"got {value}; expected {expected}")
        return value

    return parse


def seed(text: str) -> int:
    """A type for seeds, which random generators take as 64 bits."""
    value = whole(0)(text)
    if value > MOST_SEED:
        raise argparse.ArgumentTypeError(f"got {value}; expected at most {MOST_SEED}")
    return value


def filled(text: str) -> str:
    """A type for names of files. "" would be the working folder: a shell variable without value."""
    if not text:
        raise argparse.ArgumentTypeError("got ''; expected a path that is not empty")
    return text


def path(text: str) -> Path:
    """A type for paths of files and folders."""
    return Path(filled(text))


def number(text: str) -> float:
    """A type for finite numbers."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number")
    return value
