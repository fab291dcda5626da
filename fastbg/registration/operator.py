"""Registers an operator of fastbg with PyTorch, once and for all backends.

An operator is a function of tensors and numbers whose last argument is the backend that the caller
named. All operators get, from that function:

- eager calls and reverse mode: that backend, and the operator's own backward formula, without
  torch.library where nothing traces, transforms or observes the call;
- forward mode (``torch.func.jvp``, ``jacfwd``, ``hessian``, dual numbers): the operator taken apart
  into plain PyTorch, whose functions have every derivative. A named backend other than "torch"
  raises BackendUnavailable;
- ``torch.func.vmap``: one call after the other, on any backend;
- autocast: off inside, so that it changes neither a result nor a gradient;
- an operator without a derivative: NoDerivative, when one is asked for.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import Function, forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.nn import Parameter

from fastbg.errors import NoDerivative
from fastbg.precision import current, use_precision
from fastbg.registration.dispatch import Place, select

_LIBRARY = torch.library.Library("fastbg", "FRAGMENT")


def in_own_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with autocast switched off for the device of its tensors."""

    @wraps(function)
    def run(*args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if not torch.is_autocast_enabled(device):
            return function(*args)
        with torch.autocast(device, enabled=False):
            return function(*args)

    return run


class Operator:
    """``torch.ops.fastbg.<name>``, called like the function that computes it."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        self.name = compute.__name__
        self.__doc__ = compute.__doc__
        self._compute = in_own_precision(compute)
        self._backward: Callable[..., Any] | None = None
        self._keep: Callable[..., None] | None = None
        schema = torch.library.infer_schema(compute, mutates_args=())
        _LIBRARY.define(self.name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        self._overload = getattr(torch.ops.fastbg, self.name).default
        self._function, self._one_level = self._autograd_functions()
        _LIBRARY.impl(self.name, self._compute, "CompositeExplicitAutograd")
        _LIBRARY.impl(self.name, self._differentiable, "Autograd", with_keyset=True)
        torch.library.register_vmap(f"fastbg::{self.name}", self._one_by_one, lib=_LIBRARY)

    def __call__(self, *args: Any) -> Any:
        if not _is_plain_call(args):
            return self._overload(*args)
        # The same without torch.library's layers, which cost more than a small kernel.
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return self._function.apply(*args, None)
        return self._compute(*args)

    def register_fake(self, shape_of: Callable[..., Any]) -> Callable[..., Any]:
        """`shape_of` gives an empty result; it stands in where tensors have no data."""
        torch.library.register_fake(f"fastbg::{self.name}", shape_of, lib=_LIBRARY)
        return shape_of

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., None]
    ) -> None:
        """`setup_context(ctx, inputs, output)` keeps what `backward(ctx, *grads)` needs."""
        self._backward, self._keep = in_own_precision_of_gradient(backward), setup_context

    def _below(self, keyset: Any, args: tuple[Any, ...]) -> Any:
        if keyset is None:
            return self._compute(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return self._overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def _autograd_functions(self) -> tuple[Any, Any]:
        """The operator with its backward formula, for plain reverse mode and for torch.func's."""

        def forward(ctx: Any, *args: Any) -> Any:
            *inputs, keyset = args
            result = self._below(keyset, tuple(inputs))
            ctx.asked_precision = current()  # on GPUs backward runs in another thread
            if self._keep is not None:
                self._keep(ctx, tuple(inputs), result)
            return result

        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            if self._backward is None:
                raise self._no_derivative()
            with use_precision(ctx.asked_precision):
                return (*self._backward(ctx, *grads), None)

        def forward_of_level(ctx: Any, *args: Any) -> Any:
            # A forward runs without derivatives: of this level, not of those around it.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                return forward(ctx, *args)

        plain = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        level = {**plain, "forward": staticmethod(forward_of_level)}
        return (
            type(self.name, (Function,), plain),
            type(self.name, (_SingleLevelFunction,), level),
        )

    def _differentiable(self, keyset: Any, *args: Any) -> Any:
        if has_tangent(*args):
            return self._in_plain_pytorch(args)
        if not torch.is_grad_enabled() or not torch._C._any_requires_grad(*args):
            return self._below(keyset, args)
        if not _in_transform():
            return self._function.apply(*args, keyset)
        # torch.func has called this for one of its levels, which is all that is to be derived here.
        with enable_single_level_autograd_function():
            return self._one_level.apply(*args, keyset)

    def _in_plain_pytorch(self, args: tuple[Any, ...]) -> Any:
        """Replaces the operator in forward mode: tangents pass through PyTorch's functions."""
        if self._backward is None:
            raise self._no_derivative()
        like = next(arg for arg in args if isinstance(arg, Tensor))
        if torch.is_autocast_enabled(like.device.type) and _in_transform():
            raise NoDerivative(
                f"{self.name}: torch.func would compute forward-mode derivatives in autocast's "
                "precision; leave autocast for them"
            )
        *inputs, backend = args
        if backend != "torch":
            backend = select(self.name, Place(like.device, like.dtype, forward_mode=True), backend)
        return self._compute(*inputs, backend)

    def _no_derivative(self) -> NoDerivative:
        return NoDerivative(
            f"{self.name} has no derivative: pass tensors that need none (x.detach()), or use "
            "operators that have one"
        )

    def _one_by_one(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """The rule of vmap: the batch's results, stacked in front."""
        results = [
            self(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], tuple):
            return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])
        return torch.stack(results), 0


def in_own_precision_of_gradient(backward: Callable[..., Any]) -> Callable[..., Any]:
    """`in_own_precision` of a backward formula, whose first argument is the context."""

    def run(ctx: Any, *grads: Tensor) -> Any:
        return in_own_precision(lambda *grads: backward(ctx, *grads))(*grads)

    return run


_SEQUENCES = (list, tuple)


def _is_plain_call(args: tuple[Any, ...]) -> bool:
    """Whether tensors with data are given, and nobody wants to see the operator called."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
        and not _in_transform()
        and all(map(_is_plain, args))
    )


def _is_plain(arg: Any) -> bool:
    if not isinstance(arg, Tensor):
        # Of a list of ints only the first is checked: networks pass more than a hundred ints.
        nested = isinstance(arg, _SEQUENCES) and not (arg and type(arg[0]) is int)
        return not nested or all(map(_is_plain, arg))
    return (
        (type(arg) is Tensor or type(arg) is Parameter)
        and not arg.is_meta
        and not arg.is_neg()  # their memory holds other numbers, which torch.library resolves
        and not arg.is_conj()
        and not is_functorch_wrapped_tensor(arg)
        and not is_legacy_batchedtensor(arg)  # of torch.autograd.grad(is_grads_batched=True)
    )


def _in_transform() -> bool:
    """Whether a transform of torch.func is active."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def has_tangent(*args: Any) -> bool:
    """Whether a tensor of `args` carries a derivative of the innermost forward-mode level."""
    if forward_ad._current_level < 0:
        return False
    return any(
        isinstance(arg, Tensor) and forward_ad.unpack_dual(arg).tangent is not None for arg in args
    )
