"""Effective receptive field: how far around a pixel of its output a network looks, on average.

Luo et al., NeurIPS 2016, as the public code of RepLKNet (Ding et al., CVPR 2022) computes and draws
it: the gradient of the output's centre to the input, its positive part, averaged over images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastbg.attribution.gradient import window_gradient
from fastbg.attribution.objectives import PixelSum
from fastbg.attribution.passes import WindowPasses, Windows, as_box, as_inputs, as_windows
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.network import Network
from fastbg.ops.checks import check_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.2, 0.3, 0.5, 0.99)  # as in the public code


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of a window, and the theoretical one.

    Attributes:
        total: (h,w) float64, LR resolution: positive gradients, summed over channels, averaged over
            the images.
        window: y0, x0, y1, x1 in SR pixels.
        scale: SR pixels per LR pixel and axis.
        images: how many were averaged.
        reach: the theoretical receptive field, cut at the image's border: the LR pixels that can
            influence the window through the network's layers. The whole image for a module in
            `fastbg.wrap`; None for other modules, as it is unknown.
        theoretical: height and width of that field in an image without borders, in LR pixels; None
            if the network depends on the whole image, or if the field is unknown.
    """

    total: Tensor
    window: Box
    scale: int
    images: int
    reach: Box | None
    theoretical: tuple[int, int] | None = None

    @cached_property
    def map(self) -> Tensor:
        """(h,w) in [0,1]: the fourth root of `total` divided by its maximum, as it is drawn."""
        peak = self.total.max()
        return (self.total / torch.where(peak > 0, peak, 1)) ** 0.25

    def side(self, share: float) -> int:
        """Side, in LR pixels, of the least square around the window that holds `share` of `total`.

        The square is centred on the window's LR pixels. At the image's border it is cut, but the
        side of the whole square is returned.
        """
        if not 0 < share <= 1:
            raise InvalidArgument("share", share, "above 0, at most 1")
        height, width = self.total.shape
        footprint = self.window.coarsen(self.scale)
        wanted = share * float(self.total.sum()) * (1 - 1e-12)  # sums in another order may be less
        radius = 0
        while True:
            y0, x0, y1, x1 = footprint.grow(radius, height, width)
            if float(self.total[y0:y1, x0:x1].sum()) >= wanted:
                break
            radius += 1
        return max(footprint.y1 - footprint.y0, footprint.x1 - footprint.x0) + 2 * radius

    def table(self, shares: Sequence[float] = SHARES) -> list[tuple[float, int, float]]:
        """(share, side of its square in LR pixels, the square's area as a share of the image's)."""
        height, width = self.total.shape
        sides = [self.side(share) for share in shares]
        return [
            (share, side, min(side * side / (height * width), 1.0))
            for share, side in zip(shares, sides, strict=True)
        ]

    def plot(self) -> "Figure":
        """The map with the squares of the table and the reach."""
        from fastbg.attribution.receptive_field_picture import field_figure

        return field_figure(self)


def receptive_field(
    model: nn.Module, images: Tensor, window: Windows | None = None
) -> ReceptiveField:
    """Which LR pixels a window of the SR image depends on, averaged over images.

    Args:
        model: SR network, as for `LocalAttribution`.
        images: (B,C,h,w) LR in [0,1], B at least 1; 50 to 100 natural images give a stable map.
        window: ``(y, x, size)`` or ``(y0, x0, y1, x1)`` in SR pixels, the same in all images;
            default the pixel in the middle, as published.

    Raises:
        InvalidArgument: an argument's shape, value, dtype or device, as `window_gradient`.
    """
    check_images("images", images)
    if not len(images):
        raise InvalidArgument("images", "none", "at least one")
    scale = WindowPasses(model).scale_for(as_inputs(images, model))
    height, width = images.shape[-2:]
    if window is None:
        window = (height * scale // 2, width * scale // 2, 1)
    given = as_windows(window, 1)
    if given.shape[1] != 1:
        raise InvalidArgument("window", f"shape {tuple(given.shape)}", "one for all images")
    box = as_box(given[0, 0].tolist())
    total = torch.zeros(height, width, dtype=torch.float64, device="cpu")
    for image in images.split(1):
        gradient = window_gradient(model, image, tuple(box), PixelSum())[0]
        total += gradient.clamp(min=0).double().sum(0).cpu()
    return ReceptiveField(
        total=total / len(images),
        window=box,
        scale=scale,
        images=len(images),
        reach=model.reach(box, height, width) if isinstance(model, Network) else None,
        theoretical=_theoretical(model, box, height, width),
    )


def _theoretical(model: nn.Module, window: Box, height: int, width: int) -> tuple[int, int] | None:
    """Height and width of the window's field if the (height, width) image had no borders."""
    if not isinstance(model, Network) or model.stages() is None:
        return None
    margin = model.crop_multiple  # keeps the positions of attention windows
    while True:
        inside = window.moved(margin * model.scale, margin * model.scale)
        sides = height + 2 * margin, width + 2 * margin
        y0, x0, y1, x1 = model.reach(inside, *sides)
        if min(y0, x0) > 0 and y1 < sides[0] and x1 < sides[1]:
            return y1 - y0, x1 - x0
        margin *= 2
