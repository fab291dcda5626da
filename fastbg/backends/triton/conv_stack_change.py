"""Stacks of convolutions for changes of one image with Triton kernels: two launches a layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.backends.change_batches import BatchedStack, Wanted
from fastbg.backends.conv_arguments import empty_maps
from fastbg.backends.stack_layers import parted, split
from fastbg.backends.triton.conv import pack, run
from fastbg.kernels.conv import Ending, Filter, Placed
from fastbg.kernels.conv_change import Assembled, plan_assemble


class ChangeableStack(BatchedStack):
    """The maps of one image, and the last map for changes of it."""

    def __init__(
        self,
        x: Tensor,
        parameters: Sequence[Tensor],
        layers: Sequence[int],
        scales: Sequence[float],
    ) -> None:
        rows = split(layers)
        weights, biases, _ = parted(parameters, len(rows))
        self._packed = pack(
            [Filter(w, r.upscale, False) for w, r in zip(weights, rows, strict=True)]
        )
        self._in_order = [bias.contiguous() for bias in biases]
        super().__init__(x, parameters, layers, scales)

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
        end = Ending(self._in_order[i], bool(row.relu))
        if residual is not None:
            end = Ending(self._in_order[i], scale=self.scales[i], residual=Placed(residual))
        return run(Placed(before, 1, 1), packed, end, out, any_size=True)


def _empty(wanted: Wanted) -> Assembled:
    own, (kept, box) = wanted.own, wanted.kept
    out = empty_maps(own.data, len(own.data), own.data.shape[1], wanted.height, wanted.width)
    return Assembled(own.data, own.corners, kept, box.y0, box.x0, wanted.corners, out)
