"""The convolution's CUDA kernels, emulated, over odd sizes, dtypes and strides, against float64.

Run by test_conv_cuda.py in processes with sanitizers: ``emulation_campaign_conv.py FOLDER`` takes
the module from FOLDER.
"""

import itertools
from collections.abc import Iterator

import torch
from emulation_campaign import main
from torch import Tensor

from fastbg.backends.torch_reference import conv as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of the largest entry: three TF32 products and float32 sums, then half an ulp of the output.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
LAYOUTS = ("contiguous", "channels_last", "window", "crooked window", "steps")
# Channels, pixels, factor of the shuffle: sanitizers are slow, so each layout meets one of them.
SHAPES = (((1, 1), (1, 1), 3), ((20, 18), (2, 17), 1), ((3, 20), (9, 3), 2))


def in_layout(x: Tensor, layout: str) -> Tensor:
    """`x` (B,C,H,W) cut out of other memory; NaN, which must not be read, lies around it."""
    height, width = x.shape[2:]
    if layout == "contiguous":
        return x.contiguous()
    if layout == "steps":
        wide = x.new_full((*x.shape[:2], 2 * height, 3 * width), float("nan"))
        wide[..., ::2, ::3] = x
        return wide[..., ::2, ::3]
    around = {"channels_last": 0, "window": 8, "crooked window": 1}[layout]  # 8: 16 bytes and more
    whole = torch.nn.functional.pad(x, [around] * 6, value=float("nan"))
    whole = whole.contiguous(memory_format=torch.channels_last)
    channels = slice(around, around + x.shape[1])
    return whole[:, channels, around : around + height, around : around + width]


def run_cases() -> Iterator[str]:
    """Run the cases one by one; yields what each was."""
    from fastbg.backends.cuda import conv as emulated

    generator = torch.Generator().manual_seed(0)
    shapes = itertools.cycle(SHAPES)
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        (inputs, outputs), (height, width), upscale = next(shapes)

        def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        x = in_layout(random(1, inputs, height, width), layout)
        outputs = -(-outputs // upscale**2)
        y = in_layout(random(1, outputs, height * upscale, width * upscale), layout)
        weight, bias = random(outputs * upscale**2, inputs, 3, 3), random(outputs * upscale**2)
        arguments = x, weight, bias, y
        got = emulated.conv3x3(*arguments, 0.5, False, upscale)
        exact = reference.conv3x3(*(a.double() for a in arguments), 0.5, False, upscale)
        back = emulated.conv3x3_input_gradient(y, weight, y, upscale)
        wanted = reference.conv3x3_input_gradient(y.double(), weight.double(), y.double(), upscale)
        for ours, theirs in ((got, exact), (back, wanted)):
            limit = TOLERANCE[dtype] * float(theirs.abs().max())
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=limit)
        yield f"conv3x3 {dtype} {layout} {inputs} {outputs} {height}x{width} {upscale}"


if __name__ == "__main__":
    main(run_cases)
