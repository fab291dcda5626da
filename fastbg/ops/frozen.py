"""When an operator that replaces several layers of a network runs natively, and when in PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from fastbg.registration.dispatch import Place, select
from fastbg.registration.operator import has_tangent


def why_plain(op: str, x: Tensor, parameters: Sequence[Tensor], backend: str) -> str | None:
    """The reason why PyTorch's own functions must compute `op`; None if a kernel can.

    Called at every call of the operator: cheap conditions first.
    """
    reason = why_layers(x, parameters)
    if reason is not None:
        return reason
    if select(op, Place(x.device, x.dtype), backend) == "torch":
        return "the torch backend is PyTorch's own functions"
    if x.dtype != torch.float32:
        return f"it computes in float32, not {x.dtype}"
    return None


def why_layers(x: Tensor, parameters: Sequence[Tensor]) -> str | None:
    """The reason why layers must run one by one, on any backend; None if they need not."""
    if torch.compiler.is_compiling():
        return "torch.compile compiles PyTorch's own functions"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace records PyTorch's own functions"
    if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
        return "it has no gradient for parameters; freeze them"
    transforms = torch._C._are_functorch_transforms_active()
    if (
        is_functorch_wrapped_tensor(x)
        or (transforms and any(is_functorch_wrapped_tensor(p) for p in parameters))
        or (forward_ad._current_level >= 0 and has_tangent(x, *parameters))
    ):
        return "torch.func and forward-mode derivatives need PyTorch's own functions"
    device, dtype = x.device, x.dtype
    if any(t.dtype is not dtype or t.device != device for t in parameters):
        return "parameters of another device or dtype"
    return None
