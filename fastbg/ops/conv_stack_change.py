"""Stacks of 3x3 convolutions on one image in which boxes are changed many times."""

from collections.abc import Sequence
from itertools import chain
from operator import index

import torch
from torch import Tensor

from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.ops import frozen
from fastbg.ops.checks import check_images
from fastbg.ops.conv_stack import StackLayer, _checked, why_plain
from fastbg.registration.conv_stack import Layer
from fastbg.registration.conv_stack_change import changeable_stack
from fastbg.registration.dispatch import Place, select

Change = tuple[Sequence[int], Tensor]


class ChangeableStack:
    """`conv_stack` of an image with its maps kept, so that changes of it are computed quickly.

    Each layer computes the pixels of its box that the change can reach, and takes all others from
    the kept maps. Results equal those of `conv_stack` on the changed image up to rounding. With
    `whole_cells`, and boxes made of whole cells, they equal those of a ChangeableStack of the
    changed image bit for bit.

    Only for frozen parameters, which must not change meanwhile. On GPUs and without the native
    module, changes are computed in batches: each layer in two launches, whatever their number, in
    the precision of `fastbg.use_precision` when it was made.

    Attributes:
        result: (1,C,h,w), the last layer's result for the unchanged image.
        nbytes: memory of the kept maps.
        backend: "cpu", "torch" or "triton", which computes.
    """

    def __init__(
        self,
        x: Tensor,
        layers: Sequence[StackLayer],
        *,
        whole_cells: bool = False,
        backend: str = "auto",
    ) -> None:
        """`x` (1,C,H,W) float32, or float64 for the torch backend; others as for `conv_stack`.

        Raises InvalidArgument as it does, and BackendUnavailable where the backend cannot run, or
        not on these arguments: only the cpu backend has `whole_cells`.
        """
        check_images("x", x)
        if len(x) != 1 or 0 in x.shape:
            raise InvalidArgument("x", f"shape {tuple(x.shape)}", "one image (1, C, H, W)")
        rows, parameters = _checked(x, layers)
        if len(parameters) != 2 * len(layers):  # a layer has more than a weight and a bias
            raise InvalidArgument("layers", "a layer with channel attention", "convolutions only")
        with torch.no_grad():
            # Kernels read memory, which in a negated view holds other numbers.
            x, parameters = x.resolve_neg(), [p.resolve_neg() for p in parameters]
            reason = frozen.why_layers(x, parameters)
            if reason is None:
                self.backend = select("ChangeableStack", Place(x.device, x.dtype), backend)
                reason = _why_not(self.backend, x, parameters, rows, whole_cells)
            if reason is not None:
                raise BackendUnavailable(f"no changeable stack: {reason}")
            scales = [float(layer.residual_scale) for layer in layers]
            numbers = list(chain.from_iterable(rows))
            self._stack = changeable_stack(
                x, parameters, numbers, scales, whole_cells, self.backend
            )
        self._input = x
        self.result: Tensor = self._stack.result

    @property
    def nbytes(self) -> int:
        """Memory of the kept maps, in bytes."""
        size: int = self._stack.nbytes
        return size

    @torch.no_grad()
    def run(self, changes: Sequence[Change], negligible: float = 0.0) -> list[Tensor]:
        """For each change the results (K,Co,h,w) of K changed images.

        Args:
            changes: a box y0, x0, y1, x1 of the input, and new pixels (K,C,y1-y0,x1-x0) for it.
                Pass many together: weights are fetched once for several of them.
            negligible: after each layer, pixels at both ends of each row of what was
                computed for an image in which no value differs by more than this share of the
                map's largest value are taken from the kept map, and later layers compute less;
                1e-6 is about the rounding of a convolution. 0: nothing is dropped, and nothing
                with `whole_cells` and on other backends than "cpu": what is dropped depends on
                values, for which the host would have to wait.

        Raises InvalidArgument for a box that is empty or leaves the input, and other pixels.
        """
        _, channels, height, width = self._input.shape
        told: list[tuple[Box, Tensor]] = []
        for asked, pixels in changes:
            y0, x0, y1, x1 = box = _integers(asked)
            if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
                expected = f"a box, not empty, inside {height}x{width}"
                raise InvalidArgument("changes", tuple(box), expected)
            check_images("changes", pixels, (self._input.dtype,))
            shape, device = (channels, y1 - y0, x1 - x0), self._input.device
            if pixels.shape[1:] != shape or pixels.device != device:
                expected = f"pixels (K, {', '.join(map(str, shape))}) on {device}"
                raise InvalidArgument(
                    "changes", f"{tuple(pixels.shape)} on {pixels.device}", expected
                )
            told.append((box, pixels.resolve_neg()))
        results: list[Tensor] = self._stack.run(told, negligible)
        return results


def _integers(box: Sequence[int]) -> Box:
    """`box`, whose numbers are not cut off to whole ones but refused."""
    try:
        y0, x0, y1, x1 = map(index, box)
    except (TypeError, ValueError) as error:
        raise InvalidArgument("changes", repr(box), "a box of four integers") from error
    return Box(y0, x0, y1, x1)


def _why_not(
    backend: str, x: Tensor, parameters: Sequence[Tensor], rows: Sequence[Layer], whole_cells: bool
) -> str | None:
    """Why `backend` cannot keep maps to change them; None if it can."""
    if backend == "cpu":
        return why_plain(x, parameters, rows, backend)
    if whole_cells:
        return f"whole_cells need cells of 4x4 pixels, which the {backend} backend does not have"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is for PyTorch's own functions"
    if x.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, not {x.dtype}"
    return None
