"""Memory of a network's backward pass: measured, and reduced by recomputing blocks."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from fastbg import precision
from fastbg.errors import InvalidArgument
from fastbg.models.network import Network

# Peak memory of a pass divided by the memory of its saved tensors: it also needs gradients and work
# space of the current layers.
PEAK_OVER_SAVED = 2.0

STACKS = (nn.Sequential, nn.ModuleList)


class OverBudget(MemoryError):
    """A forward pass saves more than its budget; caught inside this package."""


class SavedBytes(saved_tensors_hooks):
    """Counts, inside ``with``, the bytes that autograd saves; raises OverBudget above `limit`."""

    def __init__(self, model: nn.Module, limit: float) -> None:
        self.count, self._limit = 0, limit
        self._known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.count += storage.nbytes()
            if self.count > self._limit:
                raise OverBudget
        # Detached: a saved output would hold its own graph, and never be freed.
        return tensor.detach()


CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")  # "2048K"
USUAL_CACHE = 512 * 1024


@cache
def second_level_cache() -> int:
    """Bytes of a core's second-level cache, as Linux tells them; elsewhere a usual size."""
    try:
        return 1024 * int(CACHE.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        return USUAL_CACHE


TRIAL = 32  # side, in LR pixels, of the image of a trial pass


def needed_bytes(model: Network, height: int, width: int) -> int:
    """Estimated memory of a pass of `model` over an LR image, with blocks recomputed if possible.

    Scaled from a pass over TRIAL x TRIAL pixels, as memory is proportional to the pixels.
    """
    x = torch.full((1, 3, TRIAL, TRIAL), 0.5, device=model.mean.device, dtype=model.mean.dtype)
    saved = SavedBytes(model, math.inf)
    with frozen(model), recomputed(model, bool(stacked_blocks(model))), torch.enable_grad(), saved:
        model(x.requires_grad_())
    return int(PEAK_OVER_SAVED * saved.count * height * width / TRIAL**2)


class _Change:
    """A change of a model, as long as calls in any thread need it: the last one undoes it."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self.undo, self.calls = undo, 0


_CHANGING = threading.Lock()
_CHANGED: dict[tuple[str, int], _Change] = {}  # by what is done, and the model's id


@contextmanager
def _changed(
    what: str, model: nn.Module, begin: Callable[[], Callable[[], None]]
) -> Iterator[None]:
    """Inside, `model` is changed by `begin`, which returns how to undo that.

    If every call did so by itself, the first to end would undo it while others still run, and the
    last would restore what it had found: the change of another.
    """
    key = what, id(model)
    with _CHANGING:
        change = _CHANGED.get(key)
        if change is None:
            change = _CHANGED[key] = _Change(begin())
        change.calls += 1
    try:
        yield
    finally:
        with _CHANGING:
            change.calls -= 1
            if not change.calls:
                del _CHANGED[key]
                change.undo()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; everything is restored afterwards.

    Several threads may use one model at once: it is restored when the last has ended.
    """

    def begin() -> Callable[[], None]:
        training = [m for m in model.modules() if m.training]
        trainable = [p for p in model.parameters() if p.requires_grad]
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)

        def undo() -> None:
            for module in training:
                module.training = True
            for parameter in trainable:
                parameter.requires_grad_(True)

        return undo

    with _changed("frozen", model, begin):
        yield


def stacked_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost blocks in the model's stacks.

    A stack is an nn.Sequential or nn.ModuleList with more than one module. A block is a module in
    it that has a `forward` and several submodules, and is not itself a stack.
    """
    parts = list(model.children())
    stacked = isinstance(model, STACKS) and len(parts) > 1
    blocks: list[nn.Module] = []
    for part in parts:
        blocks += [part] if stacked and _is_block(part) else stacked_blocks(part)
    return blocks


def _is_block(module: nn.Module) -> bool:
    runs = type(module).forward is not nn.Module.forward
    return runs and not isinstance(module, STACKS) and len(list(module.children())) > 1


@contextmanager
def recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """The model's `stacked_blocks` keep their inputs only and run again in backward.

    Does nothing unless `wanted`. Raises InvalidArgument for a model without such blocks.
    """
    if not wanted:
        yield
        return
    blocks = stacked_blocks(model)
    if not blocks:
        raise InvalidArgument(
            "memory_budget",
            f"too little for one pass of {type(model).__name__}",
            "more, as this model has no nn.Sequential or nn.ModuleList of blocks to recompute",
        )

    def rerun(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    def begin() -> Callable[[], None]:
        own = [vars(block).get("forward") for block in blocks]  # that others have put there
        for block in blocks:
            block.forward = rerun(block.forward)

        def undo() -> None:
            for block, theirs in zip(blocks, own, strict=True):
                vars(block).pop("forward", None)
                if theirs is not None:
                    block.forward = theirs

        return undo

    with _changed("recomputed", model, begin):
        yield


def default_budget(device: torch.device) -> int:
    """Bytes that a pass may take: 4 GiB on GPUs, 2 GiB on CPUs.

    It does not depend on free memory, so that batch sizes, and so the last bits, never vary.
    """
    return (4 if device.type == "cuda" else 2) << 30


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    """torch.autocast to `dtype`, or to the dtype of `use_precision`; else autocast is disabled.

    An autocast around the call has no effect.
    """
    dtype = dtype or precision.autocast_dtype()
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
