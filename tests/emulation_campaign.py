"""Every CUDA kernel, emulated, over odd sizes, dtypes and strides, against the reference.

Run by test_emulation.py in processes with sanitizers: ``emulation_campaign.py FOLDER`` takes the
module from FOLDER.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from emulation_build import load
from torch import Tensor

from fastbg.backends.torch_reference import composite as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
# Relative to 1, for results around 1: half an ulp of the output, and float32 sums.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded", "offset")


def images(
    count: int,
    channels: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    layout: str,
    generator: torch.Generator,
) -> Tensor:
    """Random images in [0,1] whose memory lies as `layout` says."""

    def fresh(*shape: int) -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
        return torch.rand(shape, generator=generator).to(dtype)

    if layout == "channels_last":
        return fresh(count, height, width, channels).permute(0, 3, 1, 2)
    if layout == "sliced":
        return fresh(count, channels, height + 3, 2 * width + 1)[:, :, 2 : height + 2, 1::2][
            ..., :width
        ]
    if layout == "expanded":
        return fresh(1, 1, height, width).expand(count, channels, height, width)
    if layout == "offset":  # contiguous, but no row starts at a multiple of 16 bytes
        flat = fresh(count * channels * height * width + 1)
        return flat[1:].view(count, channels, height, width)
    return fresh(count, channels, height, width)


def boxes(count: int | None, height: int, width: int, generator: torch.Generator) -> Tensor:
    """One box (4), or one each (count,4), inside the image; often small or empty."""

    def interval(size: int) -> Tensor:
        return torch.randint(0, size + 1, (count or 1, 2), generator=generator).sort(1).values

    y, x = interval(height), interval(width)
    box = torch.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], 1).int()
    return box[0].contiguous() if count is None else box


def pairs(count: int, first: int, second: int, generator: torch.Generator) -> Tensor:
    columns = [torch.randint(0, n, (count,), generator=generator) for n in (first, second)]
    return torch.stack(columns, 1).int()


def run_cases() -> Iterator[str]:
    """Run the cases one by one; yields what each was."""
    from fastbg.backends.cuda import composite as emulated

    generator = torch.Generator().manual_seed(0)
    sizes = ((1, 1), (2, 3), (33, 8), (5, 130))
    for dtype, layout, (height, width) in itertools.product(DTYPES, LAYOUTS, sizes):
        a = images(2, 3, height, width, dtype, layout, generator)
        b = images(3, 3, height, width, dtype, layout, generator)
        for count, each in ((1, False), (4, True)):
            index = pairs(count, 2, 3, generator)
            box = [boxes(count if each else None, height, width, generator) for _ in range(2)]
            result = emulated.composite(a, b, index, *box)
            torch.testing.assert_close(
                result, reference.composite(a, b, index, *box), rtol=0, atol=0
            )
            yield f"composite {dtype} {layout} {height}x{width} {count}"
    for dtype, scale, (h, w) in itertools.product(DTYPES, (1, 3, 4), ((1, 1), (9, 16))):
        layout = LAYOUTS[(scale + h) % len(LAYOUTS)]
        a = images(2, 2, h * scale, w * scale, dtype, layout, generator)
        b = images(2, 2, h * scale, w * scale, dtype, layout, generator)
        for count, each in ((1, False), (5, False), (5, True)):
            index = pairs(count, 2, 2, generator)
            box = [boxes(count if each else None, h * scale, w * scale, generator) for _ in "io"]
            for kernel in ("matlab", "pil"):
                arguments = (a, b, index, *box, scale, kernel, False)
                result = emulated.composite_lr(*arguments)
                expected = reference.composite_lr(*arguments)
                torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE[result.dtype])
                yield f"composite_lr {dtype} x{scale} {layout} {h}x{w} {count} {each} {kernel}"
    for dtype, layout, size in itertools.product(DTYPES[:3], LAYOUTS, (1, 3, 8)):
        tiles = images(2, 2, size, size, dtype, layout, generator)
        cells = torch.randint(0, 8, (2, 3, 3), generator=generator).int()
        result = emulated.mosaic(tiles, cells)
        torch.testing.assert_close(result, reference.mosaic(tiles, cells), rtol=0, atol=0)
        yield f"mosaic {dtype} {layout} {size}"


def main(cases: Callable[[], Iterator[str]]) -> None:
    """Run all `cases` with the modules in the folder that the command line names."""
    load("_cuda_emulated", Path(sys.argv[1]))
    torch.use_deterministic_algorithms(True)  # torch.empty is filled with NaN
    print(f"{sum(1 for _ in cases())} cases agree with the reference")


if __name__ == "__main__":
    main(run_cases)
