"""Deletion and insertion curves against a plain loop, and controls that mean what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.attribution.distance import ranks_in_rings, rings, shuffled_in_rings, window_distance
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR

WINDOW = (20, 16, 8)


class Weighted(nn.Module):
    """Scale 1: every pixel of the output is the sum over the input times fixed weights (h,w)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.arange(x.shape[-1], dtype=x.dtype)
        total = (x * self.weights).sum((1, 2, 3), keepdim=True)
        return total * ramp + torch.zeros_like(x)


@pytest.fixture(scope="module")
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=1).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))


def plain_curves(net: nn.Module, map_: Tensor, image: Tensor, counts: list[int]) -> np.ndarray:
    """By its definition, one pixel and one pass at a time, in float64."""
    net = net.double()
    image = image.double()
    baseline = fastbg.GaussianBlurPath().nodes(image[None], np.zeros(1))[0, 0]
    y, x, size = WINDOW

    def run(lr: Tensor) -> tuple[float, Tensor]:
        sr = net(lr[None])
        detected = fastbg.gradient_detector(sr, (y, x, y + size, x + size))
        return float(detected), sr[0, :, y : y + size, x : x + size]

    with torch.no_grad():
        whole, target = run(image)
        farthest = (run(baseline)[1] - target).square().mean().sqrt()
        rows = []
        for count in counts:
            without, inserted = image.clone(), baseline.clone()
            for flat in map_.flatten().argsort(descending=True)[:count].tolist():
                row, column = divmod(flat, image.shape[-1])
                without[:, row, column] = baseline[:, row, column]
                inserted[:, row, column] = image[:, row, column]
            away = (run(inserted)[1] - target).square().mean().sqrt()
            rows.append((run(without)[0] / whole, float(away / farthest)))
    net.float()
    return np.array(rows).T


def test_curves_equal_a_plain_loop(net: EDSR, images: Tensor) -> None:
    maps = torch.rand(2, 16, 20, generator=torch.Generator().manual_seed(2))
    counts = [1, 5, 50, 320]
    found = fastbg.faithfulness(net, maps, images, WINDOW, counts=counts)
    for i in range(2):
        expected = plain_curves(net, maps[i], images[i], counts)
        np.testing.assert_allclose(found.deletion["map"][i], expected[0], atol=2e-5)
        np.testing.assert_allclose(found.insertion["map"][i], expected[1], atol=2e-5)
    assert found.insertion["map"][:, -1].abs().max() < 1e-6, "all pixels inserted"
    np.testing.assert_allclose(
        found.deletion_area["map"], found.deletion["map"].mean(1), atol=1e-12
    )


def test_the_true_map_beats_every_control() -> None:
    """The network's own weights, some pixels far from the window: no control knows them."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.zeros(144)
    chosen = 72 + torch.randperm(72, generator=generator)[:12]
    weights[chosen] = torch.rand(12, generator=generator) + 0.5
    weights = weights.reshape(12, 12)
    image = torch.rand(1, 3, 12, 12, generator=generator)
    model = fastbg.wrap(Weighted(weights), scale=1)
    path = fastbg.LinearPath(0.0)
    true = weights * image[0].sum(0)
    found = fastbg.faithfulness(model, true, image, (0, 0, 5), path=path, counts=[2, 6, 12])
    assert found.insertion["map"][0, -1] < 1e-6
    assert found.deletion["map"][0, -1].abs() < 1e-6
    for control in found.controls["map"]:
        assert found.deletion_area[control][0] > found.deletion_area["map"][0] + 0.2, control
        assert found.insertion_area[control][0] > found.insertion_area["map"][0] + 0.2, control


def test_nearest_first_takes_pixels_by_their_distance(net: EDSR, images: Tensor) -> None:
    distance = window_distance(Box(20, 16, 28, 24), 4, 16, 20)
    nearest = torch.from_numpy(-distance)
    found = fastbg.faithfulness(net, nearest, images[:1], WINDOW, counts=[12, 52])
    # Counts that end with a ring of equal distances: the order inside does not matter.
    order = np.sort(distance.ravel())
    assert order[11] < order[12]
    assert order[51] < order[52]
    torch.testing.assert_close(found.deletion["map"], found.deletion["nearest first"])


def test_several_maps_share_their_controls(net: EDSR, images: Tensor) -> None:
    maps = {"a": torch.rand(2, 16, 20), "b": torch.rand(2, 16, 20)}
    found = fastbg.faithfulness(net, maps, images, WINDOW, draws=1)
    assert list(found.controls) == ["a", "b"]
    assert found.controls["a"][:2] == found.controls["b"][:2] == ("random", "nearest first")
    assert set(found.deletion) == set(found.insertion) == {
        "a", "b", "random", "nearest first",
        "a shuffled at equal distance", "b shuffled at equal distance",
    }  # fmt: skip
    alone = fastbg.faithfulness(net, maps["a"][1], images[1:], WINDOW, draws=1)
    torch.testing.assert_close(alone.deletion["map"][0], found.deletion["a"][1])
    torch.testing.assert_close(alone.deletion["random"][0], found.deletion["random"][1])


def test_the_picture_has_a_mean_curve_for_each_map_and_control(net: EDSR, images: Tensor) -> None:
    maps = {"a": torch.rand(2, 16, 20), "b": torch.rand(2, 16, 20)}
    found = fastbg.faithfulness(net, maps, images, WINDOW, counts=[1, 20, 320], draws=1)
    for axis, curves in zip(found.plot().axes, (found.deletion, found.insertion), strict=True):
        lines = {str(line.get_label()).partition(" (")[0]: line for line in axis.lines}
        assert set(lines) == set(curves)
        for name, line in lines.items():
            np.testing.assert_array_equal(line.get_xdata(), [1, 20, 320])
            np.testing.assert_allclose(line.get_ydata(), curves[name].mean(0))
        assert axis.get_xscale() == "log"


def test_the_default_counts_are_the_published_prototype_s() -> None:
    net = fastbg.wrap(nn.Upsample(scale_factor=2), scale=2)
    maps = torch.rand(1, 64, 64)
    found = fastbg.faithfulness(net, maps, torch.rand(1, 3, 64, 64), (60, 60, 16), draws=1)
    assert found.counts[[0, -1]].tolist() == [4, 1600]
    assert len(found.counts) == 13
    assert found.counts.dtype == torch.int64
    ratio = found.counts[1:].double() / found.counts[:-1]
    assert ratio.min() > 1.5
    assert ratio.max() < 1.8


def test_no_images_give_no_rows(net: EDSR, images: Tensor) -> None:
    found = fastbg.faithfulness(net, torch.rand(0, 16, 20), images[:0], WINDOW)
    assert found.deletion["map"].shape == (0, 13)
    assert found.insertion["random"].shape == (0, 13)


def test_a_flat_window_is_marked() -> None:
    net = fastbg.wrap(nn.Upsample(scale_factor=2), scale=2)
    flat = torch.full((1, 3, 12, 12), 0.5)
    found = fastbg.faithfulness(net, torch.rand(1, 12, 12), flat, (4, 4, 8), draws=1)
    assert found.deletion["map"].isnan().all()
    assert found.insertion["map"].isnan().all()


def test_a_constant_map_is_as_good_as_chance(net: EDSR, images: Tensor) -> None:
    """Equal values are put in random order, never in the order of rows."""
    constant = torch.ones(16, 20)
    counts = [160]
    found = [
        fastbg.faithfulness(net, constant, images[:1], WINDOW, counts=counts, draws=1, seed=seed)
        for seed in range(8)
    ]
    curves = torch.stack([f.deletion["map"][0, 0] for f in found])
    assert curves.std() > 0
    top = torch.arange(320.0, 0, -1).reshape(16, 20)  # rows in order
    in_rows = fastbg.faithfulness(net, top, images[:1], WINDOW, counts=counts, draws=1)
    assert not torch.isclose(curves, in_rows.deletion["map"][0, 0], rtol=1e-4).any()


def test_rings_keep_their_values() -> None:
    random = np.random.default_rng(0)
    distance = window_distance(Box(4, 4, 12, 12), 4, 9, 11)
    assert distance[1, 1] == pytest.approx(np.hypot(0.5, 0.5))
    ring = rings(distance).ravel()
    values = random.random(99)
    mixed = shuffled_in_rings(values, ring, random.random(99))
    assert not np.array_equal(mixed, values)
    for number in np.unique(ring):
        inside = ring == number
        np.testing.assert_array_equal(np.sort(mixed[inside]), np.sort(values[inside]))


def test_ranks_in_rings_are_centred_in_each() -> None:
    ranks = ranks_in_rings(np.array([5.0, 1.0, 1.0, 9.0, 2.0]), np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(ranks, [1 / 3, -1 / 6, -1 / 6, 1 / 4, -1 / 4])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"maps": torch.rand(2, 16, 21)}, "maps"),
        ({"maps": torch.full((2, 16, 20), torch.nan)}, "maps"),
        ({"maps": {}}, "maps"),
        ({"maps": {"lam": np.full((2, 16, 20), "a")}}, "maps.*<U1"),
        ({"maps": {"lam": np.full((2, 16, 20), np.inf)}}, "lam"),
        ({"maps": [[1.0]]}, "maps: got list"),
        ({"maps": torch.zeros(2, 16, 20, dtype=torch.complex64)}, "maps"),
        ({"maps": {"lam": torch.rand(16, 20)}}, "lam"),
        ({"maps": {"random": torch.rand(2, 16, 20)}}, "random"),
        ({"maps": {"random": torch.rand(2, 16, 20)}}, "'random'; expected another: a control"),
        (
            {
                "maps": {
                    "a": torch.rand(2, 16, 20),
                    "a shuffled at equal distance": torch.rand(2, 16, 20),
                }
            },
            "shuffled",
        ),
        ({"windows": (60, 60, 8)}, "windows"),
        ({"windows": torch.zeros(2, 3, 3, dtype=torch.int64)}, "windows"),
        ({"counts": [5, 5]}, "counts"),
        ({"counts": [0, 5]}, "counts"),
        ({"counts": [5, 321]}, "counts"),
        (
            {"counts": [5, 4]},
            r"counts: got \[5, 4\]; expected ascending whole numbers from 1 to 320",
        ),
        ({"counts": []}, "counts"),
        ({"counts": 1}, "counts"),
        ({"counts": [1.5]}, "counts"),
        ({"draws": 0}, "draws"),
        ({"images": torch.rand(2, 3, 16, 20) * 255}, "images"),
    ],
)
def test_bad_arguments_are_named(
    net: EDSR, images: Tensor, change: dict[str, object], named: str
) -> None:
    arguments = {"maps": torch.rand(2, 16, 20), "images": images, "windows": WINDOW, **change}
    with pytest.raises(InvalidArgument, match=named):
        fastbg.faithfulness(net, **arguments)


def test_arrays_are_maps_too(net: EDSR, images: Tensor) -> None:
    map_ = torch.rand(2, 16, 20, generator=torch.Generator().manual_seed(4))
    ranks = map_.flatten(1).argsort(1).argsort(1).reshape(2, 16, 20)
    asked = {
        "tensor": map_,
        "array": map_.numpy(),
        "not contiguous": np.asfortranarray(map_.double().numpy()),
        "ranks": ranks.numpy().astype(np.int32),
    }
    found = fastbg.faithfulness(net, asked, images, WINDOW, counts=[4, 40], draws=1)
    for name in asked:
        torch.testing.assert_close(found.deletion[name], found.deletion["tensor"], rtol=0, atol=0)


def test_what_explanations_answer_is_ranked_by_its_size(net: EDSR, images: Tensor) -> None:
    window = (22, 18, 7)  # ends inside of a block
    lam = fastbg.LocalAttribution(net).attribute(images, window, accuracy="published")
    effects = fastbg.CausalEffectMap(
        net, block=3, coarse=2, fine=2, metric="change", include_window=True
    ).effect(images, window)
    hidden = fastbg.Occlusion(net).occlude(images, window, size=3, stride=2)
    spread = torch.zeros(2, 16, 20, dtype=torch.float64)
    for y in range(16):
        for x in range(20):
            spread[:, y, x] = effects.effect[:, y // 3, x // 3].abs()
    asked = {"lam": lam, "effects": effects, "occlusion": hidden}
    same = {"lam": lam.map, "effects": spread, "occlusion": hidden.map.abs()}
    found, wanted = (
        fastbg.faithfulness(net, maps, images, window, counts=[5, 50], draws=1)
        for maps in (asked, same)
    )
    for name in asked:
        torch.testing.assert_close(found.deletion[name], wanted.deletion[name], rtol=0, atol=0)
        torch.testing.assert_close(found.insertion[name], wanted.insertion[name], rtol=0, atol=0)


def test_harm_counts_as_much_as_help(net: EDSR, images: Tensor) -> None:
    truth = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(5))
    effects = fastbg.CausalEffectMap(net, coarse=1, fine=1).effect(images, WINDOW, truth)
    assert (effects.effect < 0).any()
    found = fastbg.faithfulness(
        net, {"both": effects, "mirrored": mirrored(effects)}, images, WINDOW, counts=[30], draws=1
    )
    torch.testing.assert_close(found.deletion["both"], found.deletion["mirrored"])


def mirrored(effects: fastbg.CausalEffectResult) -> fastbg.CausalEffectResult:
    """The same with help and harm exchanged."""
    middle = effects.baseline[..., None, None, None]
    coarse, fine = (2 * middle - v for v in (effects.coarse_values, effects.fine_values))
    return replace(effects, coarse_values=coarse, fine_values=fine)


def test_blocks_that_a_map_leaves_out_come_first_and_stay_in_place(
    net: EDSR, images: Tensor
) -> None:
    effects = fastbg.CausalEffectMap(
        net, block=2, coarse=1, fine=1, tolerance=0, metric="change"
    ).effect(images[:1], WINDOW)
    own = torch.from_numpy(effects.grid.on_pixels(effects.own[0].numpy()))
    inside = int(own.sum())
    assert inside == 8
    assert effects.effect.isnan().any()
    distance = torch.from_numpy(window_distance(Box(20, 16, 28, 24), 4, 16, 20))
    large = effects.effect.abs().nan_to_num(0)[0].max()
    by_hand = torch.from_numpy(effects.grid.on_pixels(effects.effect[0].abs().numpy()))
    by_hand = torch.where(own, 2 * large + 100 - distance, by_hand)
    counts = [4, inside, 60]
    found, wanted = (
        fastbg.faithfulness(net, maps, images[:1], WINDOW, counts=counts, draws=2)
        for maps in (effects, by_hand)
    )
    torch.testing.assert_close(found.deletion["map"], wanted.deletion["map"], rtol=0, atol=0)
    shuffled = found.deletion["map shuffled at equal distance"]
    assert shuffled[0, 1] == found.deletion["map"][0, 1], "all of the own blocks, no other"
    assert shuffled[0, 2] != found.deletion["map"][0, 2]


def test_occlusion_that_leaves_pixels_uncovered_is_refused(net: EDSR, images: Tensor) -> None:
    hidden = fastbg.Occlusion(net).occlude(images, WINDOW, boxes=[[0, 0, 4, 4]])
    with pytest.raises(InvalidArgument, match=r"maps\['hidden'\].*uncovered"):
        fastbg.faithfulness(net, {"hidden": hidden}, images, WINDOW)


def test_a_map_of_other_images_is_refused_by_shape(net: EDSR, images: Tensor) -> None:
    effects = fastbg.CausalEffectMap(net, coarse=1, fine=1, metric="change").effect(
        images[:, :, :, :-2], WINDOW
    )
    with pytest.raises(InvalidArgument, match=r"maps: got shape \(2, 16, 18\)"):
        fastbg.faithfulness(net, effects, images, WINDOW)
