"""What an attribution returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from fastbg.attribution import diffusion as statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AttributionResult:
    """Attributions of B (image, window) pairs; for windows (B,N,3) every B stands for (B,N).

    Attributes:
        attribution: (B,3,h,w) signed, float32, LR resolution.
        images: (B,3,h,w), the LR images.
        windows: (B,3) integers y, x, size in SR pixels, on the CPU.
        scale: SR pixels per LR pixel and axis.
        convergence_delta: (B) sum of the attribution less (objective at the image - at the
            baseline), float64; None unless asked for.
        passes: forward and backward passes of the network per (image, window) pair.
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
        return statistics.attribution_map(self.attribution)

    @cached_property
    def gini(self) -> Tensor:
        """(B) Gini coefficient of the map, float64."""
        return statistics.gini(self.map)

    @property
    def diffusion_index(self) -> Tensor:
        """(B) diffusion index (1 - Gini) * 100, float64."""
        return (1 - self.gini) * 100

    def share(self, boxes: Tensor | Sequence[int]) -> Tensor:
        """Share of the map inside boxes y0, x0, y1, x1 in SR pixels: (B), or (B,N) for (N,4).

        For a ring, subtract the share of its inner box from that of its outer one.
        """
        return statistics.box_share(self.map, boxes, self.scale)

    def plot(self, index: int | tuple[int, ...] = 0) -> "Figure":
        """Figure of pair `index`: input with window, map and kernel density, diffusion index."""
        from fastbg.attribution.picture import result_figure

        return result_figure(self, index)
