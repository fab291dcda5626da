"""How much a network's backward pass keeps, and how to make it keep less."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from fastbg.errors import InvalidArgument

# What a pass needs in all, in units of what it saves for backward: the saved tensors, and the
# gradients and work space of the layers under way.
PEAK_OVER_SAVED = 2.0


class OverBudget(Exception):
    """Raised inside a forward pass that saves more than its budget; callers never see it."""


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
        return tensor


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; everything is restored afterwards."""
    training = [m for m in model.modules() if m.training]
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """The blocks of the network's largest stack keep their inputs only and run again in backward.

    Does nothing unless `wanted`. Raises InvalidArgument for a model that has no nn.Sequential or
    nn.ModuleList of blocks.
    """
    if not wanted:
        yield
        return
    stacks = [
        stack
        for stack in model.modules()
        if isinstance(stack, nn.Sequential | nn.ModuleList) and len(stack) > 1
    ]
    if not stacks:
        raise InvalidArgument(
            "memory_budget",
            f"too little for one pass of {type(model).__name__}",
            "more, as this model has no nn.Sequential or nn.ModuleList of blocks to recompute",
        )
    # The outermost of the largest: modules() lists parents before their children.
    blocks = list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters())))
    plain = [block.forward for block in blocks]

    def rerun(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    try:
        for block, forward in zip(blocks, plain, strict=True):
            block.forward = rerun(forward)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def default_budget(device: torch.device) -> int:
    """Bytes that a pass may take: half of a GPU's free memory, or 2 GiB on CPUs."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return 2 << 30


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    """torch.autocast to `dtype`, or nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
