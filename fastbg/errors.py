"""The errors that fastbg raises; each message names the argument, its value and the remedy."""

import os

from fastbg.printable import printable, printable_lines


class FastbgError(Exception):
    """Base of all errors raised by fastbg; nothing in their messages steers a terminal."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*(printable_lines(p) if isinstance(p, str) else p for p in parts))


class InvalidArgument(FastbgError, ValueError):
    """An argument has a wrong value, shape, dtype or device."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        shown = printable(value) if isinstance(value, (str, os.PathLike)) else str(value)
        super().__init__(f"{argument}: got {shown}; expected {expected}")
        self.argument = argument
        self.parts = argument, shown, expected

    def __reduce__(self) -> tuple[type["InvalidArgument"], tuple[str, str, str]]:
        """Pickled by parts: errors travel between the processes of a run."""
        return type(self), self.parts


class BackendUnavailable(FastbgError, RuntimeError):
    """A named backend cannot run the operator; the message gives the reason."""


class NoDerivative(FastbgError, RuntimeError):
    """The operator has no derivative."""


class DataError(FastbgError):
    """An image file or folder cannot be used; the message names the path."""


class CheckpointError(FastbgError):
    """A weights file cannot be used; the message names the file and what is wrong with it."""


class RunStoreError(FastbgError):
    """A run folder cannot be read or written, or belongs to another configuration."""


class EngineError(FastbgError):
    """The workers of a run cannot be started, or keep dying; the message gives the reason."""
