"""The result of `LocalAttribution.attribute`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from fastbg.attribution import diffusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AttributionResult:
    """The attributions of B pairs of image and window.

    For windows (B,N,3) the leading dimensions of everything below are (B,N) instead of (B).

    Attributes:
        attribution: (B,3,h,w) signed, float32, LR resolution.
        images: (B,3,h,w), the LR images.
        windows: (B,3) integers y, x, size in SR pixels, on the CPU.
        scale: SR pixels per LR pixel and axis.
        passes: forward and backward passes of the network for each pair.
        convergence_delta: (B) float64, sum of the attribution minus the change of the objective
            from baseline to image; None unless `return_convergence_delta` was set.

    Example:
        >>> import torch, fastbg
        >>> lam = fastbg.LocalAttribution(fastbg.load_model("edsr"))
        >>> result = lam.attribute(torch.rand(1, 3, 32, 32), (56, 56, 16), accuracy="published")
        >>> result.attribution.shape, result.map.shape
        (torch.Size([1, 3, 32, 32]), torch.Size([1, 32, 32]))
        >>> round(float(result.share((0, 0, 128, 128))[0]), 6)  # of the whole image
        1.0
    """

    attribution: Tensor
    images: Tensor
    windows: Tensor
    scale: int
    passes: int
    convergence_delta: Tensor | None = None

    @cached_property
    def map(self) -> Tensor:
        """(B,h,w): |sum over channels| divided by its maximum."""
        return diffusion.attribution_map(self.attribution)

    @cached_property
    def gini(self) -> Tensor:
        """(B) Gini coefficient of the map, float64."""
        return diffusion.gini(self.map)

    @property
    def diffusion_index(self) -> Tensor:
        """(B) diffusion index (1 - Gini) * 100, float64."""
        return (1 - self.gini) * 100

    def share(self, boxes: Tensor | Sequence[int]) -> Tensor:
        """Share of the map inside each box, in [0,1].

        For a ring, subtract the share of the inner box from that of the outer box.

        Args:
            boxes: y0, x0, y1, x1, half-open, in SR pixels: (4) or (N,4).

        Returns:
            (B) float64, or (B,N) for N boxes.

        Raises:
            InvalidArgument: wrong shape of `boxes`.
        """
        return diffusion.box_share(self.map, boxes, self.scale)

    def plot(self, index: int | tuple[int, ...] = 0) -> "Figure":
        """A Matplotlib figure of pair `index`: input, map, kernel density, diffusion index."""
        from fastbg.attribution.picture import result_figure

        return result_figure(self, index)
