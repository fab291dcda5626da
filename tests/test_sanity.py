"""Sanity checks: maps that ignore the network are found out, maps that follow it are not."""

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.models.edsr import EDSR

WINDOW, OTHER = (16, 16, 8), (36, 36, 8)


@pytest.fixture(scope="module")
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=2).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))


def gradient(model: nn.Module, images: Tensor, windows: Tensor) -> Tensor:
    return fastbg.window_gradient(model, images, windows, fastbg.PixelSum()).sum(1).abs()


def brightness(model: nn.Module, images: Tensor, windows: Tensor) -> Tensor:
    return images.mean(1)


def test_a_map_that_ignores_the_network_is_found_out(net: EDSR, images: Tensor) -> None:
    found = fastbg.sanity_checks(net, brightness, images, WINDOW, OTHER)
    torch.testing.assert_close(found.cascade, torch.ones_like(found.cascade))
    torch.testing.assert_close(found.cascade_at_distance, torch.ones_like(found.cascade))
    torch.testing.assert_close(found.other_window, torch.ones(2, dtype=torch.float64))


def test_inference_mode_around_it_changes_nothing(net: EDSR, images: Tensor) -> None:
    expected = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER, layers=2)
    with torch.inference_mode():
        found = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER, layers=2)
    torch.testing.assert_close(found.cascade, expected.cascade)


def test_a_gradient_notices_at_equal_distance(net: EDSR, images: Tensor) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER)
    assert found.layers[0] == "conv_last"
    assert found.layers[-1] == "conv_first"
    assert found.cascade.shape == found.cascade_at_distance.shape == (len(found.layers), 2)
    assert found.cascade_at_distance[-1].max() < 0.5
    assert found.other_window.max() < 0.9
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), "the network itself is left alone"


def test_steps_share_out_the_layers_from_the_last_to_the_first(net: EDSR, images: Tensor) -> None:
    every = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER)
    some = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER, layers=3)
    assert len(some.layers) == 3
    assert some.layers[-1] == every.layers[-1]
    assert set(some.layers) < set(every.layers)
    torch.testing.assert_close(some.cascade[-1], every.cascade[-1])
    again = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER, layers=3)
    assert torch.equal(again.cascade, some.cascade)
    seeded = fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER, layers=3, seed=1)
    assert not torch.equal(seeded.cascade, some.cascade)


def test_bad_arguments_are_named(net: EDSR, images: Tensor) -> None:
    with pytest.raises(InvalidArgument, match="layers"):
        fastbg.sanity_checks(net, gradient, images, WINDOW, OTHER, layers=0)
    with pytest.raises(InvalidArgument, match="explain"):
        fastbg.sanity_checks(net, lambda m, x, w: x, images, WINDOW, OTHER)
    with pytest.raises(InvalidArgument, match="weights"):
        fastbg.sanity_checks(
            fastbg.wrap(nn.Upsample(scale_factor=2), scale=2), brightness, images, WINDOW, WINDOW
        )
    with pytest.raises(InvalidArgument, match="windows"):
        fastbg.sanity_checks(net, gradient, images, (1.5, 2, 3), OTHER)
    several = [[(16, 16, 8), (4, 4, 8)]] * 2
    with pytest.raises(InvalidArgument, match="windows"):
        fastbg.sanity_checks(net, gradient, images, several, OTHER)


def test_a_map_that_is_no_number_is_no_good_verdict(net: EDSR, images: Tensor) -> None:
    def broken(model: nn.Module, images: Tensor, windows: Tensor) -> Tensor:
        maps = gradient(model, images, windows)
        maps[0, 3, 4] = torch.nan
        return maps

    with pytest.raises(InvalidArgument, match="explain"):
        fastbg.sanity_checks(net, broken, images, WINDOW, OTHER)
