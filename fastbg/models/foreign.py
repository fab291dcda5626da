"""Calls of foreign modules: find the SR image in what they return, report what they raise."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from fastbg.errors import FastbgError, InvalidArgument


def super_resolve(module: nn.Module, x: Tensor, name: str, scale: int | None = None) -> Tensor:
    """SR image (B,C,s*h,s*w) that `module` returns for `x` (B,C,h,w).

    The module receives a copy, so it may write to its input. A returned tuple, list, mapping or
    dataclass is searched for the image: the only tensor of the largest scale (or of `scale`).

    Raises InvalidArgument on argument `name` for any other result, and for an error of the module,
    which becomes its cause.
    """
    answer = guarded(lambda: module(x.clone()), name, f"for an input {tuple(x.shape)}")
    tensors = [value for value in _tensors(answer) if _magnified(x, value)]
    wanted = scale or max((value.shape[-1] // x.shape[-1] for value in tensors), default=0)
    found = [value for value in tensors if value.shape[-1] == wanted * x.shape[-1]]
    if len(found) != 1:
        batch, channels, height, width = x.shape
        factor = scale or "s"
        raise InvalidArgument(
            name,
            f"an output {_described(answer)} for an input {tuple(x.shape)}",
            f"one SR image ({batch}, {channels}, {factor} * {height}, {factor} * {width})",
        )
    return found[0]


def guarded(call: Callable[[], object], name: str, about: str) -> object:
    """The result of `call`; an error inside it becomes InvalidArgument on `name`.

    Out-of-memory errors are passed on: they say nothing about the module.
    """
    if torch.compiler.is_compiling():
        return call()
    try:
        return call()
    except (FastbgError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise InvalidArgument(
            name,
            f"{type(error).__name__}: {said} ({about})",
            "a module that runs; its own error is above",
        ) from error


def _tensors(answer: object) -> Iterator[Tensor]:
    """The tensors in a result, nested containers included."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from _tensors(value)
    elif isinstance(answer, tuple | list):
        for value in answer:
            yield from _tensors(value)
    elif is_dataclass(answer) and not isinstance(answer, type):
        for field in fields(answer):
            yield from _tensors(getattr(answer, field.name))


def _magnified(x: Tensor, y: Tensor) -> bool:
    """Whether `y` may be an SR image of `x`: the same batch and channels, sides s times as long."""
    if y.dim() != 4 or y.shape[:2] != x.shape[:2] or not y.is_floating_point():
        return False
    scale = y.shape[-1] // x.shape[-1]
    return scale >= 1 and y.shape[-2:] == tuple(scale * side for side in x.shape[-2:])


def _described(answer: object) -> str:
    if isinstance(answer, Tensor):
        return f"of shape {tuple(answer.shape)}"
    shapes = ", ".join(str(tuple(value.shape)) for value in _tensors(answer))
    return f"{type(answer).__name__} of tensors {shapes or '(none)'}"
