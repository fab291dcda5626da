"""Operators and networks that PyTorch records, compiles, linearises or derives in batches."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from test_transforms import NETWORKS
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import fastbg
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.models.conv import Conv3x3

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]


class Case(NamedTuple):
    """A function of images, and images that it takes."""

    run: Callable[[Tensor], Tensor]
    images: Tensor


def attention() -> Case:
    qkv, proj = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
    parameters = torch.rand(8), torch.rand(8), qkv.weight, qkv.bias, torch.rand(49, 2)
    given = [p.detach() for p in (*parameters, proj.weight, proj.bias)]
    return Case(
        lambda x: fastbg.window_attention(x, *given, heads=2, window=4, shift=2),
        torch.rand(1, 8, 8, 12),
    )


def mlp() -> Case:
    up, down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
    parameters = torch.rand(8), torch.rand(8), up.weight, up.bias, down.weight, down.bias
    given = [p.detach() for p in parameters]
    return Case(lambda x: fastbg.pixel_mlp(x, *given), torch.rand(1, 8, 8, 12))


def net(name: str) -> Case:
    return Case(NETWORKS[name]().eval().requires_grad_(False), torch.rand(1, 3, 8, 8))


CASES: dict[str, Callable[[], Case]] = {
    "window_attention": attention,
    "pixel_mlp": mlp,
    # make_fx passes every argument that has a name: a function of one.
    "texture_gram": lambda: Case(lambda x: fastbg.texture_gram(x), torch.rand(1, 3, 9, 7)),
    "composite": lambda: Case(
        lambda x: fastbg.composite(x, x.flip(0), [[0, 1]], (1, 1, 3, 3)), torch.rand(2, 3, 6, 5)
    ),
    "blur_path": lambda: Case(lambda x: fastbg.blur_path(x, [0.0, 1.0], 5), torch.rand(1, 3, 6, 5)),
    "edsr": lambda: net("edsr"),
    "rcan": lambda: net("rcan"),
    "swinir": lambda: net("swinir"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    torch._dynamo.reset()
    return CASES[request.param]()


def close(got: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * scale)


def gradient(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Of a sum of squares."""
    leaf = images.detach().requires_grad_()
    return torch.autograd.grad(run(leaf).square().sum(), leaf)[0]


def test_one_compiled_graph_gives_values_and_gradients(case: Case) -> None:
    compiled = torch.compile(case.run, fullgraph=True, backend="aot_eager")
    close(compiled(case.images), case.run(case.images))
    close(gradient(compiled, case.images), gradient(case.run, case.images))


def test_a_recorded_graph_gives_the_values_and_gradients_of_other_images(case: Case) -> None:
    other = 0.5 + 0.5 * case.images.flip(-1)
    close(make_fx(case.run)(case.images)(other), case.run(other))
    recorded = make_fx(lambda x: gradient(case.run, x))(case.images)
    close(recorded(other), gradient(case.run, other))


def test_several_gradients_at_once_equal_single_ones(case: Case) -> None:
    leaf = case.images.clone().requires_grad_()
    out = case.run(leaf)
    upstream = torch.randn(3, *out.shape)
    several = torch.autograd.grad(out, leaf, upstream, is_grads_batched=True, retain_graph=True)[0]
    single = [torch.autograd.grad(out, leaf, u, retain_graph=True)[0] for u in upstream]
    close(several, torch.stack(single))


def test_linearize_is_forward_mode_or_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    direction = torch.randn_like(case.images)
    if isinstance(case.run, torch.nn.Module):
        with pytest.raises(BackendUnavailable, match=r"Conv3x3\.fused = False"):
            torch.func.linearize(case.run, case.images)
        monkeypatch.setattr(Conv3x3, "fused", False)
    value, derivative = torch.func.linearize(case.run, case.images)
    expected, along = torch.func.jvp(case.run, (case.images,), (direction,))
    close(value, expected)
    close(derivative(direction), along)


def test_what_is_recorded_is_still_checked_when_it_runs() -> None:
    recorded = make_fx(lambda x, p: fastbg.composite(x, x, p, (1, 1, 3, 3)))
    images, pairs = torch.rand(2, 3, 6, 5), torch.tensor([[0, 1]])
    graph = recorded(images, pairs)
    with pytest.raises(InvalidArgument, match=r"pairs\[:, 1\]: got 7"):
        graph(images, torch.tensor([[0, 7]]))
