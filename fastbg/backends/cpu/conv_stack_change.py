"""Stacks of convolutions for changes of one image (csrc/cpu/conv_stack_change.cpp)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.backends.cpu import floats, native
from fastbg.backends.cpu.conv_stack import described
from fastbg.backends.stack_layers import result_shape
from fastbg.backends.tensor_view import view


class ChangeableStack:
    """The maps of one image, and the last map for changes of it.

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
        """`x` (1,C,H,W) float32; other arguments as for `conv_stack`."""
        self.result = floats(*result_shape(x, parameters, layers))
        # The kernel keeps pointers to all of this.
        stack, self._owners = described(x, parameters, layers, scales, False)
        self._stack = native().changeable_stack(
            view(x), *stack, whole_cells, view(self.result), torch.get_num_threads()
        )
        self._unchanged = self.result.clone()  # callers may write to `result`

    def run(
        self, changes: Sequence[tuple[Sequence[int], Tensor]], negligible: float
    ) -> list[Tensor]:
        """Results (K,Co,h,w) for each (box, its new pixels in K images (K,C,height,width))."""
        results = [self._unchanged.repeat(len(pixels), 1, 1, 1) for _, pixels in changes]
        told = tuple(
            (tuple(box), view(pixels), view(result))
            for (box, pixels), result in zip(changes, results, strict=True)
            if len(pixels)
        )
        native().changeable_stack_run(self._stack, told, negligible, torch.get_num_threads())
        return results

    @property
    def nbytes(self) -> int:
        """Memory of the kept maps."""
        return int(native().changeable_stack_bytes(self._stack))
