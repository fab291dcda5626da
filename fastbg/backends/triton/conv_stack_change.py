"""Stacks of convolutions for changes of one image with Triton kernels: two launches a layer."""

from functools import cached_property

import torch
from torch import Tensor

from fastbg.backends.change_batches import BatchedStack, Wanted
from fastbg.backends.conv_arguments import empty_maps
from fastbg.backends.triton.conv import pack, run
from fastbg.kernels.conv import Filter, Packed
from fastbg.kernels.conv_change import Assembled, plan_assemble
from fastbg.kernels.conv_ending import Ending, Placed


class ChangeableStack(BatchedStack):
    """The maps of one image, and the last map for changes of it."""

    @cached_property
    def _packed(self) -> list[Packed]:
        """The weights, packed at the first layer, in the stack's precision."""
        layers = zip(self.weights, self.rows, strict=True)
        return pack([Filter(weight, row.upscale, False) for weight, row in layers])

    @cached_property
    def _offsets(self) -> list[Tensor]:
        """The biases, contiguous, as the kernel reads them."""
        return [bias.contiguous() for bias in self.biases]

    def assembled(self, first: Wanted, second: Wanted | None) -> tuple[Tensor, Tensor | None]:
        """Both parts (N,C,h,w), channels_last, in one launch."""
        a = _empty(first)
        b = None if second is None else _empty(second)
        with torch.cuda.device_of(a.out):
            plan_assemble(a, b).run()
        return a.out, None if b is None else b.out

    def convolved(self, i: int, before: Tensor, residual: Tensor | None) -> Tensor:
        """Layer i on (N,C,h+2,w+2), in one launch."""
        row, packed = self.rows[i], self._packed[i]
        down, across = ((side - 2) * row.upscale for side in before.shape[2:])
        out = empty_maps(before, len(before), packed.filter.outputs, down, across)
        end = Ending(self._offsets[i], bool(row.relu))
        if residual is not None:
            end = Ending(self._offsets[i], scale=self.scales[i], residual=Placed(residual))
        return run(Placed(before, 1, 1), packed, end, out, any_size=True)


def _empty(wanted: Wanted) -> Assembled:
    own, (kept, box) = wanted.own, wanted.kept
    out = empty_maps(own.data, len(own.data), own.data.shape[1], wanted.height, wanted.width)
    return Assembled(own.data, own.corners, kept, box.y0, box.x0, wanted.corners, out)
