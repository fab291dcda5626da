"""The compiled CUDA operators (csrc/cuda/*_bindings.cpp). They check nothing: call fastbg.ops.

A tensor crosses as a `View` (fastbg/backends/tensor_view.py): address, dtype code, sizes, strides
in elements. `out` and scratch memory are the caller's; `stream` is the handle of a CUDA stream.
A launch that fails raises RuntimeError.
"""

from typing import TypeAlias

View: TypeAlias = tuple[int, int, tuple[int, ...], tuple[int, ...]]

# composite_bindings.cpp
def why_not() -> str:
    """CUDA's error if no kernel can be launched on the current device, else ""."""

def composite(
    a: View, b: View, pairs: View, inner: View, outer: View, out: View, stream: int
) -> None: ...
def composite_lr(
    a: View,
    b: View,
    pairs: View,
    inner: View,
    outer: View,
    row_index: View,
    row_weight: View,
    column_index: View,
    column_weight: View,
    quantize: bool,
    column_band: View,
    rows: View,
    small: View,
    out: View,
    stream: int,
) -> None: ...
def mosaic(tiles: View, cells: View, out: View, stream: int) -> None: ...

# path_bindings.cpp
def blur_path(image: View, taps: View, out: View, stream: int) -> None: ...
def path_integral(
    gradients: View, image: View, change: View, level: View, out: View, stream: int
) -> None: ...
def gradient_detector(sr: View, windows: View, out: View, stream: int) -> None: ...
def gradient_detector_backward(
    grad: View, sr: View, windows: View, out: View, stream: int
) -> None: ...

# gram_bindings.cpp; a workspace holds as many floats as *_workspace says
def gram_workspace(features: View, mask: View | None, out: View) -> int: ...
def gram(features: View, mask: View | None, workspace: View, out: View, stream: int) -> None: ...
def conv_gram_workspace(
    images: View, weight: View, bias: View, mask: View | None, out: View
) -> int: ...
def conv_gram(
    images: View,
    weight: View,
    bias: View,
    mask: View | None,
    workspace: View,
    out: View,
    stream: int,
) -> None: ...

# conv_bindings.cpp; `packed` has as many elements as conv3x3_packed_size says
def conv3x3_packed_size(weight: View, upscale: int, transposed: bool) -> int: ...
def conv3x3_pack(
    weight: View, upscale: int, transposed: bool, rounded: bool, packed: View, stream: int
) -> None: ...
def conv3x3(
    x: View,
    x_upscale: int,
    packed: View,
    bias: View | None,
    residual: View | None,
    residual_scale: float,
    relu: bool,
    out: View,
    upscale: int,
    rounded: bool,
    stream: int,
) -> None: ...

# conv_stack_bindings.cpp; x and residual: a map, and the row and column where the result begins
def conv_stack_pack(
    weights: tuple[tuple[View, int, int], ...],  # view, upscale, start in `packed`
    transposed: bool,
    rounded: bool,
    packed: View,
    stream: int,
) -> None: ...
def conv_stack_sums(channels: int, height: int, width: int) -> tuple[int, int]: ...
def conv_stack_layer(
    x: tuple[View, int, int],
    x_upscale: int,
    packed: View,
    bias: View | None,
    relu: bool,
    scale: float,
    residual: tuple[View, int, int] | None,
    gate: View | None,
    sums: View | None,
    out: View,
    upscale: int,
    rounded: bool,
    stream: int,
) -> None: ...

# channel_attention_bindings.cpp; parameters: squeeze, squeeze_bias, excite, excite_bias
def channel_attention(
    y: View,
    residual: View,
    sums: View,
    parameters: tuple[View, ...],
    scale: float,
    map_pixels: int,
    means: View,
    out: View,
    stream: int,
) -> None: ...
def channel_attention_dots(height: int, width: int) -> int: ...
def channel_attention_gradient(
    grad: View,
    down: int,
    right: int,
    y: View,
    means: View,
    parameters: tuple[View, ...],
    scale: float,
    dots: View,
    out: View,
    stream: int,
) -> None: ...

# seam_bindings.cpp
def bridged_composite(
    a: View,
    b: View,
    pairs: View,
    inner: View,
    outer: View,
    decay: View,
    out: View,
    stream: int,
) -> None: ...
def bridged_composite_lr(
    a: View,
    b: View,
    pairs: View,
    inner: View,
    outer: View,
    decay: View,
    row_index: View,
    row_weight: View,
    column_index: View,
    column_weight: View,
    quantize: bool,
    out: View,
    stream: int,
) -> None: ...
