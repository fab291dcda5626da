"""What causal effect maps are given: patches, and bad input, which is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effect_cases import WINDOW, photographs, small_edsr, truth_of
from torch import Tensor, nn

import fastbg
from fastbg.attribution.interventions import FINE, pool_of
from fastbg.errors import InvalidArgument
from fastbg.models.network import Network


@pytest.fixture
def edsr() -> Network:
    return small_edsr()


class TestPatches:
    def test_draws_are_the_same_whatever_was_drawn_before(self) -> None:
        pool = pool_of(None, 2, 4, seed=3)
        first = pool.draw(5, 6, FINE, 50, 2)
        pool.draw(0, 0, FINE, 7, 2)
        np.testing.assert_array_equal(pool.draw(5, 6, FINE, 50, 2), first)
        np.testing.assert_array_equal(pool.draw(5, 6, FINE, 6, 2).shape, (6, 2, 2, 3))
        assert not np.array_equal(pool.draw(6, 5, FINE, 50, 2), first)
        assert not np.array_equal(pool_of(None, 2, 4, seed=4).draw(5, 6, FINE, 50, 2), first)

    def test_an_array_and_a_folder(self, tmp_path: Path, edsr: Network) -> None:
        from PIL import Image

        black = np.zeros((4, 3, 3, 3), np.uint8)
        Image.fromarray(np.full((5, 7, 3), 9, np.uint8)).save(tmp_path / "nine.png")
        lr = photographs()
        for patches, level in ((black, 0), (tmp_path, 9)):
            settings = fastbg.CausalEffectMap(edsr, patches=patches, fine=2)
            result = settings.effect(lr, WINDOW, truth_of(lr))
            assert np.unique(result.interventions.coarse).tolist() == [level]

    def test_published_patches_have_opencvs_weights(self) -> None:
        """8 to 2: (-3, 19, 19, -3) / 32 on each half; red and blue change places with `bgr`."""
        ramp = np.zeros((1, 8, 8, 3), np.uint8)
        ramp[0, :, :, 0] = np.array([10, 20, 40, 80, 90, 100, 130, 170])
        small = fastbg.published_patches(ramp, 2)
        first = np.floor((-3 * 10 + 19 * 20 + 19 * 40 - 3 * 80) / 32 + 0.5)
        second = np.floor((-3 * 90 + 19 * 100 + 19 * 130 - 3 * 170) / 32 + 0.5)
        assert small[0, :, :, 0].tolist() == [[first, second]] * 2
        assert fastbg.published_patches(ramp, 2, bgr=True)[0, 0, 0].tolist() == [0, 0, first]
        row = fastbg.published_patches(ramp, 4)[0, 0, :, 0]
        assert row[0] == np.floor((16 * 10 + 19 * 20 - 3 * 40) / 32 + 0.5)
        assert row[1] == np.floor((-3 * 20 + 19 * 40 + 19 * 80 - 3 * 90) / 32 + 0.5)


class Broken(nn.Module):
    """Answers NaN where the image is black somewhere."""

    scale = 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.amin() == 0, torch.nan, x)


BLACK = np.zeros((1, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("argument", "settings", "call"),
    [
        ("model", {"model": "edsr"}, {}),
        ("block", {"block": 0}, {}),
        ("coarse", {"coarse": 0}, {}),
        ("fine", {"fine": 2.5}, {}),
        ("seed", {"seed": -1}, {}),
        ("tolerance", {"tolerance": float("nan")}, {}),
        ("metric", {"metric": "ssim"}, {}),
        ("batch", {"batch": 0}, {}),
        ("patches", {"patches": BLACK, "block": 3}, {}),
        ("patches", {"patches": BLACK[..., 0]}, {}),
        ("patches", {"patches": np.zeros((0, 2, 2, 3), np.uint8)}, {}),
        ("patches", {"patches": "no/such/folder"}, {}),
        ("patches", {"patches": 7}, {}),
        ("images", {}, {"images": torch.zeros(0, 3, 8, 8)}),
        ("images", {}, {"images": torch.full((1, 3, 21, 26), 128.0)}),
        ("windows", {}, {"windows": (40, 40, 16)}),
        ("windows", {}, {"windows": (1.5, 2, 3)}),
        ("windows", {"block": 26}, {}),
        ("tolerance", {"tolerance": "much"}, {}),
        ("batch", {"batch": 2.5}, {}),
        ("interventions", {}, {"interventions": "set.npz"}),
        ("truth", {}, {"truth": None}),
        ("truth", {}, {"truth": torch.rand(1, 3, 21, 26)}),
        ("truth", {}, {"truth": torch.full((1, 3, 42, 52), 255.0)}),
        ("truth", {}, {"truth": torch.full((1, 3, 42, 52), torch.nan)}),
        ("truth", {}, {"truth": torch.zeros((1, 3, 42, 52), dtype=torch.int64)}),
        ("accuracy", {}, {"accuracy": "high"}),
        ("accuracy", {"metric": "mse"}, {"accuracy": "published"}),
    ],
)
def test_bad_input_is_refused_by_name(
    argument: str, settings: dict[str, Any], call: dict[str, Any], edsr: Network
) -> None:
    lr = photographs()
    given = {"images": lr, "windows": WINDOW, "truth": truth_of(lr), **call}
    with pytest.raises(InvalidArgument) as error:
        fastbg.CausalEffectMap(**{"model": edsr, "fine": 2, **settings}).effect(**given)
    assert error.value.argument == argument


def test_an_infinite_psnr_is_refused(edsr: Network) -> None:
    lr = photographs()
    truth = (255 * edsr(lr).clamp(0, 1)).round().byte()
    with pytest.raises(
        InvalidArgument, match=r"windows: got the box \(20, 24, 36, 40\).*metric='mse'"
    ):
        fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth)
    result = fastbg.CausalEffectMap(edsr, fine=2, metric="mse").effect(lr, WINDOW, truth)
    assert result.baseline.item() == 0
    assert (result.effect.nan_to_num() >= 0).all()


def test_a_network_that_answers_nan_under_an_intervention_is_refused() -> None:
    lr = photographs().clamp(0.1, 1)
    settings = fastbg.CausalEffectMap(Broken(), patches=BLACK, fine=2)
    with pytest.raises(InvalidArgument, match="model: got an SR window that is NaN"):
        settings.effect(lr, (4, 4, 8), lr / 2)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("interventions.coarse", lambda s: (s.coarse[:, :-1], s.fine_index[:0], s.fine[:0])),
        ("interventions.coarse", lambda s: (s.coarse[:, :, :2], s.fine_index, s.fine)),
        ("interventions.coarse", lambda s: (s.coarse / 255, s.fine_index, s.fine)),
        ("interventions.fine_index", lambda s: (s.coarse, [(0, 0)], s.fine)),
        ("interventions.fine", lambda s: (s.coarse, s.fine_index, s.fine[:, :1])),
        ("interventions.fine", lambda s: (s.coarse, s.fine_index, s.fine[..., :1])),
        ("interventions.fine_index", lambda s: (s.coarse, s.fine_index[:-1], s.fine)),
        ("interventions.fine_index", lambda s: (s.coarse, s.fine_index + 9, s.fine)),
        ("interventions.fine_index", lambda s: (s.coarse, s.fine_index * 0, s.fine)),
    ],
)
def test_interventions_of_another_shape_are_refused(
    field: str, change: Callable[[fastbg.Interventions], tuple[Any, ...]], edsr: Network
) -> None:
    lr = photographs()
    settings = fastbg.CausalEffectMap(edsr, fine=2)
    drawn = settings.effect(lr, WINDOW, truth_of(lr)).interventions
    with pytest.raises(InvalidArgument) as error:
        settings.effect(lr, WINDOW, truth_of(lr), fastbg.Interventions(*change(drawn)))
    assert error.value.argument == field
