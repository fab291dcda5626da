"""Stacks of convolutions on images of which a box changes (csrc/cpu/conv_stack_change.cpp)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.cpu.conv_stack import describe
from fastbg.backends.stack_layers import result_shape
from fastbg.backends.tensor_view import view


class ChangeableStack:
    """The maps of one image, and what changes of it make of the last one.

    Attributes:
        result: (1,Co,h,w), the last layer's box of the unchanged image.
    """

    def __init__(
        self,
        x: Tensor,
        parameters: Sequence[Tensor],
        layers: Sequence[int],
        scales: Sequence[float],
        whole_cells: bool,
    ) -> None:
        """`x` (1,C,H,W) float32; the others as `conv_stack` takes them."""
        self.result = torch.empty(result_shape(x, parameters, layers))
        # The kernel goes on to read what it is given here, so this keeps all of it.
        described, self._owners = describe(parameters, layers, scales)
        self._stack = native().changeable_stack(
            view(x), described, whole_cells, view(self.result), torch.get_num_threads()
        )
        self._unchanged = self.result.clone()  # who reads `result` may write to it

    def run(self, changes: Sequence[tuple[Sequence[int], Tensor]]) -> list[Tensor]:
        """(K,Co,h,w) for each box, and what K images have there (K,C,height,width)."""
        results = [self._unchanged.repeat(len(pixels), 1, 1, 1) for _, pixels in changes]
        told = tuple(
            (tuple(box), view(pixels), view(result))
            for (box, pixels), result in zip(changes, results, strict=True)
            if len(pixels)
        )
        native().changeable_stack_run(self._stack, told, torch.get_num_threads())
        return results

    @property
    def nbytes(self) -> int:
        """Memory of the kept maps."""
        return int(native().changeable_stack_bytes(self._stack))
