"""Every error fastbg raises on purpose; each message names the argument, its value, the remedy."""


class FastbgError(Exception):
    """Base of all errors raised by fastbg."""


class InvalidArgument(FastbgError, ValueError):
    """An argument has a wrong value, shape, dtype or device."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{argument}: got {value}; expected {expected}")
        self.argument = argument
        self.parts = argument, str(value), expected

    def __reduce__(self) -> tuple[type["InvalidArgument"], tuple[str, str, str]]:
        """Pickled by parts: errors travel between the processes of a run."""
        return type(self), self.parts


class BackendUnavailable(FastbgError, RuntimeError):
    """A backend that was asked for by name cannot run the operator; says why."""


class NoDerivative(FastbgError, RuntimeError):
    """A derivative was asked of an operator that has none; names the operator."""


class DataError(FastbgError):
    """An image file or folder cannot be used; names the path."""


class CheckpointError(FastbgError):
    """A weights file cannot be used; names the file and what is wrong with it."""


class RunStoreError(FastbgError):
    """A run folder cannot be read or written, or belongs to another configuration."""


class EngineError(FastbgError):
    """The workers of a run cannot be started, or keep dying; says which and why."""
