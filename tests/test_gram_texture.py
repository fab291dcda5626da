"""Textures as Gram matrices, and the distance between them."""

import numpy as np
import pytest
import torch

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.models.vgg import conv1_1


@pytest.fixture
def features(photos: torch.Tensor) -> torch.Tensor:
    """conv1_1 + ReLU of the photos, in float64, by plain PyTorch."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    weight, bias = conv1_1(torch.device("cpu"), torch.float64)
    return torch.conv2d((photos.double() - mean) / std, weight, bias, padding=1).relu()


@pytest.fixture
def photos(bicubic_golden: dict[str, np.ndarray]) -> torch.Tensor:
    """Two crops (2,3,48,56) of a real image, in [0,1]."""
    image = torch.from_numpy(bicubic_golden["hr"]).float().permute(2, 0, 1)
    image = image / 255 if image.max() > 1 else image
    return torch.stack([image[:, :48, :56], image[:, -48:, -56:]])


def test_texture_gram_is_the_definition(photos: torch.Tensor, features: torch.Tensor) -> None:
    expected = torch.einsum("biyx,bjyx->bij", features, features) / features[0].numel()
    got = fastbg.texture_gram(photos)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    exact = fastbg.texture_gram(photos.double())
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)


def test_texture_gram_of_regions(photos: torch.Tensor, features: torch.Tensor) -> None:
    """Each region is divided by its own number of pixels."""
    masks = torch.zeros(2, 2, 48, 56, dtype=torch.bool)
    masks[:, 0, 16:32, 10:40] = True
    masks[:, 1] = ~masks[:, 0]
    got = fastbg.texture_gram(photos, masks)
    for region in range(2):
        inside = features[..., masks[0, region]]  # [B,64,pixels]
        expected = inside @ inside.mT / inside[0].numel()
        assert (got[:, region] - expected).abs().max() <= 1e-6 * expected.abs().max()
        torch.testing.assert_close(fastbg.texture_gram(photos, masks[:, region]), got[:, region])
    assert fastbg.texture_gram(photos, torch.zeros(2, 48, 56)).isnan().all()


def test_texture_gram_reads_grey_levels(photos: torch.Tensor) -> None:
    levels = (photos * 255).round().to(torch.uint8)
    torch.testing.assert_close(fastbg.texture_gram(levels), fastbg.texture_gram(levels / 255))
    with pytest.raises(InvalidArgument, match=r"images: got shape \(2, 1, 48, 56\)"):
        fastbg.texture_gram(levels[:, :1])
    with pytest.raises(InvalidArgument, match=r"^images: got torch.int32"):
        fastbg.texture_gram(levels.int())


def test_texture_gram_is_differentiable(photos: torch.Tensor) -> None:
    image = photos[:1, :, :5, :6].double().requires_grad_()
    assert torch.autograd.gradcheck(fastbg.texture_gram, (image,), fast_mode=True)


def random_grams(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    features = torch.rand(count, 64, 200, generator=generator, dtype=torch.float64)
    return (features @ features.mT / 200).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_gram_distance_is_the_definition(dtype: torch.dtype) -> None:
    ga, gb = random_grams(7, dtype), random_grams(5, dtype)
    got = fastbg.gram_distance(ga, gb)
    assert got.shape == (7, 5)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = (ga.double()[:, None] - gb.double()).square().sum((-2, -1))
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=0)


def test_gram_distance_of_identical_matrices_is_zero() -> None:
    """Wherever they stand, and never negative."""
    grams = random_grams(40) * 1000
    same = torch.cat([grams, grams.flip(0), grams[3:4]])
    distance = fastbg.gram_distance(grams, same)
    assert (distance >= 0).all()
    identical = (grams[:, None] == same).all((-2, -1))
    assert torch.equal(distance == 0, identical)


def test_gram_distance_tells_near_matrices_apart() -> None:
    grams = random_grams(6)
    near = grams * (1 + 1e-5)
    expected = (grams.double() - near.double()).square().sum((-2, -1))
    got = fastbg.gram_distance(grams, near).diagonal()
    torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=0)


def test_gram_distance_of_nothing() -> None:
    assert fastbg.gram_distance(random_grams(3), random_grams(2)[:0]).shape == (3, 0)
    assert fastbg.gram_distance(random_grams(3)[:0], random_grams(2)).shape == (0, 2)


@pytest.mark.parametrize(
    ("ga", "gb", "message"),
    [
        (torch.rand(3, 4), torch.rand(3, 4, 4), r"ga: got shape \(3, 4\); expected shape \(N, C"),
        (torch.rand(3, 4, 4), torch.rand(3, 4, 5), r"gb: got shape \(3, 4, 5\)"),
        (torch.rand(3, 4, 4), torch.rand(3, 5, 5), "gb: got shape .* expected ga's C = 4"),
        (
            torch.rand(3, 4, 4),
            torch.rand(3, 4, 4).double(),
            "gb: got torch.float64; expected ga",
        ),
        (torch.rand(3, 4, 4), torch.rand(3, 4, 4, device="meta"), "gb: got device meta"),
        (None, torch.rand(3, 4, 4), "ga: got NoneType"),
        (torch.ones(3, 4, 4).int(), torch.rand(3, 4, 4), "ga: got torch.int32"),
    ],
)
def test_gram_distance_names_the_argument(ga: object, gb: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        fastbg.gram_distance(ga, gb)


def test_texture_gram_of_another_range_is_refused(photos: torch.Tensor) -> None:
    """0..255 as floats; as uint8 they are read as what they are."""
    grey = (photos * 255).round()
    with pytest.raises(InvalidArgument, match=r"^images: got values .*\[0, 1\]; divide .* by 255"):
        fastbg.texture_gram(grey)
    expected = fastbg.texture_gram(grey / 255)
    torch.testing.assert_close(fastbg.texture_gram(grey.to(torch.uint8)), expected)
    spoilt, mask = photos.clone(), torch.ones(2, 48, 56)
    spoilt[:, :, :4], mask[:, :8] = torch.nan, 0  # what no region counts may hold anything
    assert fastbg.texture_gram(spoilt, mask).isfinite().all()
