"""Reference pages made from the code: commands from their parsers, options from their classes."""

import argparse
from collections.abc import Iterator

from fastbg.cli import parser
from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.options import Options


def commands() -> str:
    """Every command of `fastbg` with its arguments, as Markdown."""
    return "\n\n".join(command(name, made, help) for name, made, help in subcommands(parser()))


def subcommands(
    whole: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Name, parser and one line of help of each command."""
    (group,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in group._choices_actions}
    for name, made in group.choices.items():
        yield name, made, helps.get(name, "")


def command(name: str, made: argparse.ArgumentParser, help: str) -> str:
    """A section: what the command does, and a table of its arguments."""
    actions = [a for a in made._actions if not isinstance(a, argparse._HelpAction)]
    positional = " ".join(shape(a) for a in actions if not a.option_strings)
    about = made.description or f"{help[:1].upper()}{help[1:]}."
    lines = [f"## `{' '.join(filter(None, ('fastbg', name, positional)))}`", "", about]
    if actions:
        lines += ["", "| argument | meaning | default |", "|---|---|---|"]
        lines += [row(made, action) for action in actions]
    return "\n".join(lines)


def shape(action: argparse.Action) -> str:
    """The values of an argument, as usage lines write them: "Y X SIZE", "[EXPERIMENT ...]"."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
    one = action.metavar or choices or action.dest.upper()
    forms = {"*": f"[{one} ...]", "+": f"{one} ..."}
    return forms.get(str(action.nargs), one)


def row(made: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One argument."""
    names = ", ".join(action.option_strings) or shape(action)
    values = shape(action) if action.option_strings else ""
    help = made._get_formatter()._expand_help(action) if action.help else ""
    unset = action.default is None or action.default is False or action.default in ([], ())
    default = "" if unset else f"`{action.default}`"
    if action.required and action.option_strings:
        default = "required"
    return cells(f"`{f'{names} {values}'.strip()}`", help, default)


def options() -> str:
    """Every option of every experiment, as Markdown; those that all have come first."""
    shared = list(Options.declared())
    parts = ["## Every experiment", table("EXPERIMENT", Options, shared)]
    for name, kind in EXPERIMENTS.items():
        own = [option for option in kind.options_type.declared() if option not in shared]
        parts += [f"## `{name}`", f"{kind.title} ({kind.paper})"]
        parts.append(table(name, kind.options_type, own))
    return "\n\n".join(parts)


def table(owner: str, made: type[Options], names: list[str]) -> str:
    """The options `names` of the class `made`."""
    lines = ["| option | meaning | values | default |", "|---|---|---|---|"]
    for name in names:
        option = made.declared()[name]
        lines.append(
            cells(f"`{owner}.{name}`", option.description, option.expected, f"`{option.default}`")
        )
    return "\n".join(lines)


def cells(*texts: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"
