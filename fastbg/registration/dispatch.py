"""Chooses the backend that runs an operator.

Order of choice: the `backend` argument, the environment variable ``FASTBG_BACKEND``, then
``auto``. Only ``auto`` chooses; a backend that was named runs, or raises BackendUnavailable.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbg.errors import BackendUnavailable, InvalidArgument

# Operator, or class that backends have -> its family: the name of its file in ops/, registration/,
# backends/*/, csrc/, kernels/.
FAMILIES = {
    "composite": "composite",
    "composite_lr": "composite",
    "mosaic": "composite",
    "bridged_composite": "seam",
    "bridged_composite_lr": "seam",
    "blur_path": "path",
    "path_integral": "path",
    "gradient_detector": "path",
    "gradient_detector_backward": "path",
    "gram": "gram",
    "conv_gram": "gram",
    "conv3x3": "conv",
    "conv3x3_input_gradient": "conv",
    "conv3x3_weight_gradient": "conv",
    "swin_layers": "attention",
    "swin_layers_gradient": "attention",
    "conv_stack": "conv_stack",
    "conv_stack_gradient": "conv_stack",
    "ChangeableStack": "conv_stack_change",
}

# Backend -> the package that implements it.
BACKENDS = {
    "torch": "fastbg.backends.torch_reference",
    "cpu": "fastbg.backends.cpu",
    "triton": "fastbg.backends.triton",
    "cuda": "fastbg.backends.cuda",
}

# Fastest first. On GPUs our CUDA kernels come before Triton's, which compile at first use, but for
# operators that the table of bench/gpu_model.py finds clearly faster there: on an H100, Triton's
# conv_gram uses WGMMA, the CUDA one mma.sync.
PREFERENCE = {"cpu": ("cpu", "torch"), "cuda": ("cuda", "triton", "torch")}
TRITON_FIRST = frozenset({"conv_gram"})

# For these "auto" refuses forward mode on tensors that the cpu backend takes, although the torch
# backend has the right derivative: a finite difference of a whole network with a step of 1e-3
# crosses its ReLUs' kinks and differs from the true derivative by 5 to 8 %, so that comparing the
# two misleads. Empty, it gives the derivative.
FORWARD_MODE_BY_NAME = ("conv",)


class Place(NamedTuple):
    """Everything that decides whether a backend can run: device, dtype, tangents."""

    device: torch.device
    dtype: torch.dtype
    forward_mode: bool = False


def unavailable(op: str, backend: str, place: Place) -> str | None:
    """The reason why `backend` cannot run `op` there; None if it can."""
    reason: str | None = _package(backend).unavailable(place.device)
    if reason is not None:
        return reason
    if place.dtype == torch.float64 and backend != "torch":
        return "float64 is computed by the torch backend only"
    if place.forward_mode and backend != "torch":
        return "forward-mode derivatives (jvp) come from the torch backend: take it, or 'auto'"
    if not hasattr(_module(backend, FAMILIES[op]), op):
        return f"{op} is not written for it"
    return None


# Kept, as import_module and find_spec take as long as a small kernel.
@cache
def _package(backend: str) -> ModuleType:
    return import_module(BACKENDS[backend])


@cache
def _module(backend: str, family: str) -> ModuleType | None:
    """The backend's file of the family; None if it has none."""
    name = f"{BACKENDS[backend]}.{family}"
    return import_module(name) if find_spec(name) is not None else None


def select(op: str, place: Place, requested: str = "auto") -> str:
    """Name of the backend that will run `op`.

    Raises InvalidArgument for a name that is none, BackendUnavailable with the reason when the
    named backend cannot run.
    """
    name, source = requested, "backend"
    if name == "auto":
        name, source = os.environ.get("FASTBG_BACKEND", "auto"), "FASTBG_BACKEND"
    if name == "auto":
        return _automatic(op, place)
    if name not in BACKENDS:
        raise InvalidArgument(source, repr(name), f"one of {('auto', *BACKENDS)}")
    reason = unavailable(op, name, place)
    if reason is not None:
        raise BackendUnavailable(f"backend {name!r} cannot run {op}: {reason}")
    return name


def _automatic(op: str, place: Place) -> str:
    candidates = PREFERENCE.get(place.device.type, ("torch",))
    if op in TRITON_FIRST:
        candidates = tuple(sorted(candidates, key=lambda name: name != "triton"))
    usual = place._replace(forward_mode=False) if place.forward_mode else place
    chosen = next(b for b in candidates if unavailable(op, b, usual) is None)
    if not place.forward_mode or chosen == "torch":
        return chosen
    if FAMILIES[op] in FORWARD_MODE_BY_NAME:
        raise BackendUnavailable(
            f"{op}: forward-mode derivatives (jvp) come from the torch backend only, which 'auto' "
            "does not take for it on these tensors: say backend='torch', or, for a network, "
            "fastbg.models.conv.Conv3x3.fused = False"
        )
    return "torch"


def instruction_set() -> str:
    """The variant of the compiled CPU kernels that runs: "baseline", "avx2" or "avx512"."""
    return str(_package("cpu").native().isa())


def implementation(op: str, requested: str, like: Tensor) -> Callable[..., Any]:
    """The function that computes `op` on tensors such as `like`; see `select` for errors.

    Called while an operator runs, not while it is traced, so that graphs stay whole and tensors
    without data need no backend.
    """
    backend = select(op, Place(like.device, like.dtype), requested)
    function: Callable[..., Any] = getattr(_module(backend, FAMILIES[op]), op)
    return function
