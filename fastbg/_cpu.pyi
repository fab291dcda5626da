"""The compiled CPU operators (csrc/cpu/*_bindings.cpp). They check nothing: call fastbg.ops.

A tensor crosses as a `View` (fastbg/backends/tensor_view.py): address, dtype code, sizes, strides
in elements. Inputs come first, then `out`, which the caller has allocated, then the threads to use.
"""

from typing import TypeAlias

View: TypeAlias = tuple[int, int, tuple[int, ...], tuple[int, ...]]

# (attends, box, eps, addresses, hidden, heads, window, shift), lengths in cells of 4x4 pixels
Layer: TypeAlias = tuple[
    tuple[int, ...], bool, int, int, float, int, int, int, tuple[int, ...] | None
]
Tail: TypeAlias = tuple[tuple[int, ...], int, int, int, tuple[int, ...], int]
Step: TypeAlias = tuple[bool, tuple[int, ...], float, tuple[int, ...], int, int, int, int]

attention_cell_side: int  # pixels
attention_tile_rows: int
attention_window_cells: int  # the most that an attention window may have along a side
conv_weight_parts: int  # rows of `sums` in conv_weight_gradient
fingerprint_piece: int  # bytes of a weight that one state stands for
fingerprint_state: int  # bytes from one state to the next

def isa() -> str: ...  # "baseline", "avx2" or "avx512"

# composite_bindings.cpp
def composite(
    a: View, b: View, pairs: View, inner: View, outer: View, out: View, threads: int, /
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
    out: View,
    threads: int,
    /,
) -> None: ...
def bridged_composite(
    a: View,
    b: View,
    pairs: View,
    inner: View,
    outer: View,
    decay: View,
    out: View,
    threads: int,
    /,
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
    threads: int,
    /,
) -> None: ...
def mosaic(tiles: View, cells: View, out: View, threads: int, /) -> None: ...

# path_bindings.cpp
def blur_path(image: View, taps: View, out: View, threads: int, /) -> None: ...
def path_integral(
    gradients: View, image: View, change: View, level: View, out: View, threads: int, /
) -> None: ...
def gradient_detector(sr: View, windows: View, out: View, threads: int, /) -> None: ...
def gradient_detector_backward(
    grad: View, sr: View, windows: View, out: View, threads: int, /
) -> None: ...

# gram_bindings.cpp
def gram(features: View, mask: View | None, out: View, threads: int, /) -> None: ...
def conv_gram(
    images: View, weight: View, bias: View, mask: View | None, out: View, threads: int, /
) -> None: ...

# conv_bindings.cpp
# False if the weight at that address no longer has the fingerprint at `states`; `out` is then void.
def conv3x3(
    x: View,
    gate: View | None,
    x_upscale: int,
    factors: View,
    bias: View | None,
    residual: View | None,
    residual_scale: float,
    relu: bool,
    out: View,
    upscale: int,
    weight: int,
    bytes: int,
    states: int,
    threads: int,
    /,
) -> bool: ...
def conv_weight_gradient(
    x: View,
    grad: View,
    gate: View | None,
    upscale: int,
    sums: View,
    weight: View,
    bias: View,
    threads: int,
    /,
) -> None: ...
def conv_fingerprint(weight: int, bytes: int, states: int, /) -> None: ...
def conv_contents_changed(
    contents: tuple[tuple[int, int, int], ...], threads: int, /
) -> list[int]: ...
def conv_factors(weight: View, group: int, factors: View, threads: int, /) -> None: ...

# conv_stack_bindings.cpp; a layer: see _described() in backends/cpu/conv_stack.py
def conv_stack(
    x: View,
    layers: tuple[Layer, ...],
    tail: Tail | None,
    kept: View | None,
    out: View,
    threads: int,
    /,
) -> None: ...
def conv_stack_gradient(
    grad: View,
    layers: tuple[Layer, ...],
    tail: Tail | None,
    kept: View,
    to_x: View,
    threads: int,
    /,
) -> None: ...

# conv_stack_change_bindings.cpp; a change: (box, pixels, result)
def changeable_stack(
    x: View,
    layers: tuple[Layer, ...],
    tail: Tail | None,
    whole_cells: bool,
    out: View,
    threads: int,
    /,
) -> object: ...
def changeable_stack_run(
    stack: object,
    changes: tuple[tuple[tuple[int, ...], View, View], ...],
    negligible: float,
    threads: int,
    /,
) -> None: ...
def changeable_stack_bytes(stack: object, /) -> int: ...

# attention_bindings.cpp; `states`: addresses of the cells before each step and after the last
def swin_layers(
    x: View, steps: tuple[Step, ...], states: tuple[int, ...], out: View, threads: int, /
) -> None: ...
def swin_layers_gradient(
    x: View,
    grad: View,
    steps: tuple[Step, ...],
    states: tuple[int, ...],
    out: View,
    threads: int,
    /,
) -> None: ...
