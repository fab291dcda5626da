"""Metrics of a window of the SR image; the change of a metric is the effect of a block."""

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box
from fastbg.ops.checks import FLOATS, check_images, check_unit_range
from fastbg.upload import sent

# Unit of each metric, and whether a larger value is worse.
METRICS = {
    "psnr": ("dB", False),
    "mse": ("grey levels squared", True),
    "change": ("grey levels", True),
}


class WindowMeasure:
    """PSNR or MSE to the truth, or the RMS difference to the unchanged window.

    Attributes:
        baseline: the metric of the unchanged window.
    """

    def __init__(self, metric: str, window: Box, unchanged: Tensor, truth: Tensor | None) -> None:
        """`unchanged` and `truth` (3,h,w) in [0,1]; the truth is for "psnr" and "mse"."""
        self._metric, self._window, self._unchanged = metric, window, unchanged
        self._truth = None if truth is None else grey_levels(truth)
        self.baseline = float(self(unchanged[None]))

    def __call__(self, patches: Tensor) -> Tensor:
        """(n) float64, on the CPU, of SR windows (n,3,h,w).

        Raises InvalidArgument for a PSNR that is infinite.
        """
        if self._truth is None:
            error = 255 * (patches.double() - self._unchanged.double())
            return error.square_().mean((1, 2, 3)).sqrt().cpu()
        error = (grey_levels(patches) - self._truth).double()  # exact: whole numbers
        mse = error.square_().mean((1, 2, 3)).cpu()
        if self._metric == "mse":
            return mse
        if bool((mse == 0).any()):
            got = f"the box {tuple(self._window)}, where the SR image equals the truth"
            raise InvalidArgument("windows", got, "a finite PSNR; metric='mse' has no such limit")
        return 20 * torch.log10(255 / mse.sqrt())


def true_window(
    metric: str, truth: Tensor | None, images: Tensor, scale: int, i: int, box: Box
) -> Tensor | None:
    """Ground truth of image `i` in the window: (C,h,w) in [0,1]; None for "change".

    Raises InvalidArgument for a truth that is not (B,C,scale*h,scale*w), uint8 or in [0,1].
    """
    if metric == "change":
        return None
    b, channels, h, w = images.shape
    expected = (b, channels, scale * h, scale * w)
    if not isinstance(truth, Tensor) or tuple(truth.shape) != expected:
        got = f"shape {tuple(truth.shape)}" if isinstance(truth, Tensor) else repr(truth)
        raise InvalidArgument("truth", got, f"HR images {expected}, {scale} times the images")
    check_images("truth", truth, (*FLOATS, torch.uint8))
    window = as_float(truth[i, :, box.y0 : box.y1, box.x0 : box.x1])
    check_unit_range("truth", window.cpu())
    return sent(window, images.device)


def grey_levels(image: Tensor) -> Tensor:
    """8-bit grey levels of an image in [0,1]: clipped, scaled in float32, halves to even.

    In float32 as the published code: in float64 a few values in a million round otherwise.
    """
    return image.float().clamp(0, 1).mul_(255).round_()
