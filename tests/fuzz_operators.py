"""Cases for every operator: awkward sizes, any strides, NaN and infinities among the values.

Each strategy gives a `Case`, which fuzz_case.py checks.
"""

from collections.abc import Callable
from typing import Any

import torch
from fuzz_case import FEW_PIXELS, FLOATS, GPU, Case, boxes, counts, sizes, tensors
from hypothesis import strategies as st
from torch import Tensor

import fastbg
from fastbg.ops.conv_stack import ChannelAttention, StackLayer
from fastbg.ops.conv_stack import conv_stack as stack


@st.composite
def composites(draw: st.DrawFn, limit: int, scale: int = 1) -> dict[str, Any]:
    """What both composites take."""
    dtype = draw(st.sampled_from([*FLOATS, torch.uint8]))
    first, second = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    count, channels = draw(counts), draw(st.sampled_from([1, 3, 4]))
    size = draw(sizes(limit // (4 * channels), multiple=scale))
    special = draw(st.booleans())
    pairs = [[draw(st.integers(0, n - 1)) for n in (first, second)] for _ in range(count)]
    return {
        "a": draw(tensors((first, channels, *size), dtype, special)),
        "b": draw(tensors((second, channels, *size), dtype, special)),
        "pairs": torch.tensor(pairs, dtype=torch.int64).reshape(count, 2),
        "inner": draw(boxes(count, *size)),
        "outer": draw(boxes(count, *size)),
    }


@st.composite
def composite(draw: st.DrawFn, limit: int) -> Case:
    found = draw(composites(limit))
    sources = () if found["a"].dtype == torch.uint8 else ("a", "b")
    # 8-bit levels are multiplied by 1/255 or divided by 255.
    return Case("composite", found, exact=bool(sources), differentiable=sources)


bridges = st.sampled_from([0.05, 0.5, 2.0, 16.0, 1e9])  # decay lengths, pixels


@st.composite
def bridged_composite(draw: st.DrawFn, limit: int) -> Case:
    found = draw(composites(limit))
    return Case("composite", found, {"seam": draw(bridges)})


def near_edge(case: Case) -> Tensor | float:
    """One grey level where the value before rounding is about half-way between two."""
    if not case.options["quantize"]:
        return 0.0
    plain = fastbg.composite_lr(
        **case.tensors, **{**case.options, "quantize": False}, backend="torch"
    )
    level = plain.double() * 255 + 0.5
    return ((level - level.round()).abs() < 0.01).double() / 254


@st.composite
def composite_lr(draw: st.DrawFn, limit: int) -> Case:
    scale = draw(st.sampled_from([1, 2, 3, 4]))
    found = draw(composites(limit, scale))
    wide = found["a"].dtype in (torch.float32, torch.uint8)
    options = {
        "scale": scale,
        "kernel": draw(st.sampled_from(["matlab", "pil"])),
        "quantize": wide and draw(st.booleans()),
    }
    return Case("composite_lr", found, options, slack=near_edge)


@st.composite
def bridged_composite_lr(draw: st.DrawFn, limit: int) -> Case:
    case = draw(composite_lr(limit))
    case.options["seam"] = draw(bridges)
    return case


@st.composite
def mosaic(draw: st.DrawFn, limit: int) -> Case:
    count, channels = draw(counts), draw(st.sampled_from([1, 3]))
    grid = draw(st.sampled_from([0, 1, 2, 3]))
    height, width = draw(sizes(limit // (max(count * channels, 1) * max(grid, 1) ** 2)))
    codes = st.integers(0, 7) if height == width else st.sampled_from([0, 1, 2, 4, 6, 7])
    cells = [draw(codes) for _ in range(count * grid * grid)]
    tiles = draw(tensors((count, channels, height, width), draw(st.sampled_from(FLOATS)), True))
    code = torch.tensor(cells, dtype=torch.int64).reshape(count, grid, grid)
    return Case("mosaic", {"tiles": tiles, "cells": code}, exact=True)


@st.composite
def blurs(draw: st.DrawFn, limit: int) -> tuple[list[int], int, torch.dtype, bool]:
    """Shape (B,K,C,H,W), kernel size, dtype, whether values are special."""
    taps = draw(st.sampled_from([1, 3, 9, 13]))
    batch, nodes, channels = draw(counts), draw(st.sampled_from([0, 1, 2, 5])), 1
    size = draw(sizes(limit // max(batch * nodes, 1), least=taps // 2 + 1))
    dtype = draw(st.sampled_from(FLOATS))
    return [batch, nodes, channels, *size], taps, dtype, draw(st.booleans())


widths = st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5, 8.0])


@st.composite
def blur_path(draw: st.DrawFn, limit: int) -> Case:
    (batch, nodes, *size), taps, dtype, special = draw(blurs(limit))
    image = draw(tensors((batch, *size), dtype, special))
    options = {"sigmas": [draw(widths) for _ in range(nodes)], "kernel_size": taps}
    return Case("blur_path", {"image": image}, options, differentiable=("image",), reordered=GPU)


@st.composite
def path_integral(draw: st.DrawFn, limit: int) -> Case:
    shape, taps, dtype, special = draw(blurs(limit))
    found = {
        "gradients": draw(tensors(shape, dtype, special)),
        "image": draw(tensors((shape[0], *shape[2:]), dtype, special)),
    }
    options = {"sigmas": [draw(widths) for _ in range(shape[1] + 1)], "kernel_size": taps}
    names = ("gradients", "image")
    return Case("path_integral", found, options, differentiable=names, reordered=GPU)


@st.composite
def gradient_detector(draw: st.DrawFn, limit: int) -> Case:
    batch, channels = draw(counts), draw(st.sampled_from([1, 3]))
    size = draw(sizes(limit // (3 * channels)))
    sr = draw(tensors((batch, channels, *size), draw(st.sampled_from(FLOATS)), draw(st.booleans())))
    found = {"sr": sr, "windows": draw(boxes(batch, *size))}
    return Case("gradient_detector", found, differentiable=("sr",))


@st.composite
def masks(draw: st.DrawFn, batch: int, height: int, width: int) -> Tensor | None:
    """None, one region, or several; weights or bool."""
    kind = draw(st.sampled_from(["none", "one", "several"]))
    if kind == "none":
        return None
    regions = () if kind == "one" else (draw(st.sampled_from([0, 1, 3])),)
    mask = draw(
        tensors((draw(st.sampled_from([1, batch])), *regions, height, width), torch.float32)
    )
    return mask > 0 if draw(st.booleans()) else mask


@st.composite
def gram(draw: st.DrawFn, limit: int) -> Case:
    batch, channels = draw(counts), draw(st.sampled_from([0, 1, 3, 15, 16, 17, 64, 65, 129]))
    size = draw(sizes(limit // max(3 * channels, 1)))
    features = draw(
        tensors((batch, channels, *size), draw(st.sampled_from(FLOATS)), draw(st.booleans()))
    )
    found = {"features": features, "mask": draw(masks(batch, *size))}
    return Case("gram", found, differentiable=("features",), reordered=GPU)


@st.composite
def conv_gram(draw: st.DrawFn, limit: int) -> Case:
    batch, dtype = draw(st.sampled_from([0, 1, 2])), draw(st.sampled_from(FLOATS))
    size = draw(sizes(limit // 6))
    found = {
        "images": draw(tensors((batch, 3, *size), dtype, draw(st.booleans()))),
        "weight": draw(tensors((64, 3, 3, 3), dtype)),
        "bias": draw(tensors((64,), dtype)),
        "mask": draw(masks(batch, *size)),
    }
    return Case("conv_gram", found, spreads=True)


@st.composite
def conv3x3(draw: st.DrawFn, limit: int) -> Case:
    """No special values: Winograd spreads them over a tile, as its documentation says."""
    batch, dtype = draw(counts), draw(st.sampled_from(FLOATS))
    inputs, upscale = draw(st.sampled_from([0, 1, 3, 16, 17])), draw(st.sampled_from([1, 2, 3]))
    outputs = upscale**2 * draw(st.sampled_from([0, 1, 3, 16]))
    height, width = draw(sizes(limit // max(inputs + outputs, 1)))
    shape = (batch, outputs // upscale**2, upscale * height, upscale * width)
    residual = draw(tensors(shape, dtype)) if draw(st.booleans()) else None
    found = {
        "x": draw(tensors((batch, inputs, height, width), dtype)),
        "weight": draw(tensors((outputs, inputs, 3, 3), dtype)),
        "bias": draw(tensors((outputs,), dtype)) if draw(st.booleans()) else None,
        "residual": residual,
    }
    options = {
        "relu": residual is None and draw(st.booleans()),
        "residual_scale": draw(st.sampled_from([1.0, 0.1, 0.0])),
        "upscale": upscale,
    }
    return Case(
        "conv3x3",
        found,
        options,
        differentiable=("x", "weight"),
        unwritten=dict.fromkeys(GPU, ("weight",)),
        cancels=True,
    )


@st.composite
def conv_stack(draw: st.DrawFn, limit: int) -> Case:
    """Few layers of any strides, with small weights.

    No gradient behind a ReLU: its kink moves with rounding.
    """
    channels, pixels = [draw(st.sampled_from([1, 3, 16, 17]))], [1]
    found: dict[str, Tensor | None] = {}
    kinds: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 4))):
        upscale = draw(st.sampled_from([1, 1, 2])) if pixels[-1] == 1 else 1
        same = [j for j, n in enumerate(pixels) if n == pixels[-1] * upscale]
        residual = draw(st.sampled_from([None, *same]))
        outputs = draw(st.sampled_from([1, 3, 16])) if residual is None else channels[residual]
        attends = residual is not None and upscale == 1 and draw(st.booleans())
        kinds.append(
            {
                "relu": residual is None and draw(st.booleans()),
                "upscale": upscale,
                "residual": residual,
                "residual_scale": draw(st.sampled_from([1.0, 0.1, 0.0])),
                "attends": attends,
            }
        )
        shapes = {
            "weight": (outputs * upscale**2, channels[-1], 3, 3),
            "bias": (outputs * upscale**2,),
        }
        if attends:
            shapes |= {"squeeze": (2, outputs, 1, 1), "squeeze_bias": (2,)}
            shapes |= {"excite": (outputs, 2, 1, 1), "excite_bias": (outputs,)}
        for name, shape in shapes.items():
            found[f"{name}_{i}"] = draw(tensors(shape, torch.float32)) / (4 * shape[-1])
        channels.append(outputs)
        pixels.append(pixels[-1] * upscale)
    height, width = draw(sizes(limit // 256, least=1))
    batch = draw(st.sampled_from([1, 2, 3]))  # the reference's pixel shuffle has no empty gradient
    found["x"] = draw(tensors((batch, channels[0], height, width), torch.float32))

    def call(x: Tensor, *, backend: str, **parameters: Tensor) -> Tensor:
        names = ChannelAttention._fields
        layers = []
        for i, kind in enumerate(kinds):
            options = {k: v for k, v in kind.items() if k != "attends"}
            own = [parameters[f"{name}_{i}"] for name in names] if kind["attends"] else None
            attention = None if own is None else ChannelAttention(*own)
            weight, bias = parameters[f"weight_{i}"], parameters[f"bias_{i}"]
            layers.append(StackLayer(weight, bias, attention=attention, **options))
        return stack(x, layers, backend=backend)

    linear = not any(kind["relu"] for kind in kinds)
    options: dict[str, Any] = {"differentiable": ("x",) if linear else (), "call": call}
    return Case("conv_stack", found, gradient_rounding=5e-5, **options)


@st.composite
def swin_maps(draw: st.DrawFn, limit: int) -> tuple[Tensor, int]:
    """(B,C,H,W) made of whole windows, and their side; at least one image, or cpu says no."""
    sides = [4, 8] if limit == FEW_PIXELS else [4, 8, 12]  # triton refuses wide windows
    window, channels = draw(st.sampled_from(sides)), draw(st.sampled_from([1, 2, 16, 18, 60]))
    height, width = (window * draw(st.integers(1, 4)) for _ in range(2))
    batch = draw(st.sampled_from([1, 2])) if 2 * channels * height * width <= limit else 1
    return draw(tensors((batch, channels, height, width), torch.float32)), window


@st.composite
def window_attention(draw: st.DrawFn, limit: int) -> Case:
    x, window = draw(swin_maps(limit))
    channels = x.shape[1]
    heads = draw(st.sampled_from([n for n in (1, 2, 3, 6) if channels % n == 0]))
    shapes = {
        "norm_weight": (channels,),
        "norm_bias": (channels,),
        "qkv_weight": (3 * channels, channels),
        "qkv_bias": (3 * channels,),
        "bias_table": ((2 * window - 1) ** 2, heads),
        "proj_weight": (channels, channels),
        "proj_bias": (channels,),
    }
    found = {name: draw(tensors(shape, torch.float32)) / 4 for name, shape in shapes.items()}
    # Whole cells of 4x4 pixels; eps keeps pixels of equal channels from being divided by nothing.
    shift = draw(st.sampled_from([0, 4])) if window > 4 else 0
    options = {"heads": heads, "window": window, "shift": shift, "eps": 0.1}
    return Case(
        "window_attention",
        {"x": x, **found},
        options,
        differentiable=("x",),
        gradient_rounding=2e-5,
    )


@st.composite
def pixel_mlp(draw: st.DrawFn, limit: int) -> Case:
    x, _ = draw(swin_maps(limit))
    channels, hidden = x.shape[1], draw(st.sampled_from([1, 4, 33, 64]))
    shapes = {
        "norm_weight": (channels,),
        "norm_bias": (channels,),
        "fc1_weight": (hidden, channels),
        "fc1_bias": (hidden,),
        "fc2_weight": (channels, hidden),
        "fc2_bias": (channels,),
    }
    found = {name: draw(tensors(shape, torch.float32)) / 4 for name, shape in shapes.items()}
    return Case(
        "pixel_mlp",
        {"x": x, **found},
        {"eps": 0.1},
        differentiable=("x",),
        gradient_rounding=2e-5,
    )


OPERATORS: dict[str, Callable[..., st.SearchStrategy[Case]]] = {
    strategy.__name__: strategy
    for strategy in (
        composite,
        composite_lr,
        bridged_composite,
        bridged_composite_lr,
        mosaic,
        blur_path,
        path_integral,
        gradient_detector,
        gram,
        conv_gram,
        conv3x3,
        conv_stack,
        window_attention,
        pixel_mlp,
    )
}
# What these public functions are registered as.
REGISTERED = {"window_attention": "swin_layers", "pixel_mlp": "swin_layers"}
