"""float32 is float32: the flags inside of every pass, and afterwards."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg import precision
from fastbg.errors import InvalidArgument
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR

NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def flags() -> list[Any]:
    """What PyTorch's flags are."""
    return [getattr(owner, name) for owner, name, _ in precision._flags("ieee")]


def ieee() -> list[Any]:
    """What they are to be in a pass."""
    return [wanted for _, _, wanted in precision._flags("ieee")]


class Recorder(torch.autograd.Function):
    """Passes its input on, and notes the flags of the forward and the backward pass."""

    seen: ClassVar[list[list[Any]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Recorder.seen.append(flags())
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        Recorder.seen.append(flags())
        return grad * 1


class Recording(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Recorder.apply(x).repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(autouse=True)
def _nothing_is_left_changed() -> Any:
    Recorder.seen.clear()
    before = flags()
    yield
    assert flags() == before


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "edsr": lambda: EDSR(features=4, blocks=1),
    "rcan": lambda: RCAN(features=4, groups=1, blocks=1, squeezed=2),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,)),
    "bicubic": lambda: Bicubic(4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_in_ieee_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETWORKS[name]().eval()
    seen = []
    monkeypatch.setattr(net, "denormalise", lambda y: (seen.append(flags()), y)[1])
    monkeypatch.setattr(net, "normalise", lambda y: (seen.append(flags()), y)[1])
    x = torch.rand(1, 3, 16, 16)
    net(x)
    net.forward_window(x, (8, 8, 24, 24))
    assert seen or name == "bicubic"  # which is neither scaled nor shifted
    assert all(found == ieee() for found in seen)


def test_foreign_modules_and_backward_passes_too() -> None:
    x = torch.rand(1, 3, 8, 8)
    fastbg.wrap(Recording(), 2)(x)
    fastbg.LocalAttribution(Recording()).attribute(x, (2, 2, 4), 3)
    assert len(Recorder.seen) == 1 + 1 + 2 * 3  # a pass, a trial pass, three nodes
    assert all(found == ieee() for found in Recorder.seen)


def test_flags_are_restored_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    before = flags()
    with pytest.raises(InvalidArgument):
        fastbg.wrap(Broken(), 2)(torch.rand(1, 3, 8, 8))
    assert flags() == before


def test_the_caller_may_ask_for_tf32_and_passes_may_be_nested() -> None:
    net = fastbg.wrap(Recording(), 2)
    with fastbg.use_precision("tf32"):
        assert precision.current() == "tf32"
        net(torch.rand(1, 3, 8, 8))
        with fastbg.use_precision("ieee"):
            net(torch.rand(1, 3, 8, 8))
    assert precision.current() == "ieee"
    asked = [wanted for _, _, wanted in precision._flags("tf32")]
    assert Recorder.seen == [asked, ieee()]
    with pytest.raises(InvalidArgument, match="bf15"), fastbg.use_precision("bf15"):
        pass


@pytest.mark.skipif(not NEW, reason="torch < 2.9 has no flags of single operators")
def test_the_references_keep_float32_where_the_process_lowered_it() -> None:
    x, weight = torch.rand(2, 16, 24, 24), torch.rand(16, 16, 3, 3)
    wanted = fastbg.gram(x, backend="torch"), fastbg.conv3x3(x, weight, backend="torch")
    was = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        found = fastbg.gram(x, backend="torch"), fastbg.conv3x3(x, weight, backend="torch")
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = was[0]
        torch.backends.mkldnn.conv.fp32_precision = was[1]
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not NEW, reason="torch < 2.9 has no flags of single operators")
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_gram_keep_float32_where_the_process_lowered_it(masked: bool) -> None:
    """Of first and second order: the flags are those of the moment when backward() runs."""
    start = torch.rand(2, 64, 24, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1)) if masked else None

    def gradients() -> list[Tensor]:
        x = start.clone().requires_grad_()
        loss = fastbg.gram(x, mask, backend="torch").square().sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        return [first.detach(), *torch.autograd.grad(first.square().sum(), x)]

    wanted = gradients()
    was = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        found = gradients()
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = was
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not NEW, reason="torch < 2.9 has no tree of settings")
def test_what_a_setting_inherits_is_not_written_into_it() -> None:
    """A pass under a general "tf32" must not fix it in the operators for ever."""
    was = torch.backends.fp32_precision
    own = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        fastbg.wrap(Recording(), 2)(torch.rand(1, 3, 8, 8))
        assert Recorder.seen == [ieee()]
        torch.backends.fp32_precision = was
        assert torch.backends.cuda.matmul.fp32_precision == own
    finally:
        torch.backends.fp32_precision = was
