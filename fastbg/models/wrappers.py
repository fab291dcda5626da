"""Finds the weights inside a training framework's file: nested dictionaries, prefixes of keys.

No list of frameworks is needed. A file is searched for dictionaries of named tensors
(`tensor_dictionaries`), and each of them for the prefix of a network's keys (`prefixes`, `peeled`).
Other keys beside a network are accepted only if they are known not to belong to it.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fastbg.models.files.pickled import StandIn

DEEPEST = 8  # dictionaries in dictionaries, and prefixes in prefixes
# Wrappers of torch.compile, FSDP and activation checkpointing, also inside keys.
INSIDE = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Modules and counters stored beside a network in training, by the first part of their keys.
BESIDE = re.compile(
    r"(.*_)?(ema|loss|losses|criterion|criteria|perceptual|percep|vgg|lpips|cri)(_.*)?"
    r"|(.*_)?(discriminator|disc|critic|netd|net_d|metric|metrics|psnr|ssim)(_.*)?"
    r"|n_averaged|step|steps|step_counter|initted|num_updates|decay|data_preprocessor",
    re.IGNORECASE,
)
# Tensors of optimizers, which use the names of the network's tensors.
OPTIMIZER = re.compile(r"(.*_)?(optim|optimizers?|exp_avg|exp_avg_sq|momentum|grads?)(_.*)?", re.I)
AVERAGED = re.compile(r"(^|[._\-/ ])ema($|[._\-/ ])|averaged|(^|[._])swa($|[._])", re.IGNORECASE)


class Found(NamedTuple):
    """Named tensors, and where in the file they are."""

    place: str  # such as "state_dict / generator."; empty: the file itself
    state: dict[str, Tensor]

    @property
    def averaged(self) -> bool:
        """Whether the place says that these are averages over training steps (EMA)."""
        return bool(AVERAGED.search(self.place))


class LayoutError(Exception):
    """Keys or shapes differ from those of the network."""


def tensor_dictionaries(content: object) -> list[Found]:
    """Every dictionary of named tensors in a loaded file, outermost first; LayoutError if none.

    Those of an optimizer are left out.
    """
    if isinstance(content, Tensor | StandIn) or not isinstance(content, Mapping | Sequence):
        kind = type(content).__name__
        whole = "; save its state_dict() instead" if isinstance(content, StandIn) else ""
        raise LayoutError(f"holds a {kind}, no dictionary of tensors{whole}")
    found = list(_walk(content, "", set(), DEEPEST))
    if not found:
        kind = type(content).__name__
        if not isinstance(content, Mapping) or not content:
            raise LayoutError(f"holds a {kind}, no dictionary of tensors")
        raise LayoutError(f"holds no tensors under {', '.join(map(str, [*content][:4]))}")
    return found


def _walk(content: object, place: str, seen: set[int], depth: int) -> Iterator[Found]:
    if id(content) in seen or depth == 0:
        return
    seen.add(id(content))
    if isinstance(content, Mapping):
        if "param_groups" in content:  # an optimizer's state
            return
        state = {
            INSIDE.sub("", key): value
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Tensor)
        }
        if state:
            yield Found(place, state)
        inner = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list | tuple):
        inner = [(f"[{i}]", value) for i, value in enumerate(content)]
    else:
        return
    for key, value in inner:
        if isinstance(value, Mapping | list | tuple) and not OPTIMIZER.fullmatch(key):
            yield from _walk(value, f"{place} / {key}" if place else key, seen, depth - 1)


def under_prefix(found: Found, prefix: str) -> Found:
    """The part of `found` whose keys begin with `prefix`, without it."""
    state = {k[len(prefix) :]: v for k, v in found.state.items() if k.startswith(prefix)}
    return Found(_place(found.place, prefix), state)


def prefixes(state: Mapping[str, Tensor], first_keys: Collection[str]) -> list[str]:
    """The prefixes before one of `first_keys`, in the order of the keys."""
    ends = {
        key[: len(key) - len(first)]
        for key in state
        for first in first_keys
        if key == first or key.endswith("." + first)
    }
    return sorted(ends, key=lambda prefix: (len(prefix), prefix))


def strangers(found: Mapping[str, Tensor], inside: Collection[str]) -> list[str]:
    """Keys outside of all prefixes `inside` that may belong to a network."""
    return [
        key
        for key in found
        if not any(key.startswith(prefix) for prefix in inside)
        and not any(BESIDE.fullmatch(part) for part in key.split(".")[:2])
    ]


def peeled(found: Found, depth: int = DEEPEST) -> Iterator[Found]:
    """`found`, then without the first part of its keys, and so on while all keys share one.

    Modules stored beside a network in training are ignored.
    """
    yield found
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in found.state.items():
        first, dot, rest = key.partition(".")
        parts.setdefault(first + dot, {})[rest or first] = value
    kept = [part for part in parts if not BESIDE.fullmatch(part.rstrip("."))]
    averaged = [part for part in parts if part.endswith(".") and AVERAGED.search(part)]
    if depth and len(kept) <= 1:
        for part in (*kept, *averaged):
            if part.endswith("."):
                yield from peeled(Found(_place(found.place, part), parts[part]), depth - 1)


def choose(networks: Sequence[Found]) -> int:
    """Which of several networks in a file to take; LayoutError if that is ambiguous.

    Averaged weights (EMA) come before the others, as in BasicSR and spandrel.
    """
    averaged = [i for i, network in enumerate(networks) if network.averaged]
    chosen = averaged or [*range(len(networks))]
    if len(chosen) == 1 or all(_same(networks[chosen[0]], networks[i]) for i in chosen[1:]):
        return chosen[0]
    places = ", ".join(repr(networks[i].place or "the file itself") for i in chosen[:4])
    raise LayoutError(f"holds {len(chosen)} networks, under {places}; save one of them by itself")


def _same(one: Found, other: Found) -> bool:
    return one.state.keys() == other.state.keys() and all(
        value is other.state[key]
        or (value.shape == other.state[key].shape and bool((value == other.state[key]).all()))
        for key, value in one.state.items()
    )


def is_inside(found: Found, other: Found) -> bool:
    """Whether `found` is a part of `other`."""
    return not other.place or found.place.startswith(other.place + " / ")


def _place(place: str, prefix: str) -> str:
    return " / ".join(part for part in (place, prefix) if part)
