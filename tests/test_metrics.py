"""PSNR and its conventions, by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastbg.errors import InvalidArgument
from fastbg.measures.quality import cut_window, grey_levels, psnr, ssim


def flat(*levels: float, size: int = 12) -> torch.Tensor:
    """One image (B,3,size,size) of each grey level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, size, size) / 255


def test_psnr_of_each_image_of_a_batch() -> None:
    found = psnr(flat(100, 100, 90), flat(110, 100, 91))
    expected = [20 * np.log10(255 / 10), np.inf, 20 * np.log10(255)]
    assert found.tolist() == pytest.approx(expected)


def test_values_are_clipped_and_rounded_to_8_bit() -> None:
    image = torch.tensor([-0.2, 1.3, 100.4 / 255]).view(1, 3, 1, 1)
    assert grey_levels(image).flatten().tolist() == [0, 255, 100]
    assert psnr(flat(300, -20), flat(255, 0)).tolist() == [np.inf, np.inf]


def test_y_is_bt601s_luma() -> None:
    """Of white 235, of black 16; of red, green and blue alone their weights."""
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    levels = grey_levels(colours[..., None, None], "y")
    assert levels.shape == (5, 1, 1, 1)
    assert levels.flatten().tolist() == pytest.approx([235, 16, 81.481, 144.553, 40.966])
    white, dark = flat(255), flat(0)
    assert psnr(white, dark, channel="y").item() == pytest.approx(20 * np.log10(255 / 219))
    assert psnr(white, dark).item() == pytest.approx(0)


def test_only_the_window_without_its_border_is_measured() -> None:
    sr, hr = flat(100).clone(), flat(100)
    sr[..., 0, :] = 0  # in the border of 1
    sr[..., 5, 6] = 110 / 255
    found = psnr(sr, hr, window=(0, 2, 10, 10), shave=1)
    assert found.item() == pytest.approx(10 * np.log10(255**2 / (100 / 48)))
    assert psnr(sr, hr).item() < 20  # all of it, without a border left out
    assert cut_window(hr, (5, 5, 6, 6), 0).shape == (1, 3, 1, 1)
    image = torch.arange(60.0).view(1, 1, 6, 10)
    assert cut_window(image, None, 2).flatten().tolist() == [*range(22, 28), *range(32, 38)]


@pytest.mark.parametrize(
    ("window", "shave"),
    [
        ((0, 0, 13, 12), 0),
        ((0, 0, 12, 13), 0),
        ((-1, 0, 4, 4), 0),
        ((0, -1, 4, 4), 0),
        ((4, 0, 4, 4), 0),
        ((0, 4, 4, 4), 0),
        ((2, 2, 10, 10), -1),
        (None, 6),
    ],
)
def test_a_window_that_leaves_nothing_or_the_image_is_refused(
    window: tuple[int, ...] | None, shave: int
) -> None:
    with pytest.raises(InvalidArgument, match=r"^(window|shave): got .* pixels of 12x12"):
        psnr(flat(1), flat(2), window=window, shave=shave)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_another_range_is_refused_by_name(measure: Callable[..., torch.Tensor]) -> None:
    """0..255 would be clipped to white, and uint8 taken for 0 and 1: both silently."""
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grey = image * 255
    told = r"got values from 0\.\d+ to 25\d\.\d+; expected values in \[0, 1\]; divide .* by 255"
    for sr, hr, name in ((grey, grey, "sr"), (grey, image, "sr"), (image, grey, "hr")):
        with pytest.raises(InvalidArgument, match=f"^{name}: {told}"):
            measure(sr, hr)
    with pytest.raises(InvalidArgument, match=r"^hr: got values from -0.99.* to .*\[0, 1\]$"):
        measure(image, image * 2 - 1)
    with pytest.raises(InvalidArgument, match=r"^sr: got torch.uint8; expected floats"):
        measure(grey.to(torch.uint8), grey.to(torch.uint8))
    with pytest.raises(InvalidArgument, match=r"^hr: got torch.uint8; expected floats"):
        measure(image, grey.to(torch.uint8))
    spoilt = grey.clone()
    spoilt[0, 0, 0, 0] = torch.nan  # hides nothing of the other image
    with pytest.raises(InvalidArgument, match=r"^hr: got values from"):
        measure(image, spoilt)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_a_network_may_overshoot(measure: Callable[..., torch.Tensor]) -> None:
    """It is clipped, as ever; what is no number shows in the score of its own image alone."""
    hr = flat(255, 255, size=16).clone()
    sr = hr.clone()
    sr[0, :, 3:5] = 6.0
    assert measure(sr, hr).tolist() == [math.inf if measure is psnr else 1.0] * 2
    sr[0, 0, 0, 0] = torch.nan
    found = measure(sr, hr).tolist()
    assert math.isnan(found[0])
    assert not math.isnan(found[1])
    outside = torch.full_like(hr, 99.0)
    outside[..., 2:14, 2:14] = hr[..., 2:14, 2:14]  # only what is measured is looked at
    assert not bool(measure(outside, hr, shave=2).isnan().any())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"^channel: got 'Y'; expected one of \('rgb', 'y'\)"):
        psnr(flat(1), flat(2), channel="Y")
    with pytest.raises(InvalidArgument, match=r"^sr: got shape \(2, .*\); expected hr's shape"):
        psnr(flat(1, 2), flat(2))
    with pytest.raises(
        InvalidArgument, match=r"^window: got 10x12 pixels; expected at least 11x11"
    ):
        ssim(flat(1), flat(2), window=(0, 0, 10, 12))


def test_ssim_of_flat_images_by_hand() -> None:
    """Without structure only the means differ; 11 x 11 pixels are just enough."""
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    found = ssim(flat(100, size=11), flat(120, size=11), channel="rgb")
    assert found.item() == pytest.approx(expected, abs=1e-12)
