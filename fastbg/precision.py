"""The precision of float32 arithmetic: IEEE, unless the caller asks for TF32 or bfloat16.

PyTorch runs float32 convolutions on GPUs in TF32 (10 bits of mantissa) by default, and
`torch.set_float32_matmul_precision` may lower matrix products on GPUs and CPUs. fastbg's networks,
attributions and reference operators set these flags for the time of a pass and then restore them.
The flags belong to the process: other threads see them during a pass, too. While passes of several
threads overlap, the flags are those of the strictest of them, and the last to end restores them.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.vocabulary import PRECISIONS as KINDS

_asked: ContextVar[str] = ContextVar("precision", default="ieee")

P = ParamSpec("P")
T = TypeVar("T")
Owner = TypeVar("Owner")


def current() -> str:
    """The precision of float32 passes here: "ieee", "tf32" or "bf16"."""
    return _asked.get()


@contextmanager
def use_precision(kind: str) -> Iterator[None]:
    """Inside ``with``, run fastbg's float32 passes in another precision.

    Args:
        kind: "ieee", the default: float32 as in the standard. "tf32": GPUs may round the factors of
            products to 10 bits of mantissa, which is faster; on CPUs nothing changes. "bf16":
            networks run under `torch.autocast` to bfloat16 (7 bits) on every device; their images
            stay float32. Sums are float32 in all three, and fastbg's own operators give float32.
            Networks in float64, float16 or bfloat16 stay as they are.

    Raises:
        InvalidArgument: another `kind`.

    Example:
        >>> import torch, fastbg
        >>> with fastbg.use_precision("tf32"):
        ...     fastbg.gram(torch.ones(1, 1, 2, 2))
        tensor([[[4.]]])
    """
    if kind not in KINDS:
        raise InvalidArgument("precision", repr(kind), f"one of {', '.join(KINDS)}")
    token = _asked.set(kind)
    try:
        yield
    finally:
        _asked.reset(token)


def check_precision(
    kind: str, device: torch.device, dtype: torch.dtype = torch.float32, name: str = "precision"
) -> str:
    """`kind`, or InvalidArgument naming `name` where a run would record what it did not have."""
    if kind not in KINDS:
        raise InvalidArgument(name, repr(kind), f"one of {', '.join(KINDS)}")
    if kind == "tf32" and device.type != "cuda":
        raise InvalidArgument(
            name, repr(kind), f"ieee or bf16 on {device.type}: TF32 is arithmetic of NVIDIA GPUs"
        )
    if kind != "ieee" and dtype != torch.float32:
        short = str(dtype).removeprefix("torch.")
        raise InvalidArgument(
            name, repr(kind), f"ieee: networks in {short} have no float32 to round"
        )
    return kind


class _Passes:
    """The passes that run now, in any thread, and the flags as they were before the first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running: dict[object, tuple[int, str]] = {}  # thread and precision, outermost first
        self._changed: dict[int, tuple[Any, str, Any]] = {}  # by position: owner, name, value
        self._kind = "ieee"  # that the flags are set to

    def enter(self, key: object, kind: str) -> None:
        with self._lock:
            self._running[key] = threading.get_ident(), kind
            self._set(self._wanted())

    def leave(self, key: object) -> None:
        with self._lock:
            self._running.pop(key, None)
            if not self._running:
                while self._changed:
                    _, (owner, name, was) = self._changed.popitem()
                    setattr(owner, name, was)
            elif (kind := self._wanted()) != self._kind:
                self._set(kind)

    def _wanted(self) -> str:
        """TF32 if nobody asks for more; of passes within one another, the innermost asks."""
        asked = set(dict(self._running.values()).values())
        return "tf32" if asked == {"tf32"} else "ieee"

    def _set(self, kind: str) -> None:
        self._kind = kind
        for position, (owner, name, wanted) in enumerate(_flags(kind)):
            was = getattr(owner, name)
            if was != wanted:
                setattr(owner, name, wanted)
                self._changed.setdefault(position, (owner, name, was))


_passes = _Passes()


@contextmanager
def held() -> Iterator[None]:
    """PyTorch's flags as `current()` says, restored exactly once no pass of any thread runs."""
    key = object()
    try:
        _passes.enter(key, current())
        yield
    finally:
        _passes.leave(key)


def in_precision(function: Callable[P, T]) -> Callable[P, T]:
    """`function` under `held`. A graph that torch.compile traces takes the flags of its caller."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with held():
            return function(*args, **kwargs)

    return run


def in_network_precision(
    forward: Callable[Concatenate[Owner, Tensor, P], Tensor],
) -> Callable[Concatenate[Owner, Tensor, P], Tensor]:
    """A network's `forward(self, x, ..)` under `held`, and under autocast where bf16 is asked for.

    What it returns has the dtype of `x` then. A graph that torch.compile traces takes the flags and
    the autocast of its caller.
    """

    @functools.wraps(forward)
    def run(self: Owner, x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            return forward(self, x, *args, **kwargs)
        dtype = autocast_dtype(x.dtype)
        with held(), nullcontext() if dtype is None else torch.autocast(x.device.type, dtype):
            y = forward(self, x, *args, **kwargs)
        return y if dtype is None else y.to(x.dtype)

    return cast(Callable[Concatenate[Owner, Tensor, P], Tensor], run)


def autocast_dtype(dtype: torch.dtype = torch.float32) -> torch.dtype | None:
    """The autocast dtype for a network of `dtype`; None: no autocast."""
    return torch.bfloat16 if current() == "bf16" and dtype == torch.float32 else None


class _MatmulPrecision:
    """torch.set_float32_matmul_precision as an attribute: all there is before torch 2.9."""

    @property
    def level(self) -> str:
        return torch.get_float32_matmul_precision()

    @level.setter
    def level(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


class _Setting:
    """A node of the tree of settings of torch >= 2.9, where "none" means what its parent says.

    Through the public attributes a child shows its parent's value, and mkldnn's own sets another.
    """

    def __init__(self, backend: str, operation: str) -> None:
        self._key = backend, operation

    @property
    def value(self) -> str:
        return str(torch._C._get_fp32_precision_getter(*self._key))

    @value.setter
    def value(self, value: str) -> None:
        torch._C._set_fp32_precision_setter(*self._key, value)


@functools.cache
def _flags(kind: str) -> list[tuple[Any, str, Any]]:
    """Owner, name and wanted value of each flag that PyTorch has for it; parents come first.

    A parent is cleared before its children are read, so that each shows what it holds itself and
    gets just that back.
    """
    backends: Any = torch.backends
    # The same bits in every run: cuDNN neither tries algorithms out nor adds with atomics.
    same = [(backends.cudnn, "deterministic", True), (backends.cudnn, "benchmark", False)]
    products = "tf32" if kind == "tf32" else "ieee"  # autocast does what bf16 asks for
    if hasattr(torch._C, "_get_fp32_precision_getter"):  # torch >= 2.9
        parents = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all")]
        found: list[tuple[Any, str, Any]] = [(_Setting(*key), "value", "none") for key in parents]
        for backend, wanted in (("cuda", products), ("mkldnn", "ieee")):
            found += [(_Setting(backend, op), "value", wanted) for op in ("matmul", "conv", "rnn")]
        return found + same
    tf32 = kind == "tf32"
    # Setting the level sets cuda.matmul.allow_tf32 too.
    levels = [(_MatmulPrecision(), "level", "high" if tf32 else "highest")]
    return [*levels, (backends.cudnn, "allow_tf32", tf32), *same]
