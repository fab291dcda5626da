"""Occlusion: every box against a whole pass, any box, size, stride and replacement."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network

WINDOW = (10, 14, 9)


@pytest.fixture
def edsr() -> Network:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=2, scale=2).eval().requires_grad_(False)


def photographs(count: int = 1) -> Tensor:
    return torch.rand(count, 3, 15, 18, generator=torch.Generator().manual_seed(1))


def expected_change(model: nn.Module, lr: Tensor, box: Any, cover: Tensor) -> float:
    y, x, size = WINDOW
    y0, x0, y1, x1 = box
    other = lr.clone()
    other[..., y0:y1, x0:x1] = cover
    before, after = (model(image)[..., y : y + size, x : x + size] for image in (lr, other))
    return float(255 * (after - before).square().mean().sqrt())


class TestReplacements:
    @pytest.mark.parametrize(
        ("replacement", "cover"),
        [
            (0.25, lambda pixels: torch.full_like(pixels, 0.25)),
            ((0.0, 0.5, 1.0), lambda p: torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand_as(p)),
            ("mean", lambda pixels: pixels.mean((1, 2), keepdim=True).expand_as(pixels)),
            (lambda pixels: pixels.flip(2), lambda pixels: pixels.flip(2)),
        ],
        ids=["grey", "colour", "mean", "function"],
    )
    def test_what_a_box_is_covered_by(self, replacement: Any, cover: Any, edsr: Network) -> None:
        """Boxes of 4 x 5 pixels, 3 and 4 apart: the last row and column are moved inwards."""
        lr = photographs()
        result = fastbg.Occlusion(edsr).occlude(lr, WINDOW, (4, 5), (3, 4), replacement)
        assert result.boxes[:, 0].unique().tolist() == [0, 3, 6, 9, 11]
        assert result.boxes[:, 1].unique().tolist() == [0, 4, 8, 12, 13]
        for box, effect in zip(result.boxes.tolist(), result.effect[0].tolist(), strict=True):
            y0, x0, y1, x1 = box
            pixels = cover(lr[0, :, y0:y1, x0:x1])
            assert effect == pytest.approx(expected_change(edsr, lr, box, pixels), abs=1e-4)
        assert result.effect.max() > 0.1

    def test_another_image_each_its_own(self, edsr: Network) -> None:
        lr, other = photographs(2), 1 - photographs(2)
        boxes = [(2, 3, 7, 5), (0, 0, 15, 18), (6, 7, 7, 8)]
        result = fastbg.Occlusion(edsr).occlude(lr, WINDOW, replacement=other, boxes=boxes)
        assert result.effect.shape == (2, 3)
        for i in range(2):
            for n, (y0, x0, y1, x1) in enumerate(boxes):
                cover = other[i, :, y0:y1, x0:x1]
                expected = expected_change(edsr, lr[i : i + 1], boxes[n], cover)
                assert result.effect[i, n].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", ["psnr", "mse"])
def test_against_the_truth(metric: str, edsr: Network) -> None:
    lr = photographs()
    hr = lr.repeat_interleave(2, -1).repeat_interleave(2, -2)
    result = fastbg.Occlusion(edsr, metric).occlude(lr, WINDOW, 15, replacement=0.5, truth=hr)
    y, x, size = WINDOW

    def error(image: Tensor) -> Tensor:
        sr = (255 * edsr(image).clamp(0, 1)).round() - (255 * hr).round()
        return sr[..., y : y + size, x : x + size].double().square().mean()

    grey = lr.clone()
    grey[..., 0:15, 3:18] = 0.5
    expected = (
        error(grey) - error(lr) if metric == "mse" else 10 * (error(grey) / error(lr)).log10()
    )
    assert result.boxes[1].tolist() == [0, 3, 15, 18]
    assert result.effect[0, 1].item() == pytest.approx(expected.item(), rel=1e-2, abs=2e-3)


def test_the_map_is_the_mean_over_the_boxes_of_a_pixel(edsr: Network) -> None:
    boxes = [(0, 0, 4, 4), (2, 2, 6, 6)]
    result = fastbg.Occlusion(edsr).occlude(photographs(), [(10, 14, 9), (0, 0, 4)], boxes=boxes)
    assert result.map.shape == (2, 15, 18)
    first, second = result.effect[1].tolist()
    assert result.map[1, 0, 0].item() == first
    assert result.map[1, 3, 3].item() == pytest.approx((first + second) / 2)
    assert result.map[1, 5, 5].item() == second
    assert result.map[1, 10, 10].isnan()


def test_any_module_and_batch(edsr: Network) -> None:
    lr = photographs()
    module = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).requires_grad_(False)
    one = fastbg.Occlusion(module, batch=1).occlude(lr, WINDOW, 5)
    many = fastbg.Occlusion(module, batch=50).occlude(lr, WINDOW, 5)
    torch.testing.assert_close(one.effect, many.effect, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("argument", "settings", "call"),
    [
        ("model", {"model": None}, {}),
        ("metric", {"metric": "dB"}, {}),
        ("batch", {"batch": 0}, {}),
        ("size", {}, {"size": 16}),
        ("size", {}, {"size": 0}),
        ("size", {}, {"size": (2, 3, 4)}),
        ("stride", {}, {"stride": 1.5}),
        ("boxes", {}, {"boxes": [(0, 0, 16, 4)]}),
        ("boxes", {}, {"boxes": [(3, 0, 3, 4)]}),
        ("boxes", {}, {"boxes": torch.rand(2, 4)}),
        ("boxes", {}, {"boxes": []}),
        ("replacement", {}, {"replacement": 2.0}),
        ("replacement", {}, {"replacement": "blur"}),
        ("replacement", {}, {"replacement": (0.0, 1.0)}),
        ("replacement", {}, {"replacement": torch.rand(3, 4, 4)}),
        ("replacement", {}, {"replacement": torch.rand(0, 3, 15, 18)}),
        ("replacement", {}, {"replacement": None}),
        ("replacement", {}, {"replacement": [[0.1], [0.1, 0.2]]}),
        ("replacement", {}, {"replacement": lambda pixels: pixels[:1]}),
        ("replacement", {}, {"replacement": lambda pixels: None}),
        ("replacement", {}, {"replacement": lambda pixels: 255 * pixels}),
        ("replacement", {}, {"replacement": lambda pixels: pixels * torch.nan}),
        ("replacement", {}, {"replacement": lambda pixels: pixels - 3}),
        ("truth", {"metric": "psnr"}, {}),
        ("windows", {}, {"windows": (25, 0, 9)}),
        ("images", {}, {"images": torch.zeros(0, 3, 15, 18)}),
    ],
)
def test_bad_input_is_refused_by_name(
    argument: str, settings: dict[str, Any], call: dict[str, Any], edsr: Network
) -> None:
    given = {"images": photographs(), "windows": WINDOW, **call}
    with pytest.raises(InvalidArgument) as error:
        fastbg.Occlusion(**{"model": edsr, **settings}).occlude(**given)
    assert error.value.argument == argument
