"""Runs a sequence of 3x3 convolutions as one native call, only on the pixels that are needed."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastbg.geometry import Box, Patch
from fastbg.models.conv import Conv3x3
from fastbg.models.network import Network, is_watched
from fastbg.models.upsampler import Upsampler
from fastbg.ops.conv_stack import (
    ChannelAttention,
    StackLayer,
    conv_stack,
    whole_cells,
    why_plain,
)


class Link(NamedTuple):
    """A convolution and what follows it; `residual` is the number of a map, see `StackLayer`."""

    conv: nn.Conv2d
    relu: bool = False
    upscale: int = 1
    residual: int | None = None
    residual_scale: float = 1.0
    attention: tuple[nn.Conv2d, nn.Conv2d] | None = None  # squeeze and excite

    def parameters(self) -> list[Tensor]:
        """The parameters of all its convolutions."""
        convs = (self.conv, *(self.attention or ()))
        return [p for conv in convs for p in (conv.weight, conv.bias) if p is not None]


def is_plain_conv(conv: nn.Module) -> bool:
    """Whether it is an ordinary 3x3 convolution without hooks that fastbg may compute."""
    return is_ordinary(conv) and bool(getattr(conv, "fused", True))


def is_ordinary(conv: nn.Module) -> bool:
    """Whether it is a 3x3 convolution as the networks make them, without hooks."""
    return (
        (type(conv) is Conv3x3 or type(conv) is nn.Conv2d)
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not is_watched(conv)
    )


def is_plain_1x1(conv: nn.Module) -> bool:
    """Whether it is an ordinary 1x1 convolution without hooks."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride == conv.dilation == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and not is_watched(conv)
    )


def tail_links(upsample: Upsampler, conv_last: nn.Conv2d) -> list[Link]:
    """The links of the upsampler, and the last convolution."""
    stages = enumerate(upsample.stages)
    links = [Link(cast(Conv3x3, upsample[2 * i]), upscale=stage.factor) for i, stage in stages]
    return [*links, Link(conv_last)]


def run_network(
    net: Network, links: Sequence[Link], x: Tensor, window: Box | None
) -> Tensor | None:
    """SR image, or its window, of `x` (B,3,h,w) in [0,1]; None where the modules must run.

    They must run if a convolution is not ordinary or has hooks, and in the cases that
    `fastbg.ops.conv_stack.why_plain` names: gradients to parameters, tracing, torch.func, forward
    mode, autocast, other devices, dtypes and backends.
    """
    attentions = [conv for link in links for conv in link.attention or ()]
    if not all(is_plain_conv(link.conv) for link in links):
        return None
    if not all(is_plain_1x1(conv) for conv in attentions):
        return None
    image = net.normalise(x)
    if window is None:
        window = Box(0, 0, *image.shape[-2:]).refine(net.scale)
    y = run_links(image, links, window, net.equal_windows)
    if y is None:
        return None
    if y.requires_grad:
        return net.denormalise(y)
    return y.div_(net.img_range).add_(net.mean)  # denormalise in place


def run_links(x: Tensor, links: Sequence[Link], window: Box, equal: bool) -> Tensor | None:
    """`window` (of the last link's map) of the links on `x`; None where PyTorch must compute it.

    Each link computes what the next one needs. If `equal`, links compute whole cells, so that the
    result equals that of the whole map bit for bit.
    """
    if _has_any_global_hook():
        return None
    parameters = [p for link in links for p in link.parameters()]
    if why_plain(x, parameters) is not None:
        return None
    height, width = x.shape[-2:]
    layers = link_layers(links, window, height, width, equal)
    y = conv_stack(x, layers, sure=True)
    return cut_window(y, layers, window)


def cut_window(y: Tensor, layers: Sequence[StackLayer], window: Box) -> Tensor:
    """`window`, cut from the layers' result, which may be larger."""
    computed = Box(*layers[-1].box or ()).refine(layers[-1].upscale)
    return y if computed == window else Patch(y, computed).cut(window).data


def link_layers(
    links: Sequence[Link], window: Box, height: int, width: int, equal: bool
) -> list[StackLayer]:
    """The links as layers, each with the box that it computes for `window`."""
    boxes = link_boxes(window, links, height, width, equal)
    return [
        StackLayer(
            link.conv.weight,
            link.conv.bias,
            link.relu,
            link.upscale,
            link.residual,
            link.residual_scale,
            box,
            None if link.attention is None else _attention(*link.attention),
        )
        for link, box in zip(links, boxes, strict=True)
    ]


def _attention(squeeze: nn.Conv2d, excite: nn.Conv2d) -> ChannelAttention:
    """The channel attention of two 1x1 convolutions; a missing bias counts as 0."""
    biases = [
        conv.weight.new_zeros(len(conv.weight)) if conv.bias is None else conv.bias
        for conv in (squeeze, excite)
    ]
    return ChannelAttention(squeeze.weight, biases[0], excite.weight, biases[1])


def link_boxes(
    window: Box, links: Sequence[Link | StackLayer], height: int, width: int, equal: bool
) -> list[Box]:
    """The box that each convolution must compute for `window`, in pixels of its input's map.

    If `equal`, boxes of whole cells of the stack's input, on which the up-sampling end is computed.
    """
    scale = 1
    for link in links:
        scale *= link.upscale
    boxes, needed = [], window
    for link in reversed(links):
        scale //= link.upscale
        box = needed.coarsen(link.upscale)
        if equal:
            box = whole_cells(box.coarsen(scale), height, width).refine(scale)
        boxes.append(box)
        whole = Box(0, 0, height * scale, width * scale)
        needed = whole if link.attention is not None else box.grow(1, whole.y1, whole.x1)
    return boxes[::-1]
