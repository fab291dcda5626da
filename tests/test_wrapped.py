"""Networks of other people: what they answer, what they need, what they do to their input."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.models.edsr import EDSR


class Plain(nn.Module):
    """x4, one convolution; `answer` makes of (SR, LR) what the module answers."""

    def __init__(self, answer: Any = None, scale: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3 * scale**2, 3, padding=1)
        self.answer, self.scale_of = answer, scale

    def forward(self, x: Tensor) -> Any:
        sr = pixel_shuffle(self.conv(x), self.scale_of)
        return sr if self.answer is None else self.answer(sr, x)


@dataclass
class Output:
    sr: Tensor
    loss: float = 0.0


ANSWERS = {
    "tuple": lambda sr, x: (sr, x),
    "list": lambda sr, x: [sr],
    "dict": lambda sr, x: {"features": x.mean((2, 3)), "sr": sr},
    "ordered dict": lambda sr, x: OrderedDict(out=sr),
    "dataclass": lambda sr, x: Output(sr),
    "nested": lambda sr, x: ({"images": [sr]}, None),
}


def lam(model: nn.Module, x: Tensor, **keywords: Any) -> fastbg.AttributionResult:
    return fastbg.LocalAttribution(model).attribute(x, (8, 8, 16), 3, **keywords)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(1, 3, 12, 14)


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_sr_image_is_found_in_what_a_module_answers(kind: str, x: Tensor) -> None:
    module, plain = Plain(ANSWERS[kind]).eval(), Plain().eval()
    torch.testing.assert_close(fastbg.wrap(module)(x), plain(x))
    torch.testing.assert_close(lam(module, x).map, lam(plain, x).map)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda sr, x: (sr, sr + 1),  # which of the two?
            r"tuple of tensors \(1, 3, 48, 56\), \(1, 3, 48, 56\) for an input \(1, 3, 12, 14\)",
        ),
        (lambda sr, x: None, r"NoneType of tensors \(none\)"),
        (lambda sr, x: sr[..., :-1], "of shape"),
        (lambda sr, x: sr[:, :1], "of shape"),
        (lambda sr, x: (sr * 255).to(torch.uint8), "of shape"),
    ],
)
def test_an_answer_without_one_sr_image_is_refused(answer: Any, said: str, x: Tensor) -> None:
    for call in (fastbg.wrap(Plain(answer)), lambda z: lam(Plain(answer).eval(), z)):
        with pytest.raises(InvalidArgument, match=said):
            call(x)


def test_errors_of_a_module_are_told_as_such_with_their_cause(x: Tensor) -> None:
    def broken(sr: Tensor, z: Tensor) -> Tensor:
        raise RuntimeError("their own trouble\nand more")

    for call in (fastbg.wrap(Plain(broken)), lambda z: lam(Plain(broken).eval(), z)):
        with pytest.raises(InvalidArgument, match="RuntimeError: their own trouble") as caught:
            call(x)
        assert caught.value.argument in ("module", "model")
        assert isinstance(caught.value.__cause__, RuntimeError)

    def interrupted(sr: Tensor, z: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastbg.wrap(Plain(interrupted))(x)


def test_a_module_may_write_to_its_input(x: Tensor) -> None:
    class InPlace(Plain):
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z.mul_(0.5).add_(0.25))

    given, halved = x.clone(), fastbg.wrap(InPlace())
    torch.testing.assert_close(halved(x), Plain().eval()(0.5 * x + 0.25))
    found, wanted = lam(InPlace().eval(), x), lam(halved, x)
    torch.testing.assert_close(found.attribution, wanted.attribution)
    assert torch.equal(x, given)


class Windowed(Plain):
    """Needs multiples of `side` pixels, and at least two of them."""

    side = 8

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        assert min(h, w) >= 16, "too small"
        return super().forward(x.view(b, c, h // 8, 8, w // 8, 8).reshape(b, c, h, w))


@pytest.mark.parametrize("size", [(21, 26), (7, 9), (16, 16), (1, 40)])
def test_images_are_reflected_to_what_a_module_needs(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    net = fastbg.wrap(Windowed(), 4, multiple=8, minimum=16)
    assert net(x).shape == (2, 3, 4 * size[0], 4 * size[1])
    inside = [slice(None, 4 * side - 4) if side > 1 else slice(None) for side in size]
    if min(size) > 1:  # away from the lower right border the padding is not seen
        torch.testing.assert_close(
            net(x)[..., inside[0], inside[1]], Plain().eval()(x)[..., inside[0], inside[1]]
        )
    with pytest.raises(InvalidArgument, match=r"AssertionError: too small|RuntimeError"):
        fastbg.wrap(Windowed(), 4)(torch.rand(1, 3, 7, 9))


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_any_integer_scale(scale: int, x: Tensor) -> None:
    net = fastbg.wrap(Plain(scale=scale), scale)
    assert net(x).shape == (1, 3, 12 * scale, 14 * scale)
    result = fastbg.LocalAttribution(net).attribute(x, (2, 2, 6), 3)
    assert result.map.shape == (1, 12, 14)
    assert result.scale == scale


@pytest.mark.parametrize(
    ("keywords", "argument"),
    [
        ({"scale": 4.0}, "scale"),
        ({"scale": True}, "scale"),
        ({"scale": "4"}, "scale"),
        ({"scale": 0}, "scale"),
        ({"multiple": 0}, "multiple"),
        ({"minimum": -1}, "minimum"),
        ({"minimum": 2.5}, "minimum"),
        ({"range": 0}, "range"),
        ({"range": float("nan")}, "range"),
        ({"range": "255"}, "range"),
        ({"mean": (0.5,)}, "mean"),
        ({"mean": (0.5, 0.5, float("inf"))}, "mean"),
    ],
)
def test_bad_arguments_of_wrap_are_named(keywords: dict, argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        fastbg.wrap(Plain(), **keywords)
    assert caught.value.argument == argument


def test_what_is_no_module_or_needs_no_wrap_is_refused() -> None:
    class Descriptor:
        model = Plain()

    for thing, said in (
        (EDSR(features=4, blocks=1), "needs no wrap"),
        (lambda x: x, "function"),
        (Descriptor(), r"wrap its \.model"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            fastbg.wrap(thing)
    with pytest.raises(InvalidArgument, match="model: got function"):
        fastbg.LocalAttribution(lambda x: x)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ours", [True, False])
def test_attribution_does_not_depend_on_the_mode_around_it(
    mode: str, ours: bool, x: Tensor
) -> None:
    net = EDSR(features=8, blocks=1).eval() if ours else Plain().eval()
    wanted = lam(net, x).attribution
    with MODES[mode]():
        grad, inside = torch.is_grad_enabled(), x + 0
        found = lam(net, inside, return_convergence_delta=True)
        assert torch.is_grad_enabled() is grad
    torch.testing.assert_close(found.attribution, wanted, rtol=0, atol=0)
    assert not found.attribution.is_inference()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_are_cast_to_the_models_dtype(dtype: torch.dtype, x: Tensor) -> None:
    net = Plain().eval()
    wanted = lam(net, x.to(dtype).float())
    torch.testing.assert_close(lam(net, x.to(dtype)).map, wanted.map)
    torch.testing.assert_close(lam(Plain().double().eval(), x).map, lam(net, x).map)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.rand(1, 3, 12, 12) * 255, "divide 8-bit grey levels by 255"),
        (torch.rand(1, 3, 12, 12) - 2, "values in"),
        (torch.full((1, 3, 12, 12), torch.nan), "NaN"),
        (torch.rand(1, 4, 12, 12), "shape"),
        (torch.rand(3, 12, 12), "shape"),
        (torch.zeros(1, 3, 12, 12, dtype=torch.uint8), "uint8"),
        ("image.png", "str"),
    ],
)
def test_images_that_are_none_are_refused(images: Any, said: str) -> None:
    for net in (Plain().eval(), EDSR(features=4, blocks=1).eval()):
        with pytest.raises(InvalidArgument, match=said) as caught:
            lam(net, images)
        assert caught.value.argument == "images"


def test_networks_refuse_images_that_are_not_rgb() -> None:
    for channels in (1, 4):
        with pytest.raises(InvalidArgument, match="RGB"):
            EDSR(features=4, blocks=1)(torch.rand(1, channels, 8, 8))


def test_a_one_channel_module_has_a_map(x: Tensor) -> None:
    class Grey(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.repeat_interleave(2, 2).repeat_interleave(2, 3) ** 2

    assert lam(Grey(), x[:, :1]).map.shape == (1, 12, 14)


def test_a_model_without_a_gradient_or_with_nan_is_named(x: Tensor) -> None:
    with pytest.raises(InvalidArgument, match="no gradient"):
        lam(Plain(lambda sr, z: sr.detach()).eval(), x)
    with pytest.raises(InvalidArgument, match="NaN"):
        lam(Plain(lambda sr, z: sr / 0).eval(), x)


def test_a_users_module_is_left_as_it_was(x: Tensor) -> None:
    module = nn.Sequential(Plain(), nn.BatchNorm2d(3)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    result = lam(module, x.requires_grad_())
    assert module.training
    assert module[1].training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert x.grad is None
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    evaluated = lam(nn.Sequential(module[0], module[1]).eval(), x.detach())
    torch.testing.assert_close(result.map, evaluated.map)
