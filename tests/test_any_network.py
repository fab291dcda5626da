"""Any network of low-level vision: every explanation against a plain loop, for each kind.

The kinds are those of the table in docs/guide/any_network.md: scales 1, 2, 3, 4 and 8, one and
three channels, windows inside and at the borders. Weights are random, references are in float64
and share no code with fastbg.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from author_networks import KINDS, built
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import fastbg
from fastbg.errors import InvalidArgument

SIZE = 18, 15  # LR pixels: no multiple of a window's side, and not square
Answer = Callable[[Tensor], Tensor]


def image_for(name: str) -> Tensor:
    """A smooth image (1,C,18,15), float64, for a kind of network."""
    coarse = torch.rand(1, KINDS[name].channels, 6, 5, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(coarse.double(), SIZE, mode="bicubic").clamp(0, 1)


def windows_for(name: str) -> list[tuple[int, int, int]]:
    """Even-sized windows in two corners, an odd one inside, in SR pixels."""
    height, width = (KINDS[name].scale * side for side in SIZE)
    return [(0, 0, 4), (height - 6, width - 6, 6), (height // 2 - 3, 1, 5)]


def answer_of(net: nn.Module, name: str) -> Answer:
    """The network's image, as its authors' own script takes it out of the answer."""
    return lambda x: KINDS[name].answer(net(x))


def structure(sr: Tensor, window: tuple[int, int, int]) -> Tensor:
    """LAM's objective of one SR image (1,C,H,W): nothing in its last row and column."""
    y, x, size = window
    down = sr[..., 1:, :-1] - sr[..., :-1, :-1]
    right = sr[..., :-1, 1:] - sr[..., :-1, :-1]
    length = (down**2 + right**2).sqrt()
    return length[..., y : y + size, x : x + size].sum()


def blurred(image: Tensor, sigma: float) -> Tensor:
    """`image` under the public code's 9 x 9 Gaussian, which is 1e-5 wider than `sigma`."""
    offset = torch.arange(-4, 5, dtype=torch.float64)
    taps = torch.exp(-(offset**2) / (2 * (sigma + 1e-5) ** 2))
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).to(image)
    channels = image.shape[1]
    padded = functional.pad(image, (4, 4, 4, 4), "reflect")
    return functional.conv2d(padded, kernel.expand(channels, 1, 9, 9), groups=channels)


def plain_lam(answer: Answer, image: Tensor, window: tuple[int, int, int], steps: int) -> Tensor:
    """The published sum: gradient at the end of each step times the step."""
    nodes = [blurred(image, 1.2 * (1 - k / steps)) for k in range(steps + 1)]
    total = torch.zeros_like(image)
    for before, node in pairwise(nodes):
        leaf = node.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(structure(answer(leaf), window), leaf)
        total += gradient * (node - before)
    return total[0]


@pytest.mark.parametrize("name", KINDS)
def test_attribution_is_the_plain_sum(name: str) -> None:
    net, image, windows = built(name), image_for(name), windows_for(name)
    lam = fastbg.LocalAttribution(net, skip_tolerance=0)
    result = lam.attribute(image, windows, n_steps=5)
    assert result.scale == KINDS[name].scale
    for found, window in zip(result.attribution, windows, strict=True):
        expected = plain_lam(answer_of(net, name), image, window, 5)
        peak = float(expected.abs().max())
        assert peak > 0
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * peak)


@pytest.mark.parametrize("name", KINDS)
def test_attribution_is_complete(name: str) -> None:
    net, image = built(name), image_for(name)
    lam = fastbg.LocalAttribution(net)
    result = lam.attribute(image, windows_for(name), 24, "arc_midpoint", None, True)
    for window, delta, part in zip(
        windows_for(name), result.convergence_delta, result.attribution, strict=True
    ):
        answer = answer_of(net, name)
        with torch.no_grad():
            ends = [structure(answer(x), window) for x in (blurred(image, 1.2), image)]
        change = ends[1] - ends[0]
        assert float(part.double().sum() - change) == pytest.approx(float(delta), abs=1e-5)
        assert abs(float(delta)) < 0.01 * max(abs(float(change)), float(part.abs().sum()))


@pytest.mark.parametrize("name", KINDS)
def test_other_estimators_are_complete(name: str) -> None:
    """IDGI along added noise, and expected gradients from two colours."""
    net, image, window = built(name), image_for(name), windows_for(name)[1]
    idgi = fastbg.LocalAttribution(net, fastbg.NoisePath(0.1), estimator="idgi")
    found = idgi.attribute(image, window, 2, "riemann_left", None, True)
    assert abs(float(found.convergence_delta)) < 1e-5 * float(found.attribution.abs().sum()) + 1e-6
    colours = torch.tensor([0.4, 0.6]).view(2, 1, 1, 1).expand(2, image.shape[1], 1, 1)
    expected = fastbg.ExpectedGradients(net, colours)
    result = expected.attribute(image, window, 24, "arc_midpoint", None, True)
    size = float(result.attribution.abs().sum())
    assert abs(float(result.convergence_delta)) < 0.02 * size


@pytest.mark.parametrize("name", KINDS)
def test_receptive_field_is_the_positive_gradient(name: str) -> None:
    net, image = built(name), image_for(name)
    window = windows_for(name)[1]
    y, x, size = window
    leaf = image.clone().requires_grad_()
    pixels = answer_of(net, name)(leaf)[..., y : y + size, x : x + size]
    (gradient,) = torch.autograd.grad(pixels.sum(), leaf)
    field = fastbg.receptive_field(net, image, window)
    expected = gradient[0].clamp(min=0).sum(0)
    torch.testing.assert_close(field.total, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
    assert field.scale == KINDS[name].scale


@pytest.mark.parametrize("name", KINDS)
def test_curves_are_the_plain_replacements(name: str) -> None:
    net, image, window = built(name), image_for(name), windows_for(name)[0]
    map_ = torch.rand(SIZE, generator=torch.Generator().manual_seed(2))
    counts = [7, 60, math.prod(SIZE)]
    found = fastbg.faithfulness(net, map_, image, window, counts=counts, draws=1)
    answer, size = answer_of(net, name), window[2]
    baseline = blurred(image, 1.2)
    with torch.no_grad():
        whole = answer(image)
        away = (answer(baseline) - whole)[..., :size, :size].square().mean().sqrt()
        for k, count in enumerate(counts):
            first = (map_.flatten().argsort(descending=True).argsort() < count).view(SIZE)
            left = structure(answer(torch.where(first, baseline, image)), window)
            rest = (answer(torch.where(first, image, baseline)) - whole)[..., :size, :size]
            expected = (
                float(left / structure(whole, window)),
                float(rest.square().mean().sqrt() / away),
            )
            curves = found.deletion["map"][0, k], found.insertion["map"][0, k]
            assert tuple(map(float, curves)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.channels == 3])
def test_effects_are_the_plain_replacements(name: str) -> None:
    net, image, window = built(name), image_for(name), windows_for(name)[1]
    effects = fastbg.CausalEffectMap(net, block=3, coarse=2, fine=1, metric="change")
    result = effects.effect(image, window)
    y, x, size = window
    answer, (rows, columns) = answer_of(net, name), result.coarse_values.shape[1:3]
    assert (rows, columns) == (6, 5)
    with torch.no_grad():
        part = answer(image)[..., y : y + size, x : x + size]
        for i, j in ((0, 0), (2, 3), (rows - 1, 0)):
            for n in range(2):
                changed, patch = image.clone(), result.interventions.coarse[i, j, n]
                put = torch.from_numpy(patch).double().permute(2, 0, 1) / 255
                changed[..., 3 * i : 3 * i + 3, 3 * j : 3 * j + 3] = put
                error = 255 * (answer(changed)[..., y : y + size, x : x + size] - part)
                expected = float(error.square().mean().sqrt())
                got = float(result.coarse_values[0, i, j, n])
                assert got == pytest.approx(expected, rel=1e-5, abs=1e-6), (i, j, n)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.channels == 1])
def test_effects_of_one_channel_are_refused(name: str) -> None:
    effects = fastbg.CausalEffectMap(built(name), metric="change")
    with pytest.raises(InvalidArgument, match=r"images: .*expected \(B, 3, h, w\)"):
        effects.effect(image_for(name), (0, 0, 4))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_pictures(name: str) -> None:
    net, image = built(name), image_for(name)
    result = fastbg.LocalAttribution(net).attribute(image, windows_for(name), 2)
    assert [axis.get_title() for axis in result.plot(1).axes[1:3]] == ["attribution", "density"]
    assert fastbg.receptive_field(net, image).plot().axes


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two images of 48 x 72 pixels; all scales here divide their sides."""
    folder = tmp_path / "hr"
    folder.mkdir()
    for i in range(2):
        coarse = np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((72, 48), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.channels == 3])
def test_scores_are_the_plain_ones(name: str, photographs: Path, tmp_path: Path) -> None:
    """Networks of scale 1 are given noisy images, others smaller ones."""
    scale, given = KINDS[name].scale, tmp_path / "given"
    given.mkdir()
    for path in sorted(photographs.iterdir()):
        hr = np.asarray(Image.open(path))
        noise = np.random.default_rng(7).normal(0, 15, hr[::scale, ::scale].shape)
        low = (hr[::scale, ::scale] + noise).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(low).save(given / path.name)
    net = built(name)
    wrapped = fastbg.wrap(net, scale=scale, name=name)
    images, low_images = fastbg.open_images(photographs), fastbg.open_images(given)
    scores = list(fastbg.evaluate([wrapped], images, lr=low_images))
    assert len(scores) == 2
    for score in scores:
        hr, low = (np.asarray(Image.open(f / score.image)) for f in (photographs, given))
        x = torch.from_numpy(low.copy()).permute(2, 0, 1)[None].double() / 255
        with torch.no_grad():
            sr = answer_of(net, name)(x)[0].permute(1, 2, 0).numpy()
        levels = (255 * sr.clip(0, 1)).round()[scale:-scale, scale:-scale]
        error = levels - hr[scale:-scale, scale:-scale]
        expected = 10 * np.log10(255**2 / np.square(error).mean())
        assert score.psnr == pytest.approx(expected, abs=1e-3)


def test_several_images_of_one_size_are_ambiguous() -> None:
    """As MPRNet's three stages: which is meant only the user knows."""

    class Stages(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, 2 * x, 3 * x]

    with pytest.raises(InvalidArgument, match=r"list of tensors .*expected one SR image"):
        fastbg.LocalAttribution(Stages()).attribute(torch.rand(1, 3, 9, 9), (0, 0, 4))


def test_padding_by_wrap_is_cut_off_again() -> None:
    """A network that needs multiples of 4 and does not pad by itself."""

    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] % 4 == x.shape[-2] % 4 == 0
            return 2 * x

    net = fastbg.wrap(Strict(), scale=1, multiple=4)
    gradient = fastbg.window_gradient(net, torch.rand(1, 3, 9, 11), (7, 9, 2), fastbg.PixelSum())
    expected = torch.zeros(1, 3, 9, 11)
    expected[..., 7:9, 9:11] = 2
    torch.testing.assert_close(gradient, expected)


class Noisy(nn.Module):
    """Enlarges, with a dropout that eval() ends, or not; `used` or drawn for nothing."""

    def __init__(self, ends: bool, used: bool = True) -> None:
        super().__init__()
        self.ends, self.used = ends, used

    def forward(self, x: Tensor) -> Tensor:
        dropped = functional.dropout(x, 0.5, self.training or not self.ends)
        return functional.interpolate(dropped if self.used else x, scale_factor=2)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_network_that_is_another_at_each_pass_is_refused(wrapped: bool) -> None:
    def explained(net: nn.Module) -> list[Tensor]:
        net = fastbg.wrap(net, 2) if wrapped else net
        image, window = torch.rand(1, 3, 9, 9), (4, 4, 6)
        return [
            fastbg.LocalAttribution(net).attribute(image, window, 3).map,
            fastbg.window_gradient(net, image, window),
            fastbg.Occlusion(net).occlude(image, window).map,
        ]

    explained(Noisy(ends=True).train())
    explained(Noisy(ends=False, used=False))
    with pytest.raises(InvalidArgument, match="model: got another output for the same input"):
        explained(Noisy(ends=False))


def test_a_network_that_mixes_the_images_of_a_batch_is_refused() -> None:
    """A batch norm without running statistics; one by one it is that of each image."""

    def net(norm: nn.Module) -> fastbg.LocalAttribution:
        return fastbg.LocalAttribution(nn.Sequential(norm, nn.Upsample(scale_factor=2)))

    image, window = torch.rand(1, 3, 12, 12), (4, 4, 6)
    mixing = net(nn.BatchNorm2d(3, affine=False, track_running_stats=False))
    separate = net(nn.InstanceNorm2d(3))
    found = mixing.attribute(image, window, 4, internal_batch_size=1).map
    expected = separate.attribute(image, window, 4, internal_batch_size=4).map
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InvalidArgument, match="model: got a batch norm without running stat"):
        mixing.attribute(image, window, 4, internal_batch_size=4)
