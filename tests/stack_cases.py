"""Stacks of convolutions for tests, and what they are compared with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from fastbg.geometry import Box
from fastbg.models.conv_stack import link_boxes
from fastbg.ops.conv_stack import ChannelAttention, StackLayer, conv_stack


def image(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


@st.composite
def stacks(draw: st.DrawFn) -> tuple[Tensor, list[StackLayer], Box, bool]:
    """An image, layers of all kinds, a window of the result, and whether boxes are of cells."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.from_numpy(scale * rng.standard_normal(shape, np.float32))

    batch, height, width = (draw(st.integers(1, n)) for n in (3, 18, 21))
    channels = draw(st.sampled_from((1, 3, 16, 20, 64)))
    x = random(batch, channels, height, width)
    layout = draw(st.sampled_from(("contiguous", "channels_last", "strided")))
    if layout == "strided":
        x = x.repeat_interleave(2, 3)[..., ::2]
    elif layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    layers: list[StackLayer] = []
    scales, sizes, pixels = [1], [channels], 1
    for _ in range(draw(st.integers(1, 6))):
        upscale = draw(st.sampled_from((1, 1, 1, 2, 3)))
        if pixels * upscale > 4:
            upscale = 1
        known = [i for i, size in enumerate(sizes) if scales[i] == pixels * upscale]
        known = [i for i in known if sum(layer.residual == i for layer in layers) < 4]
        end = draw(st.sampled_from(("nothing", "relu", "residual")))
        residual = draw(st.sampled_from(known)) if known and end == "residual" else None
        outputs = draw(st.sampled_from((1, 3, 16, 20, 64, 65, 80)))
        if residual is not None:
            outputs = sizes[residual]
        weight = random(outputs * upscale**2, sizes[-1], 3, 3, scale=1 / (9 * sizes[-1]) ** 0.5)
        bias = random(len(weight)) if draw(st.booleans()) else None
        scale = draw(st.sampled_from((1.0, 0.1)))
        attention = None
        if residual is not None and upscale == 1 and draw(st.booleans()):
            squeezed = draw(st.sampled_from((1, 4, 17)))
            attention = ChannelAttention(
                random(squeezed, outputs, 1, 1),
                random(squeezed),
                random(outputs, squeezed, 1, 1),
                random(outputs),
            )
        layers.append(
            StackLayer(weight, bias, end == "relu", upscale, residual, scale, None, attention)
        )
        pixels *= upscale
        scales.append(pixels)
        sizes.append(outputs)
    y0, x0 = draw(st.integers(0, pixels * height - 1)), draw(st.integers(0, pixels * width - 1))
    y1 = draw(st.integers(y0 + 1, pixels * height))
    x1 = draw(st.integers(x0 + 1, pixels * width))
    return x, layers, Box(y0, x0, y1, x1), draw(st.booleans())


def trimmed(x: Tensor, layers: list[StackLayer], window: Box, equal: bool) -> list[StackLayer]:
    """The layers with the boxes that the window needs."""
    boxes = link_boxes(window, layers, *x.shape[-2:], equal)
    return [layer._replace(box=box) for layer, box in zip(layers, boxes, strict=True)]


def cut(y: Tensor, layers: list[StackLayer], window: Box) -> Tensor:
    """The window of what trimmed layers gave."""
    assert layers[-1].box is not None
    box = Box(*layers[-1].box).refine(layers[-1].upscale)
    rows = slice(window.y0 - box.y0, window.y1 - box.y0)
    return y[..., rows, window.x0 - box.x0 : window.x1 - box.x0]


def in_double(layers: list[StackLayer]) -> list[StackLayer]:
    return [
        s._replace(
            weight=s.weight.double(),
            bias=None if s.bias is None else s.bias.double(),
            attention=s.attention and ChannelAttention(*(p.double() for p in s.attention)),
        )
        for s in layers
    ]


def largest(x: Tensor, layers: list[StackLayer]) -> float:
    """The largest magnitude of the image and all layers' maps: rounding errors are relative to it.

    A last map may be small where values cancel, and carries the errors of the larger ones.
    """
    exact = in_double(layers)
    maps = (conv_stack(x.double(), exact[:count]) for count in range(1, len(layers) + 1))
    return max(float(x.abs().max()), *(float(y.abs().max()) for y in maps))


def close(got: Tensor, expected: Tensor, error: float, scale: float | None = None) -> None:
    """To `error` of the largest value; inputs are of the order of 1, and so is what rounds."""
    assert got.shape == expected.shape
    scale = max(float(expected.abs().max()), 0.1) if scale is None else max(scale, 0.1)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=error * scale)


def of_instruction_sets(script: str, folder: Path) -> list[Any]:
    """What `script` saves to its argument in a process for each instruction set of this build."""
    results = []
    for isa in ("baseline", "avx2", "avx512"):
        file = folder / isa
        environment = os.environ | {"FASTBG_CPU_ISA": isa}
        done = subprocess.run(
            [sys.executable, "-c", script, str(file)], env=environment, capture_output=True
        )
        if b"this machine or build has no" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr.decode()
        results.append(torch.load(file))
    return results
