"""SwinIR (Liang et al., ICCVW 2021): self-attention in windows, shifted in every second block.

Feature maps are (B,C,h,w) for convolutions and, as a view, (B,h,w,C) for the transformer. `forward`
is `forward_window` for the whole image.

The modules define the network; training, tracing, forward mode and torch.func use them. Frozen
float32 networks run the blocks of a layer in one native call instead, see `run_native`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.functional import gelu, leaky_relu, pad, scaled_dot_product_attention
from torch.nn.modules.module import _has_any_global_hook

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box, Patch
from fastbg.models.arguments import check_number, check_whole, check_wholes
from fastbg.models.changeable import Changeable
from fastbg.models.conv import Conv3x3
from fastbg.models.conv_stack import is_plain_conv, run_links, tail_links
from fastbg.models.network import (
    DIV2K_MEAN,
    Network,
    is_watched,
    must_be_called,
    pad_to_multiple,
    unreflected,
)
from fastbg.models.swinir_change import ChangeableSwinIR
from fastbg.models.upsampler import Upsampler
from fastbg.models.window import (
    Stage,
    added,
    check_window,
    on_pixels,
    required_boxes,
    whole_map,
)
from fastbg.ops.attention import Step, mlp_box, swin_layers, why_plain
from fastbg.precision import autocast_dtype, in_network_precision, in_precision
from fastbg.registration.operator import has_tangent

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect")


class Axis(NamedTuple):
    """How the rows (or columns) of a patch are arranged into whole attention windows.

    A shifted window at the border of the map wraps around and contains pixels of two regions, which
    are masked from each other. If the patch covers the whole axis, `roll` brings both borders into
    one window, as in the original code. If it touches one border only, that window is filled up
    with pixels `before` or `after`, which are masked as those of the opposite border would be.
    """

    length: int
    roll: int = 0
    before: int = 0
    after: int = 0

    @classmethod
    def of(cls, start: int, stop: int, size: int, window: int, shift: int) -> "Axis":
        """For rows start..stop, made of whole windows, of a map with `size` rows."""
        if shift == 0:
            return cls(stop - start)
        if start == 0 and stop == size:
            return cls(size, roll=shift)
        before = window - shift if start == 0 else 0
        after = shift if stop == size else 0
        return cls(stop - start + before + after, before=before, after=after)

    def region(self, device: torch.device) -> Tensor:
        """0 or 1 for each row: rows of one window see each other where these agree."""
        row = torch.arange(self.length, device=device)
        return (row < self.before) | (row >= self.length - self.after - self.roll)


class Layout(NamedTuple):
    """Both axes of a patch."""

    rows: Axis
    columns: Axis

    def apply(self, x: Tensor) -> Tensor:
        """`x` (B,h,w,C) filled up and rolled to whole windows."""
        rows, columns = self
        if rows.before or rows.after or columns.before or columns.after:
            x = pad(x, (0, 0, columns.before, columns.after, rows.before, rows.after))
        if rows.roll or columns.roll:
            x = x.roll((-rows.roll, -columns.roll), (1, 2))
        return x

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of `apply`."""
        rows, columns = self
        if rows.roll or columns.roll:
            x = x.roll((rows.roll, columns.roll), (1, 2))
        return x[
            :,
            rows.before : rows.length - rows.after,
            columns.before : columns.length - columns.after,
        ]

    def mask(self, window: int, like: Tensor) -> Tensor | None:
        """Added to the logits (number of windows, 1, window^2, window^2); None: nothing.

        The original adds -100, with which denormal numbers pass; here nothing does.
        """
        if not any(axis.roll or axis.before or axis.after for axis in self):
            return None
        rows, columns = (axis.region(like.device).long() for axis in self)
        region = (2 * rows[:, None] + columns).view(1, len(rows), len(columns), 1)
        region = to_windows(region, window).squeeze(-1)
        apart = region[:, None, :, None] != region[:, None, None, :]
        return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(
            apart, float("-inf")
        )


Masks = dict[Layout, Tensor | None]


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B,h,w,C) to (B * number of windows, window^2, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window**2, c)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learned bias per relative position."""

    position: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

        # With NumPy: on the meta device, tensors' sums would load PyTorch's compiler (1 s).
        place = np.arange(window)
        offset = place[:, None] - place + window - 1  # row (or column) i relative to j
        rows, columns = offset[:, None, :, None], offset[None, :, None, :]
        position = (rows * (2 * window - 1) + columns).reshape(-1)
        self.register_buffer("position", torch.tensor(position), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (N,n,C), n = window^2, to the same; `mask` as Layout.mask() gives it."""
        count, n, c = x.shape
        # Windows with different masks become heads, so that all images share one set of masks.
        # Masks repeated for every image would be larger than the features.
        windows = 1 if mask is None else len(mask)
        qkv = self.qkv(x).view(count // windows, windows, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # (B, windows heads, n, C / heads)
        bias = self.bias_table[self.position].view(n, n, -1).permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask).flatten(0, 1)[None]
        if bias.requires_grad or has_tangent(q, bias) or _derived_again(q):
            # What the fused kernel cannot derive.
            logits = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1) + bias
            y = logits.softmax(dim=-1) @ v
        else:
            y = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.unflatten(1, (windows, self.heads)).transpose(2, 3)
        out: Tensor = self.proj(y.reshape(count, n, c))
        return out


def _derived_again(q: Tensor) -> bool:
    """Whether second derivatives may be asked for; compiled graphs have none."""
    if torch.compiler.is_compiling():
        return False
    return (q.requires_grad and q.device.type == "cpu") or is_functorch_wrapped_tensor(q)


class Block(nn.Module):
    """Window attention, then an MLP on each pixel, each as x + layer(LayerNorm(x)).

    `fused` False runs PyTorch's own functions everywhere.
    """

    fused = True

    def __init__(self, width: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.window, self.shift = window, shift

    def attend(self, x: Tensor, layout: Layout, mask: Tensor | None) -> Tensor:
        """x + attention, for `x` (B,h,w,C)."""
        y = layout.apply(self.norm1(x))
        y = self.attn(to_windows(y, self.window), mask)
        y = from_windows(y, self.window, layout.rows.length, layout.columns.length)
        return x + layout.undo(y)

    def mix(self, x: Tensor) -> Tensor:
        """x + MLP, for `x` (B,h,w,C)."""
        y: Tensor = self.fc2(gelu(self.fc1(self.norm2(x))))
        return x + y

    def forward(self, x: Patch, ahead: Box, height: int, width: int, masks: Masks) -> Patch:
        """The block on whole windows `x` of a (height, width) map, cut to the box `ahead`."""
        fast = run_native([self], x, [(x.box, ahead)], height, width)
        if fast is not None:
            return fast
        layout = Layout(
            Axis.of(x.box.y0, x.box.y1, height, self.window, self.shift),
            Axis.of(x.box.x0, x.box.x1, width, self.window, self.shift),
        )
        if layout not in masks:
            masks[layout] = layout.mask(self.window, x.data)
        y = on_pixels(x.data, lambda t: self.attend(t, layout, masks[layout]))
        y = Patch(y, x.box).cut(ahead).data
        return Patch(on_pixels(y, self.mix), ahead)

    def is_itself(self) -> bool:
        """Whether its parts are those that __init__ made, without hooks."""
        attn, norms = self.attn, (self.norm1, self.norm2)
        linear = attn.qkv, attn.proj, self.fc1, self.fc2
        return (
            self.fused
            and type(attn) is WindowAttention
            and all(type(part) is nn.Linear for part in linear)
            and all(type(part) is nn.LayerNorm for part in norms)
            and all(part.bias is not None for part in (*linear, *norms))
            and norms[0].eps == norms[1].eps
            and not any(map(is_watched, (attn, *linear, *norms)))
        )

    def step_parameters(self) -> list[Tensor]:
        """As fastbg.ops.attention.swin_layers takes them, for both of its steps."""
        attn, layers = self.attn, (self.norm2, self.fc1, self.fc2)
        first = self.norm1, attn.qkv
        return [
            *(p for part in first for p in (part.weight, part.bias)),
            *(attn.bias_table, attn.proj.weight, attn.proj.bias),
            *(p for part in layers for p in (part.weight, part.bias)),
        ]


Hops = Sequence[tuple[Box, Box]]


def run_native(
    blocks: Sequence[Block], x: Patch, hops: Hops, height: int, width: int
) -> Patch | None:
    """`blocks` one after the other in one native call; None where the modules must do it.

    They must where a block `is_itself` no longer, under autocast, and for what `why_plain` names:
    gradients to parameters, tracing, torch.func, forward mode, devices without a kernel, other
    dtypes, windows that are too large or not made of whole cells. A gradient that is to be derived
    again is PyTorch's own.
    """
    if torch.is_autocast_enabled(x.data.device.type) or _has_any_global_hook():
        return None
    eps = blocks[0].norm1.eps
    if not all(block.is_itself() and block.norm1.eps == eps for block in blocks):
        return None
    steps, parameters = [], []
    for block, (here, ahead) in zip(blocks, hops, strict=True):
        steps.append(Step(block.attn.heads, block.window, block.shift, *here))
        steps.append(Step(0, 0, 0, *mlp_box(steps[-1], ahead, height, width)))
        parameters += block.step_parameters()
    data = x.cut(hops[0][0]).data
    if why_plain(data, parameters, steps) is not None:
        return None
    y = swin_layers(data, parameters, steps, height, width, eps, sure=True)
    return Patch(y, Box(*steps[-1].box)).cut(hops[-1][1])


class Layer(nn.Module):
    """x + conv 3x3 (blocks(x)); every second block is shifted by half a window."""

    def __init__(self, width: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        shifts = [0 if i % 2 == 0 else window // 2 for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, window, s, mlp_ratio) for s in shifts)
        self.conv = Conv3x3(width, width)
        self.stages = [*(Stage(0, window=window, shift=s) for s in shifts), Stage(1)]

    def transform(self, x: Patch, hops: Hops, height: int, width: int, masks: Masks) -> Patch:
        """The blocks on a (height, width) map; each hop is what a block needs and what it gives."""
        blocks = cast(list[Block], [*self.blocks])
        if not any(is_watched(block) for block in blocks):
            fast = run_native(blocks, x, hops, height, width)
            if fast is not None:
                return fast
        for block, (here, ahead) in zip(blocks, hops, strict=True):
            x = block(x.cut(here), ahead, height, width, masks)
        return x


class SwinIR(Network):
    """SwinIR; input and output RGB in [0,1], output not clamped, any image size.

    Classical: width 180, depths and heads 6 x 6, `pixelshuffle`. Lightweight: width 60, 4 x 6,
    `pixelshuffledirect`. Without DropPath, which only training has.
    """

    architecture = "swinir"

    def __init__(
        self,
        width: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6),
        window: int = 8,
        mlp_ratio: float = 2.0,
        upsampler: str = "pixelshuffledirect",
        features: int = 64,
        scale: int = 4,
        img_range: float = 1.0,
        mean: Sequence[float] = DIV2K_MEAN,
    ) -> None:
        for name, size in {"width": width, "window": window, "features": features}.items():
            check_whole(name, size)
        check_number("mlp_ratio", mlp_ratio, least=1 / width)
        depths, heads = check_wholes("depths", depths), check_wholes("heads", heads)
        if len(heads) != len(depths) or any(width % n for n in heads):
            expected = f"for each of depths {depths} a divisor of width {width}"
            raise InvalidArgument("heads", heads, expected)
        super().__init__(
            scale,
            img_range,
            mean,
            width=width,
            depths=depths,
            heads=heads,
            window=window,
            mlp_ratio=mlp_ratio,
            upsampler=upsampler,
            features=features,
        )
        if upsampler not in UPSAMPLERS:
            raise InvalidArgument("upsampler", repr(upsampler), f"one of {UPSAMPLERS}")
        self.window = self.crop_multiple = window
        self.conv_first = Conv3x3(3, width)
        self.norm_first = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Layer(width, depth, n, window, mlp_ratio)
            for depth, n in zip(depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = Conv3x3(width, width)
        if upsampler == "pixelshuffle":
            self.conv_before_upsample = Conv3x3(width, features)
            self.upsample: nn.Module = Upsampler(features, scale)
            self.conv_last = Conv3x3(features, 3)
        else:
            self.upsample = nn.Sequential(Conv3x3(width, 3 * scale**2), nn.PixelShuffle(scale))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def shallow(self, x: Tensor) -> Tensor:
        """First features of an image in [0,1]."""
        features: Tensor = self.conv_first(self.normalise(x))
        return features

    def tail(self) -> list[tuple[Stage, Callable[[Tensor], Tensor]]]:
        """The stages after the last residual sum, which compute the SR image."""
        if not isinstance(self.upsample, Upsampler):
            return [(Stage(1, self.scale), self.upsample)]
        steps = [partial(self.upsample.step, i) for i in range(len(self.upsample.stages))]
        return [
            (Stage(1), lambda x: leaky_relu(self.conv_before_upsample(x))),
            *zip(self.upsample.stages, steps, strict=True),
            (Stage(1), self.conv_last),
        ]

    def stages(self) -> list[Stage]:
        """Whole attention windows, shifted in every second block, between convolutions."""
        layers = cast(list[Layer], [*self.layers])
        blocks = (stage for layer in layers for stage in layer.stages)
        return [Stage(1), *blocks, Stage(1), *(stage for stage, _ in self.tail())]

    def reach(self, window: Sequence[int], height: int, width: int) -> Box:
        """LR pixels that `window` may depend on, with those that padding to windows reflects."""
        check_window(window, height * self.scale, width * self.scale)
        padded = (-(-side // self.window) * self.window for side in (height, width))
        y0, x0, y1, x1 = required_boxes(Box(*window), self.stages(), *padded)[0]
        y0, y1 = unreflected(y0, y1, height)
        x0, x1 = unreflected(x0, x1, width)
        return Box(y0, x0, y1, x1)

    @in_network_precision
    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w)."""
        height, width = x.shape[-2:]
        return self._compute(x, Box(0, 0, height * self.scale, width * self.scale))

    @in_network_precision
    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to `window` (y0, x0, y1, x1) in SR pixels, computing less.

        A block needs the whole attention windows that its output lies in, a convolution one pixel
        more on each side. Going backwards the region grows by 4 pixels per block on average: the
        last blocks are trimmed most, and the first ones may run on all of a small image. Each MLP
        runs only on what the next block needs. Output and gradients are exact: attention windows
        that wrap around the border are masked as in the whole image.
        """
        box = check_window(window, x.shape[-2] * self.scale, x.shape[-1] * self.scale)
        if is_watched(self):  # it is to be called
            return super().forward_window(x, box)
        return self._compute(x, box)

    @in_precision
    def keep_window(self, x: Tensor, window: Sequence[int]) -> Changeable | None:
        """See `Network.keep_window`; None off CPUs, in bfloat16, and where modules are watched."""
        box = check_window(window, *(self.scale * side for side in x.shape[-2:]))
        called = must_be_called(self) or any(map(is_watched, self.modules()))
        own = type(self) is SwinIR and self.native
        if called or not own or torch.compiler.is_compiling():
            return None
        if x.device.type != "cpu" or autocast_dtype(x.dtype) is not None:
            return None
        return ChangeableSwinIR(self, x, box)

    def _compute(self, x: Tensor, box: Box) -> Tensor:
        """The SR pixels of `box`."""
        x = pad_to_multiple(x, self.window)
        height, width = x.shape[-2:]
        layers, tail = cast(list[Layer], [*self.layers]), self.tail()
        boxes = required_boxes(box, self.stages(), height, width)
        hops = pairwise(boxes)  # the box that a stage needs, and the next stage's
        masks: Masks = {}

        here, ahead = next(hops)
        first = whole_map(x).cut(here).run(self.shallow)
        deep = first.cut(ahead).run(partial(on_pixels, layer=self.norm_first))
        for layer in layers:
            entry = deep
            deep = layer.transform(
                deep, list(islice(hops, len(layer.blocks))), height, width, masks
            )
            deep = added(entry, layer.conv, deep).cut(next(hops)[1])
        deep = deep.run(partial(on_pixels, layer=self.norm))
        deep = added(first, self.conv_after_body, deep).cut(next(hops)[1])
        for i, ((stage, step), here) in enumerate(zip(tail, boxes[-len(tail) :], strict=True)):
            deep = deep.cut(here)
            fast = self.upsample_natively(deep, box) if i == 1 else None
            if fast is not None:
                return self.denormalise(fast)
            deep = deep.run(step, stage.factor)
        return self.denormalise(deep.cut(box).data)

    def upsample_natively(self, deep: Patch, box: Box) -> Tensor | None:
        """The layers after `conv_before_upsample`, cut to `box`, in one native call; None if the
        modules must run, see `fastbg.models.conv_stack.run_links`."""
        if not self.native or type(self.upsample) is not Upsampler or is_watched(self.upsample):
            return None
        links = tail_links(self.upsample, self.conv_last)
        if torch.compiler.is_compiling() or not all(is_plain_conv(link.conv) for link in links):
            return None
        y0, x0 = self.scale * deep.box.y0, self.scale * deep.box.x0
        window = Box(box.y0 - y0, box.x0 - x0, box.y1 - y0, box.x1 - x0)
        return run_links(deep.data, links, window, False)
