"""RCAN (Zhang et al., ECCV 2018): residual groups of blocks with channel attention."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from fastbg.geometry import Box, Patch
from fastbg.models.arguments import check_number, check_whole
from fastbg.models.conv import Conv3x3
from fastbg.models.conv_stack import Link, run_network, tail_links
from fastbg.models.network import DIV2K_MEAN, Network, has_hooks, is_watched
from fastbg.models.upsampler import Upsampler
from fastbg.models.window import Stage, check_window, required_boxes, whole_map
from fastbg.precision import in_network_precision


class ChannelBlock(nn.Module):
    """x + res_scale * y * attention(y), with y = conv 3x3 (ReLU (conv 3x3 (x)))."""

    def __init__(self, features: int, squeezed: int, res_scale: float, pooling: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(features, features)
        self.conv2 = Conv3x3(features, features)
        self.squeeze = nn.Conv2d(features, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, features, 1)
        self.res_scale, self.pooling = res_scale, pooling

    def residue(self, x: Tensor) -> Tensor:
        """y of the formula above."""
        y: Tensor = self.conv2(self.conv1(x, relu=True))
        return y

    def is_local(self, height: int, width: int) -> bool:
        """Whether the means on a (height, width) map are local, not over the whole map."""
        return 0 < self.pooling < max(height, width)

    def attention(self, y: Tensor) -> Tensor:
        """Weight of each channel: (B,C,1,1) from means over the whole map, else shaped as `y`."""
        height, width = y.shape[-2:]
        whole = not self.is_local(height, width)
        pooled = y.mean(dim=(2, 3), keepdim=True) if whole else window_means(y, self.pooling)
        weight = torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled))))
        if self.res_scale != 1.0:
            weight = weight * self.res_scale
        return weight if whole else own_window(weight, self.pooling, height, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.residue(x)
        return x + y * self.attention(y)


def window_means(y: Tensor, side: int) -> Tensor:
    """Mean of every side x side window that lies inside `y` (B,C,h,w): (B,C,h-side+1,w-side+1).

    An axis shorter than `side` is averaged whole.
    """
    height, width = y.shape[-2:]
    columns = avg_pool2d(y, (min(side, height), 1), stride=1)  # in turn: 2 side terms, not side^2
    return avg_pool2d(columns, (1, min(side, width)), stride=1)


def own_window(values: Tensor, side: int, height: int, width: int) -> Tensor:
    """Expand `values`, one for each window of `window_means`, to each position: (B,C,h,w).

    A position's window is the one around it, or the outermost one near the border. Made of slices
    rather than by indexing, whose gradient on GPUs is summed by atomics in random order.
    """
    for axis, size in ((2, height), (3, width)):
        missing = size - values.shape[axis]
        before = min(side // 2, missing)
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, values.shape[axis] - 1, 1)
        ends = (first, before), (last, missing - before)
        left, right = (
            v.expand([n if d == axis else s for d, s in enumerate(v.shape)]) for v, n in ends
        )
        values = torch.cat([left, values, right], axis)
    return values


class Group(nn.Module):
    """x + conv 3x3 (blocks(x))."""

    def __init__(
        self, features: int, blocks: int, squeezed: int, res_scale: float, pooling: int
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(ChannelBlock(features, squeezed, res_scale, pooling) for _ in range(blocks))
        )
        self.conv = Conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.blocks(x), residual=x)
        return y


class RCAN(Network):
    """RCAN; input and output RGB in [0,1], output not clamped.

    The published net has 10 groups of 20 blocks with 64 features, squeezed to 4.

    Its channel weights are computed from means over the whole map, though it is trained on patches.
    In images larger than a patch, these statistics differ from training, and every background pixel
    influences every output pixel. As a control, `pooling` N > 0 uses local means: the channels at
    position (y, x) of a block's map are weighted by the mean over the N x N window with first row
    y - N // 2 and first column x - N // 2, moved inwards at the border; an axis shorter than N is
    averaged as a whole. Images up to N x N pixels give the same result as without. With N = the
    side of the training patches (24 LR pixels for the built-in network, 48 as published) the
    statistics are those of the training. 0: the whole map.

    Frozen float32 networks run as one `fastbg.ops.conv_stack`, as EDSR does, if their means
    are over the whole map.
    """

    architecture = "rcan"

    def __init__(
        self,
        features: int = 64,
        groups: int = 10,
        blocks: int = 20,
        squeezed: int = 4,
        scale: int = 4,
        res_scale: float = 1.0,
        img_range: float = 255.0,
        mean: Sequence[float] = DIV2K_MEAN,
        pooling: int = 0,
    ) -> None:
        sizes = {"features": features, "groups": groups, "blocks": blocks, "squeezed": squeezed}
        for name, size in sizes.items():
            check_whole(name, size)
        check_number("res_scale", res_scale)
        check_whole("pooling", pooling, least=0)
        super().__init__(scale, img_range, mean, **sizes, res_scale=res_scale, pooling=pooling)
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(
            *(Group(features, blocks, squeezed, res_scale, pooling) for _ in range(groups))
        )
        self.conv_after_body = Conv3x3(features, features)
        self.upsample = Upsampler(features, scale)
        self.conv_last = Conv3x3(features, 3)

    def pool_over(self, size: int) -> None:
        """Compute channel weights from means over `size` x `size` LR pixels; 0: the whole map."""
        check_whole("pooling", size, least=0)
        for module in self.modules():
            if isinstance(module, ChannelBlock):
                module.pooling = size
        self.config["pooling"] = size

    def to_image(self, features: Tensor) -> Tensor:
        """SR image in [0,1] of the upsampled features."""
        return self.denormalise(self.conv_last(features))

    @in_network_precision
    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w)."""
        fast = self.run_native(x)
        if fast is not None:
            return fast
        x = self.conv_first(self.normalise(x))
        x = self.conv_after_body(self.body(x), residual=x)
        return self.to_image(self.upsample(x))

    @in_network_precision
    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to `window` (y0, x0, y1, x1) in SR pixels, computing less. Exact.

        The channel weights of every block need the whole map, so only what follows the last of
        them is trimmed: the last block's product, the last group's convolution, `conv_after_body`
        and the upsampler, in small nets a third of the work. (With local means the reach is N / 2
        times the number of blocks, so that more trimming would pay only on very large images.)
        """
        height, width = x.shape[-2:]
        box = check_window(window, height * self.scale, width * self.scale)
        group = cast(Group, self.body[-1])
        block = cast(ChannelBlock, group.blocks[-1])
        # What is not called below, or without its residual. Blocks that are recomputed in backward
        # have another `forward`.
        uncalled = self, self.body, group.blocks, self.upsample
        convs = group.conv, self.conv_after_body
        if (
            any(map(is_watched, (*uncalled, *convs)))
            or any(map(has_hooks, (group, block)))
            or any(type(conv) is not Conv3x3 for conv in convs)
        ):
            return super().forward_window(x, box)
        fast = self.run_native(x, box)
        if fast is not None:
            return fast
        stages = [Stage(1), Stage(1), *self.upsample.stages, Stage(1)]
        in_group, in_body, *ahead = required_boxes(box, stages, height, width)

        first = self.conv_first(self.normalise(x))
        entry = self.body[:-1](first)
        before = group.blocks[:-1](entry)
        y = block.residue(before)
        weight = block.attention(y).expand_as(y)

        def cut(whole: Tensor, like: Patch) -> Tensor:
            return whole_map(whole).cut(like.box).data

        deep = whole_map(y).cut(in_group)
        deep = Patch(cut(before, deep) + deep.data * cut(weight, deep), in_group).run(group.conv)
        deep = deep.cut(in_body)
        deep = Patch(cut(entry, deep) + deep.data, in_body).run(self.conv_after_body)
        deep = deep.cut(ahead[0])
        deep = Patch(cut(first, deep) + deep.data, ahead[0])
        up = self.upsample.run_window(deep, ahead[:-1])
        return up.cut(ahead[-1]).run(self.to_image).cut(box).data

    def run_native(self, x: Tensor, window: Box | None = None) -> Tensor | None:
        """`forward(x)`, or its window, in one native call; None where the modules must run.

        They must run if a part was replaced or has hooks, if means are local, and in the cases
        that `run_network` names.
        """
        if torch.compiler.is_compiling() or x.dim() != 4 or not self.native:
            return None
        if not self.has_its_parts() or self.is_local(*x.shape[-2:]):
            return None
        return run_network(self, self.links(), x, window)

    def is_local(self, height: int, width: int) -> bool:
        """Whether the means of a block on a (height, width) map are local."""
        return any(m.is_local(height, width) for m in self.modules() if isinstance(m, ChannelBlock))

    def has_its_parts(self) -> bool:
        """Whether the modules around the convolutions are those of `__init__`, without hooks."""
        if type(self) is not RCAN or type(self.upsample) is not Upsampler:
            return False
        if any(type(group) is not Group for group in self.body):
            return False
        chains = [self.body, *(cast(Group, group).blocks for group in self.body)]
        blocks = [block for chain in chains[1:] for block in chain]
        return (
            all(type(chain) is nn.Sequential for chain in chains)
            and all(type(block) is ChannelBlock for block in blocks)
            and not any(is_watched(part) for part in (*chains, *self.body, *blocks, self.upsample))
        )

    def links(self) -> list[Link]:
        """The network's convolutions in turn; map 0 is the normalised image."""
        links = [Link(self.conv_first)]
        for group in cast(list[Group], [*self.body]):
            of_group = len(links)
            for block in cast(list[ChannelBlock], [*group.blocks]):
                entry, attention = len(links), (block.squeeze, block.excite)
                links.append(Link(block.conv1, relu=True))
                links.append(Link(block.conv2, False, 1, entry, block.res_scale, attention))
            links.append(Link(group.conv, residual=of_group))
        links.append(Link(self.conv_after_body, residual=1))
        return links + tail_links(self.upsample, self.conv_last)
