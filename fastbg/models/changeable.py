"""A window of one image computed for many changes of the input; by networks of 3x3 convolutions."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastbg.errors import BackendUnavailable
from fastbg.geometry import Box
from fastbg.models.conv_stack import Link, cut_window, is_plain_conv, link_layers
from fastbg.models.network import Network, must_be_called
from fastbg.ops.conv_stack_change import ChangeableStack
from fastbg.precision import current


class Changeable(Protocol):
    """What `Network.keep_window` returns: `ChangeableWindow`, or another network's own way.

    Attributes:
        unchanged: (1,3,h,w), as `forward_window` gives it.
        rounding: a `negligible` that leaves results about as accurate as they are without.
    """

    unchanged: Tensor
    rounding: float

    @property
    def backend(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    def run(
        self, changes: Sequence[tuple[Box, Tensor]], negligible: float = 0.0
    ) -> list[Tensor]: ...


class ChangeableWindow:
    """Computes a window of the SR image for an image and for changes of it.

    The image's feature maps are kept, and only the pixels that a change reaches are computed. The
    network must not change meanwhile.

    Attributes:
        unchanged: (1,3,h,w), as `forward_window` gives it.
        rounding: the share of a map's largest value by which a convolution rounds in float32.
    """

    rounding = 1e-6

    def __init__(
        self, network: Network, image: Tensor, links: Sequence[Link], window: Box, equal: bool
    ) -> None:
        """`image` (1,3,h,w) in [0,1]; BackendUnavailable as for `ChangeableStack`."""
        self._network, self._window = network, window
        height, width = image.shape[-2:]
        self._layers = link_layers(links, window, height, width, equal)
        normalised = network.normalise(image)
        self._stack = ChangeableStack(normalised, self._layers, whole_cells=equal)
        self.unchanged = self._image(self._stack.result)

    def run(self, changes: Sequence[tuple[Box, Tensor]], negligible: float = 0.0) -> list[Tensor]:
        """Windows (K,3,h,w) for each (box of the input, its new pixels in K images, in [0,1]).

        `negligible` as for `ChangeableStack.run`.
        """
        told = [(box, self._network.normalise(pixels)) for box, pixels in changes]
        results = self._stack.run(told, negligible)
        if not results:
            return []
        # Windows are small: one image of all of them takes less time than one for each change.
        windows = self._image(torch.cat(results))
        return list(windows.split([len(result) for result in results]))

    @property
    def backend(self) -> str:
        """The backend that computes: "cpu", "torch" or "triton"."""
        return self._stack.backend

    @property
    def nbytes(self) -> int:
        """Memory of the kept maps."""
        return self._stack.nbytes

    def _image(self, result: Tensor) -> Tensor:
        return self._network.denormalise(cut_window(result, self._layers, self._window))


def keep_window(
    network: Network, image: Tensor, links: Sequence[Link], window: Box, equal: bool
) -> ChangeableWindow | None:
    """The window, or None where the network's modules must run, as for `run_links`."""
    # In precisions below float32 the network's modules must run.
    called = must_be_called(network) or current() not in ("ieee", "tf32")
    if called or not all(is_plain_conv(link.conv) for link in links):
        return None
    try:
        return ChangeableWindow(network, image, links, window, equal)
    except BackendUnavailable:
        return None  # forward_window computes the same, as for `equal` on a GPU
