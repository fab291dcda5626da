"""Measures of likeness, each against a plain loop over the pixels or tiles of a region."""

import numpy as np
import pytest
import torch

from fastbg.filters.bicubic import bicubic_matrix
from fastbg.geometry import Box
from fastbg.measures.likeness import SIMILARITIES, Images, layer_outputs
from fastbg.measures.texture import texture_gram
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.vgg import conv1_1, imagenet_normalised
from fastbg.ops.composite import composite_lr

SIDE, SCALE = 64, 4
BOX = Box(24, 24, 40, 40)


@pytest.fixture
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=4, blocks=1).eval().requires_grad_(False)


def some_images(net: EDSR, box: Box = BOX) -> Images:
    torch.manual_seed(1)
    hr = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    lr = torch.nn.functional.avg_pool2d(hr.float() / 255, SCALE)
    return Images(hr, lr, box, net, "torch")


def described(name: str, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the second image, in float64: its foreground, and what surrounds it."""
    foregrounds, around = SIMILARITIES[name].describe(images)
    return foregrounds[1].double(), around[1].double()


def regions(box: Box, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels (side,side) lie in the box, which do not."""
    inside = np.zeros((side, side), dtype=bool)
    inside[box.y0 : box.y1, box.x0 : box.x1] = True
    return inside, ~inside


def test_gram_and_pyramid_by_definition(net: EDSR) -> None:
    images = some_images(net)
    scales = []
    for level in range(3):
        pooled = torch.nn.functional.avg_pool2d(images.levels[1:], 2**level)
        box = Box(*(v // 2**level for v in (BOX.y0, BOX.x0, BOX.y1, BOX.x1)))
        masks = [torch.tensor(r)[None].float() for r in regions(box, SIDE // 2**level)]
        scales.append([texture_gram(pooled, mask, backend="torch")[0].double() for mask in masks])
    for region, found in enumerate(described("vgg_gram", images)):
        torch.testing.assert_close(found, scales[0][region], rtol=1e-4, atol=1e-6)
    for region, found in enumerate(described("vgg_pyramid", images)):
        expected = torch.cat([scale[region] for scale in scales])
        torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-6)


def test_covariance_is_numpys(net: EDSR) -> None:
    images = some_images(net)
    weight, bias = conv1_1(torch.device("cpu"), torch.float64)
    normalised = imagenet_normalised(images.levels.double())
    features = torch.conv2d(normalised, weight, bias, padding=1).relu()[1].numpy()
    for region, found in zip(regions(BOX, SIDE), described("vgg_covariance", images), strict=True):
        expected = np.cov(features[:, region], bias=True)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_features_are_gram_matrices_of_the_networks_layers(net: EDSR) -> None:
    images = some_images(net)
    for name, layer in zip(
        ("first_features", "deep_features"), layer_outputs(net, images.lr), strict=True
    ):
        features = layer[1].double().numpy()
        box = Box(*(v // SCALE for v in (BOX.y0, BOX.x0, BOX.y1, BOX.x1)))
        pairs = zip(regions(box, SIDE // SCALE), described(name, images), strict=True)
        for region, found in pairs:
            values = features[:, region]
            expected = values @ values.T / values.size
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-7)


def test_power_spectrum_is_the_mean_over_tiles(net: EDSR) -> None:
    """Tiles of 16 pixels: one is the foreground; four above, four below, one on either side."""
    images = some_images(net)
    grey = images.levels[1].double().mean(0).numpy()
    window = np.outer(np.hanning(16), np.hanning(16))
    corners = [[(24, 24)], [(y, x) for y in (0, 40) for x in range(0, 64, 16)]]
    corners[1] += [(24, 0), (24, 40)]
    found = described("power_spectrum", images)
    for places, spectrum in zip(corners, found, strict=True):
        tiles = [grey[y : y + 16, x : x + 16] for y, x in places]
        powers = [np.abs(np.fft.rfft2((t - t.mean()) * window)) ** 2 for t in tiles]
        expected = np.log(np.mean(powers, axis=0) + 1e-6)
        np.testing.assert_allclose(spectrum.numpy(), expected, rtol=1e-3, atol=1e-2)


def test_a_flat_region_has_the_least_power(net: EDSR) -> None:
    hr = torch.full((2, 3, SIDE, SIDE), 77, dtype=torch.uint8)
    images = Images(hr, torch.zeros(2, 3, 16, 16), BOX, net, "torch")
    for spectrum in described("power_spectrum", images):
        torch.testing.assert_close(
            spectrum, torch.full_like(spectrum, np.log(1e-6)), rtol=1e-3, atol=0
        )


@pytest.mark.parametrize(
    ("box", "side"), [(BOX, 3), (Box(28, 28, 36, 36), 2), (Box(8, 8, 56, 56), 2)]
)
def test_patches_lie_wholly_in_one_region(net: EDSR, box: Box, side: int) -> None:
    """Three LR pixels wide, or as wide as the foreground or its distance to the border allow."""
    images = some_images(net, box)
    inside, outside = regions(
        Box(*(v // SCALE for v in (box.y0, box.x0, box.y1, box.x1))), SIDE // SCALE
    )
    lr = images.lr[1].double().numpy()
    corners = range(SIDE // SCALE - side + 1)
    for region, found in zip((inside, outside), described("nearest_patch", images), strict=True):
        expected = [
            lr[:, y : y + side, x : x + side].ravel()
            for y in corners
            for x in corners
            if region[y : y + side, x : x + side].all()
        ]
        np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=1e-6)


def across_the_rim(image: np.ndarray, box: Box) -> list[tuple[np.ndarray, np.ndarray]]:
    """At each place of the rim: pixels (depth,3) from it inwards, and outwards."""
    found = []
    for x in range(box.x0, box.x1):
        column = image[:, x]
        found.append((column[box.y0 : box.y1], column[: box.y0][::-1]))
        found.append((column[box.y0 : box.y1][::-1], column[box.y1 :]))
    for y in range(box.y0, box.y1):
        row = image[y]
        found.append((row[box.x0 : box.x1], row[: box.x0][::-1]))
        found.append((row[box.x0 : box.x1][::-1], row[box.x1 :]))
    return found


@pytest.mark.parametrize(
    ("name", "width"), [("rim_step", 1), ("rim_step_2", 2), ("rim_step_4", 4), ("rim_step_lr", 1)]
)
def test_the_step_across_the_rim_by_a_plain_loop(net: EDSR, name: str, width: int) -> None:
    """Of the first image's foreground in the second image's surroundings."""
    images = some_images(net)
    values = images.lr if name.endswith("lr") else images.levels
    box = images.lr_box if name.endswith("lr") else BOX
    own, other = (across_the_rim(v.double().permute(1, 2, 0).numpy(), box) for v in values)
    steps = [
        np.abs(inside[:width].mean(0) - outside[:width].mean(0))
        for (inside, _), (_, outside) in zip(own, other, strict=True)
    ]
    foregrounds, around = SIMILARITIES[name].describe(images)
    found = SIMILARITIES[name].distance(foregrounds[:1], around)
    assert found[1].item() == pytest.approx(np.mean(steps), rel=1e-5)


def test_the_slope_across_the_rim_by_a_plain_loop(net: EDSR) -> None:
    images = some_images(net)
    own, other = (across_the_rim(v.double().permute(1, 2, 0).numpy(), BOX) for v in images.levels)
    changes = [
        np.abs((inside[0] - inside[1]) - (outside[1] - outside[0]))
        for (inside, _), (_, outside) in zip(own, other, strict=True)
    ]
    foregrounds, around = SIMILARITIES["rim_slope"].describe(images)
    found = SIMILARITIES["rim_slope"].distance(foregrounds[:1], around)
    assert found[1].item() == pytest.approx(np.mean(changes), rel=1e-5)


def test_a_continuous_image_has_no_step_and_a_plane_no_change_of_slope(net: EDSR) -> None:
    ramp = torch.arange(SIDE, dtype=torch.uint8).expand(1, 3, SIDE, SIDE).contiguous()
    images = Images(ramp, torch.zeros(1, 3, 16, 16), BOX, net, "torch")
    step = SIMILARITIES["rim_step"]
    slope = SIMILARITIES["rim_slope"]
    # Two of four sides run along the ramp; across the others a pixel's step is one grey level.
    assert step.distance(*step.describe(images)).item() == pytest.approx(0.5 / 255, rel=1e-4)
    assert slope.distance(*slope.describe(images)).item() == pytest.approx(0, abs=1e-6)


def of_composites(
    name: str, net: EDSR, hr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances (2) of the first image's foreground to both surroundings of `hr` (2,3,S,S).

    And what they say something of: the foreground (3,h,w) and the LR composites (2,3,S/s,S/s),
    composed and reduced as a whole.
    """
    images = Images(hr, torch.zeros(2, 3, SIDE // SCALE, SIDE // SCALE), BOX, net, "torch")
    foregrounds, around = SIMILARITIES[name].describe(images)
    found = SIMILARITIES[name].distance(foregrounds[:1], around)
    levels = hr.double() / 255
    lr = composite_lr(levels[:1], levels, [[0, 0], [0, 1]], BOX, scale=SCALE, backend="torch")
    return found, levels[0, :, BOX.y0 : BOX.y1, BOX.x0 : BOX.x1], lr


def two_noises() -> torch.Tensor:
    """Images (2,3,S,S) uint8."""
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)


def test_bicubic_error_is_that_of_the_restored_composite(net: EDSR) -> None:
    """Enlarged as a whole; the measure takes the two parts apart."""
    found, foreground, lr = of_composites("bicubic_error", net, two_noises())
    y0, x0, y1, x1 = BOX
    restored = Bicubic(SCALE).double()(lr)[..., y0:y1, x0:x1]
    expected = (restored - foreground).square().mean((1, 2, 3))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)


def least_squares_restoration(size: int, scale: int, neighbours: float) -> np.ndarray:
    """Of an axis: the mean of a Gaussian process given its reduced samples, by regression."""
    down = bicubic_matrix(size, scale)
    place = np.arange(size)
    covariance = neighbours ** np.abs(place[:, None] - place)
    root = np.linalg.cholesky(covariance)  # the axis is root @ noise
    restoring = np.linalg.lstsq((down @ root).T, root.T, rcond=None)[0].T
    return restoring / restoring.sum(1, keepdims=True)


def test_seam_error_is_that_of_the_restored_composite_along_the_rim(net: EDSR) -> None:
    """Restored as a whole; weights and colours in a plain loop."""
    hr = two_noises()
    hr[0, :, :, :31] = 60  # smooth on the left, so that weights differ
    found, foreground, lr = of_composites("seam_error", net, hr)
    restoring = least_squares_restoration(SIDE, SCALE, 0.95)
    y0, x0, y1, x1 = BOX
    truth = foreground.permute(1, 2, 0).numpy()
    for composite, distance in zip(lr.permute(0, 2, 3, 1).numpy(), found, strict=True):
        rows = np.einsum("iy,yxc->ixc", restoring, composite)
        restored = np.einsum("jx,ixc->ijc", restoring, rows)[y0:y1, x0:x1]
        terms = []
        for turns in range(4):
            missing, own = (np.rot90(v, turns) for v in (restored - truth, truth))
            n = own.shape[1]
            for x in range(n):
                first = x - x % SCALE
                slopes = [
                    own[y, min(i + 1, n - 1)] - own[y, min(i, n - 2)]
                    for i in range(first, first + SCALE)
                    for y in range(SCALE)
                ]
                weight = (np.mean(np.square(slopes)) + 1 / 255**2) ** 0.25
                grey = missing[0, x].mean()
                colour = missing[0, x] - grey
                terms.append(weight * (np.square(colour).sum() + 3 * grey**2 / 2) / 3)
        assert distance.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_a_jump_costs_less_beside_a_smooth_foreground_and_in_grey(net: EDSR) -> None:
    """The same jump beside stripes that cross the rim; and of the same size, but of colour."""
    flat = torch.full((3, SIDE, SIDE), 100, dtype=torch.uint8)
    striped = flat.clone()
    striped[:, :, ::2] = 90
    bright, coloured = flat + 30, flat.clone()
    coloured[0] += 30
    coloured[2] -= 30  # sums to no change of grey
    hr = torch.stack([flat, striped, bright, coloured])
    images = Images(hr, torch.zeros(4, 3, SIDE // SCALE, SIDE // SCALE), BOX, net, "torch")
    similarity = SIMILARITIES["seam_error"]
    foregrounds, around = similarity.describe(images)
    beside_flat = similarity.distance(foregrounds[:1], around)
    beside_stripes = similarity.distance(foregrounds[1:2], around)
    assert beside_flat[0].item() == pytest.approx(0, abs=1e-9)
    assert beside_flat[2] < (beside_stripes - beside_stripes[1])[2]
    # Three channels jump by 30, half counted: 3/2; two channels jump by 30, all counted: 2.
    assert (beside_flat[3] / beside_flat[2]).item() == pytest.approx(2 / 1.5, rel=1e-4)
