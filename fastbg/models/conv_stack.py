"""Networks of 3x3 convolutions as one native call: which convolutions, and which pixels of each."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastbg.geometry import Box, Patch
from fastbg.models.conv import Conv3x3
from fastbg.models.network import is_watched
from fastbg.ops.conv_stack import StackLayer, conv_stack, whole_cells, why_plain


class Link(NamedTuple):
    """A convolution and what follows it; `residual` is a map's number, see `StackLayer`."""

    conv: nn.Conv2d
    relu: bool = False
    upscale: int = 1
    residual: int | None = None
    residual_scale: float = 1.0


def is_plain_conv(conv: nn.Module) -> bool:
    """Whether it is an ordinary 3x3 convolution that nobody observes, and fastbg's to compute."""
    return (
        ((type(conv) is Conv3x3 and conv.fused) or type(conv) is nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not is_watched(conv)
    )


def run_links(x: Tensor, links: Sequence[Link], window: Box, equal: bool) -> Tensor | None:
    """`window` (of the last link's map) of the links on `x`, or None where PyTorch must do it.

    Each computes what the next needs; whole cells if `equal`, so that the bits are those of the
    whole map.
    """
    if _has_any_global_hook():
        return None
    parameters = [p for link in links for p in (link.conv.weight, link.conv.bias) if p is not None]
    if why_plain(x, parameters) is not None:
        return None
    height, width = x.shape[-2:]
    layers = link_layers(links, window, height, width, equal)
    y = conv_stack(x, layers, sure=True)
    return cut_window(y, layers, window)


def cut_window(y: Tensor, layers: Sequence[StackLayer], window: Box) -> Tensor:
    """`window` of what the layers have computed, which may be more."""
    computed = Box(*layers[-1].box or ()).refine(layers[-1].upscale)
    return y if computed == window else Patch(y, computed).cut(window).data


def link_layers(
    links: Sequence[Link], window: Box, height: int, width: int, equal: bool
) -> list[StackLayer]:
    """The links, each with what it computes for `window`, on a (height, width) input."""
    boxes = link_boxes(window, [link.upscale for link in links], height, width, equal)
    return [
        StackLayer(
            link.conv.weight,
            link.conv.bias,
            link.relu,
            link.upscale,
            link.residual,
            link.residual_scale,
            box,
        )
        for link, box in zip(links, boxes, strict=True)
    ]


def link_boxes(
    window: Box, factors: Sequence[int], height: int, width: int, equal: bool
) -> list[Box]:
    """What each convolution computes, in pixels of its input's map, so that `window` comes out."""
    scale = 1
    for factor in factors:
        scale *= factor
    boxes, needed = [], window
    for factor in reversed(factors):
        scale //= factor
        box = needed.coarsen(factor)
        if equal:
            box = whole_cells(box, height * scale, width * scale)
        boxes.append(box)
        needed = box.grow(1, height * scale, width * scale)
    return boxes[::-1]
