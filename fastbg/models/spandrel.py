"""Networks that spandrel recognises (HAT, DAT, OmniSR, ...), with the extra ``fastbg[zoo]``.

spandrel's descriptor clamps and runs in inference mode when called, so only its `.model` is used.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastbg.models.network import Network
from fastbg.models.wrapped import Wrapped
from fastbg.models.wrappers import Found, choose, is_inside


class ZooError(Exception):
    """spandrel is not installed, or cannot build this network."""


def load_zoo(levels: Sequence[Found]) -> Network:
    """The network that spandrel recognises in one of `levels`; raises ZooError, LayoutError."""
    try:
        spandrel: Any = import_module("spandrel")
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise ZooError(
            f"if it is another network, it needs spandrel (pip install 'fastbg[zoo]'): {error}"
        ) from error
    known = _outermost([level for level in levels if _detected(spandrel, level.state)])
    if not known:
        raise ZooError("spandrel does not know this network either")
    found = known[choose(known)]
    descriptor = _built(spandrel, found)
    channels = descriptor.input_channels, descriptor.output_channels
    if channels != (3, 3):
        grey = " (grey or luma images)" if channels == (1, 1) else ""
        raise ZooError(
            f"spandrel's {descriptor.architecture.name} maps {channels[0]} channels to"
            f" {channels[1]}{grey}, not RGB to RGB: put it into a module that does, and pass that"
            " to fastbg.wrap"
        )
    sizes = descriptor.size_requirements
    infinite = [k for k, v in descriptor.model.state_dict().items() if not v.isfinite().all()]
    if infinite:
        raise ZooError(f"it has NaN or infinity in {', '.join(infinite[:4])}")
    network = Wrapped(
        descriptor.model,
        descriptor.scale,
        multiple=sizes.multiple_of or 1,
        minimum=sizes.minimum or 1,
        square=bool(sizes.square),
    )
    network.origin = found.place
    return network


def _detected(spandrel: Any, state: Mapping[str, Tensor]) -> bool:
    """Whether spandrel recognises `state`; nothing is built."""
    registry = spandrel.MAIN_REGISTRY.architectures("detection")
    return any(support.architecture.detect(dict(state)) for support in registry)


def _outermost(known: Sequence[Found]) -> list[Found]:
    """The entries of `known` that are not part of another entry."""
    return [
        found
        for i, found in enumerate(known)
        if not any(is_inside(found, other) for other in known[:i])
    ]


def _built(spandrel: Any, found: Found) -> Any:
    """spandrel's descriptor, built within a memory limit that follows from the tensors' sizes."""
    _check_numbers(found.state)
    stored = sum(value.nbytes for value in found.state.values())
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _Budget(stored):
            warnings.simplefilter("ignore")  # torch's, of spandrel's own code
            return spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(found.state))
    except Exception as error:  # what spandrel's constructors raise of tensors that do not fit
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) or type(error).__name__
        raise ZooError(f"spandrel cannot build it: {reason[:300]}") from error


def _check_numbers(state: Mapping[str, Tensor]) -> None:
    """ZooError for layer numbers with so many gaps that most layers are missing from the file."""
    numbers: dict[str, set[int]] = {}
    for key in state:
        for match in re.finditer(r"(?:^|\.)(\d{1,9})\.", key):
            numbers.setdefault(key[: match.start(1)], set()).add(int(match[1]))
    for stem, found in numbers.items():
        if max(found) > 8 * len(found) + 64:
            raise ZooError(f"it numbers {len(found)} layers {stem}N up to {max(found)}")


class _Budget(TorchDispatchMode):
    """RuntimeError for an allocation larger than a network with `stored` bytes of weights needs."""

    def __init__(self, stored: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self.left = 3 * stored + (32 << 20)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Counts what ``empty``, ``zeros``, ... would allocate, then lets them."""
        if args and isinstance(args[0], list | tuple) and all(isinstance(n, int) for n in args[0]):
            self.left -= 4 * prod(args[0])
            if self.left < 0:
                raise RuntimeError(f"it would take more than {self.most:,} bytes")
        return func(*args, **(kwargs or {}))
