"""The Gram family's CUDA kernels, emulated, over odd sizes, dtypes and strides, against float64.

Run by test_emulation_gram.py in processes with sanitizers: ``emulation_campaign_gram.py FOLDER``
takes the module from FOLDER.
"""

import itertools
from collections.abc import Iterator

import torch
from emulation_campaign import LAYOUTS, images, main
from torch import Tensor

from fastbg.backends.torch_reference import gram as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of the largest entry. Tensor cores: TF32 three times, cut off; then half an ulp of the output.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-11 + 1e-5, torch.bfloat16: 2**-8 + 1e-5}
# No region, one, and three of which the last two may be empty.
MASKS = ("none", "weights", "regions")


def weights(
    kind: str, batch: int, height: int, width: int, generator: torch.Generator
) -> Tensor | None:
    """(B,M,H,W) weights: of both signs, or three thin regions, as slices of something larger."""
    if kind == "none":
        return None
    if kind == "weights":
        return torch.randn(batch, 1, height, width, generator=generator)
    drawn = torch.rand(1, 3, height + 1, width + 2, generator=generator)
    return (drawn[:, :, 1:, 1:-1] < 0.1).float().expand(batch, -1, -1, -1)


def double(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.double()


def assert_near(got: Tensor, exact: Tensor, scale: Tensor) -> None:
    """`scale`: the sums (B,M,C,C) of absolute values, whose largest entry errors are told in."""
    largest = scale.flatten(-2).amax(-1)[..., None, None]
    # The smallest float16 is no relative error.
    allowed = TOLERANCE[got.dtype] * largest + (2**-24 if got.dtype == torch.float16 else 0)
    error = (got.double() - exact).abs()
    assert got.shape == exact.shape
    assert (error <= allowed).all(), f"{(error / largest).max():.3g} of the largest entry"
    assert torch.equal(got, got.mT), "not exactly symmetric"


def check_gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """The emulated result, after comparison with float64."""
    from fastbg.backends.cuda import gram as emulated

    got = emulated.gram(features, mask)
    absolute = None if mask is None else mask.double().abs()
    assert_near(
        got,
        reference.gram(features.double(), double(mask)),
        reference.gram(features.double().abs(), absolute),
    )
    return got


def check_conv_gram(pictures: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """The same of conv_gram."""
    from fastbg.backends.cuda import gram as emulated

    got = emulated.conv_gram(pictures, weight, bias, mask)
    arguments = [value.double() for value in (pictures, weight, bias)]
    absolute = None if mask is None else mask.double().abs()
    assert_near(
        got,
        reference.conv_gram(*arguments, double(mask)),
        reference.conv_gram(*arguments, absolute),
    )
    return got


def filters(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random weight (64,3,3,3) and bias (64)."""
    weight = torch.randn(64, 3, 3, 3, generator=generator)
    return weight.to(dtype), torch.randn(64, generator=generator).to(dtype)


def run_cases() -> Iterator[str]:
    """Run the cases one by one; yields what each was."""
    generator = torch.Generator().manual_seed(0)
    channels = itertools.cycle((1, 17, 64, 3, 70, 33))
    sizes = itertools.cycle(((1, 1), (5, 13), (4, 16), (3, 47)))
    for dtype, layout, kind in itertools.product(DTYPES, LAYOUTS, MASKS):
        count, (height, width) = next(channels), next(sizes)
        features = images(2, count, height, width, dtype, layout, generator)
        check_gram(features, weights(kind, 2, height, width, generator))
        yield f"gram {dtype} {layout} {count}x{height}x{width} {kind}"
    for dtype, kind in itertools.product(DTYPES, MASKS):
        for layout, (height, width) in zip(LAYOUTS, ((1, 1), (2, 3), (3, 33)), strict=False):
            pictures = images(2, 3, height, width, dtype, layout, generator)
            mask = weights(kind, 2, height, width, generator)
            check_conv_gram(pictures, *filters(dtype, generator), mask)
            yield f"conv_gram {dtype} {layout} {height}x{width} {kind}"


if __name__ == "__main__":
    main(run_cases)
