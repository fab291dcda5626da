"""Options of experiments; one declaration gives type, default, range, meaning and help text.

A field of a class derived from `Options`, such as

    count: int = option(69, "images; the paper: 150", low=1)

is read from the command line, checked, listed by `fastbg options` and explained in the report. To
change only the default, a subclass declares the field without `option`; range and meaning are
inherited.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from fastbg.errors import InvalidArgument

T = TypeVar("T")
Class = TypeVar("Class", bound="Options")


def option(
    default: T,
    meaning: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    before: T | None = None,
    **choices: str,
) -> T:
    """Declare an option.

    Args:
        default: its default value.
        meaning: a phrase for help and report, with units in words, such as "HR pixels".
        low, high: smallest and largest value of a number.
        before: for an option added later, the value that gives the earlier behaviour. Runs stored
            without the option count as runs with this value.
        choices: the meaning of each word of a Literal.
    """
    about = {"meaning": meaning, "low": low, "high": high, "before": before, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


class Declared(NamedTuple):
    """The declaration of an option."""

    name: str
    type: Any  # int, float, str, or a Literal of words
    default: Any
    meaning: str
    low: float
    high: float
    before: Any  # None: the option is as old as its experiment
    choices: Mapping[str, str]

    @property
    def expected(self) -> str:
        """The allowed values in words, such as "a whole number, at least 1"."""
        if get_origin(self.type) is Literal:
            return f"one of {', '.join(get_args(self.type))}"
        kind = {int: "a whole number", float: "a number"}.get(self.type, "text")
        if self.high < math.inf:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind}, at least {self.low:g}" if self.low > -math.inf else kind

    @property
    def description(self) -> str:
        """The meaning, followed by the meaning of each choice."""
        choices = "; ".join(f"{word}: {meaning}" for word, meaning in self.choices.items())
        return f"{self.meaning} ({choices})" if choices else self.meaning

    def parse(self, text: str, owner: str) -> Any:
        """The value given as `text`; InvalidArgument naming `owner`.name if it is not allowed."""
        try:
            value = text if get_origin(self.type) is Literal else self.type(text)
        except ValueError:
            raise InvalidArgument(f"{owner}.{self.name}", repr(text), self.expected) from None
        self.check(value, owner)
        return value

    def check(self, value: Any, owner: str) -> None:
        """Raise InvalidArgument for a value that is not allowed."""
        if get_origin(self.type) is Literal:
            good = value in get_args(self.type)
        else:
            good = isinstance(value, str) or (
                math.isfinite(value) and self.low <= value <= self.high
            )
        if not good:
            raise InvalidArgument(f"{owner}.{self.name}", repr(value), self.expected)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that every experiment has; stored with the run."""

    kernel: Literal["matlab", "pil"] = option(
        "matlab",
        # The same for composites and for the images they are made of, see fastbg.composite_lr.
        "bicubic down-sampling to the LR input, rounded to 8 bit once at the end",
        matlab="as imresize does",
        pil="as Pillow does",
    )
    channel: Literal["rgb", "y"] = option("rgb", "channels of PSNR", y="luma of BT.601")
    lr: Literal["made", "paired"] = option(
        "made", "the LR input", made="from the HR image", paired="the data set's own LR file"
    )

    @classmethod
    def declared(cls) -> dict[str, Declared]:
        """The options by name, in the order of their declaration."""
        hints = get_type_hints(cls)
        found = {}
        for field in dataclasses.fields(cls):
            # A subclass may give a new default only; the declaration is in a base class.
            kinds = (kind.__dict__.get("__dataclass_fields__", {}) for kind in cls.__mro__)
            told = (fields[field.name].metadata for fields in kinds if field.name in fields)
            about: Mapping[str, Any] = next(filter(None, told), {})
            found[field.name] = Declared(
                field.name,
                hints[field.name],
                field.default,
                about.get("meaning", ""),
                about.get("low", -math.inf),
                about.get("high", math.inf),
                about.get("before"),
                about.get("choices", {}),
            )
        return found

    @classmethod
    def parse(cls: type[Class], texts: Mapping[str, str], owner: str) -> Class:
        """Options with the fields in `texts` set. Raises InvalidArgument naming `owner`.field."""
        known = cls.declared()
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {owner}.{near[0]}?" if near else ""
                expected = f"an option of {owner}: {', '.join(known)}{hint}"
                raise InvalidArgument(f"{owner}.{name}", repr(text), expected)
            values[name] = known[name].parse(text, owner)
        return cls(**values)

    def check(self, owner: str) -> None:
        """InvalidArgument, naming `owner`.field, for a value that is not allowed."""
        for name, declared in self.declared().items():
            declared.check(getattr(self, name), owner)

    def check_pairing(self, owner: str) -> None:
        """InvalidArgument for domain "hr" together with the data set's own LR images."""
        if self.lr == "paired" and getattr(self, "domain", "lr") == "hr":
            raise InvalidArgument(f"{owner}.domain", "'hr'", "'lr', as paired LR images are used")


def integers(name: str, text: str, among: int) -> list[int]:
    """The integers in the text of an option such as "0,32,48", ascending.

    Raises InvalidArgument naming the option unless there are at least two different ones, with
    `among` one of them.
    """
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if len(found) < 2 or among not in found:
        expected = f"different integers, separated by commas, {among} among them"
        raise InvalidArgument(name, repr(text), expected)
    return found
