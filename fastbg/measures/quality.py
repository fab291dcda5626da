"""PSNR and SSIM as the field computes them: on 8-bit images, RGB or Y, in a window or shaved."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastbg.errors import InvalidArgument
from fastbg.ops.checks import FLOATS, check_images, check_no_other_range
from fastbg.vocabulary import CHANNELS as CHANNELS

Y_WEIGHTS = (65.481, 128.553, 24.966)  # BT.601, "studio" range; + 16
SSIM_SIZE, SSIM_SIGMA = 11, 1.5
# SR images may overshoot [0,1], as they are clipped; values of 0..255 are far outside.
SR_BEYOND = 7.0


def grey_levels(image: Tensor, channel: str = "rgb") -> Tensor:
    """8-bit grey levels 0..255 of `image` (B,3,H,W) in [0,1], float64: (B,3,H,W), or (B,1,H,W) Y.

    RGB is clipped and rounded; Y, which is computed from it, is not rounded (as in BasicSR).
    """
    if channel not in CHANNELS:
        raise InvalidArgument("channel", repr(channel), f"one of {CHANNELS}")
    levels = (image.double().clamp(0, 1) * 255).round()
    if channel == "rgb":
        return levels
    weights = levels.new_tensor(Y_WEIGHTS).reshape(1, 3, 1, 1) / 255
    return (levels * weights).sum(1, keepdim=True) + 16


def cut_window(image: Tensor, window: Sequence[int] | None, shave: int) -> Tensor:
    """The box `window` (y0, x0, y1, x1) of `image`, or all of it, without a border of `shave`."""
    height, width = image.shape[-2:]
    y0, x0, y1, x1 = (0, 0, height, width) if window is None else window
    y0, x0, y1, x1 = y0 + shave, x0 + shave, y1 - shave, x1 - shave
    if window is None and (shave < 0 or y0 >= y1 or x0 >= x1):
        expected = f"a border that leaves pixels of {height}x{width}"
        raise InvalidArgument("shave", shave, expected)
    if shave < 0 or not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise InvalidArgument(
            "window", f"{window} shaved by {shave}", f"a box that leaves pixels of {height}x{width}"
        )
    return image[..., y0:y1, x0:x1]


def psnr(
    sr: Tensor,
    hr: Tensor,
    window: Sequence[int] | None = None,
    shave: int = 0,
    channel: str = "rgb",
) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        sr, hr: (B,3,H,W) floats in [0,1]; clipped and rounded to 8 bit before they are compared.
        window: box y0, x0, y1, x1 to measure, half-open, in SR pixels; None: everything.
        shave: width of the border to leave out, in SR pixels.
        channel: "rgb", or "y" (luma of BT.601).

    Returns:
        (B) float64, in dB; infinite for equal images.

    Raises:
        InvalidArgument: shapes differ; the window leaves the image; a dtype other than float; on a
            CPU, values in another range such as 0..255: `hr` outside of [-0.5, 1.5] or `sr` outside
            of [-7, 8].

    Example:
        >>> import torch
        >>> from fastbg.measures.quality import psnr
        >>> hr = torch.full((1, 3, 16, 16), 0.5)
        >>> psnr(hr + 0.1, hr)  # 26 of 255 grey levels after rounding
        tensor([20.1720], dtype=torch.float64)
    """
    ours, truth = (grey_levels(x, channel) for x in _compared(sr, hr, window, shave))
    error = (ours - truth).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim(
    sr: Tensor,
    hr: Tensor,
    window: Sequence[int] | None = None,
    shave: int = 0,
    channel: str = "y",
) -> Tensor:
    """Structural similarity (Wang et al., 2004) of each image.

    Statistics under an 11x11 Gaussian of sigma 1.5, only at positions where it lies inside the
    image, as in the authors' MATLAB code. For RGB, the mean over the channels.

    Args:
        sr, hr, window, shave, channel: as for `psnr`, but the default channel is Y.

    Returns:
        (B) float64, at most 1; 1 for equal images.

    Raises:
        InvalidArgument: as for `psnr`, and if less than 11x11 pixels are left.

    Example:
        >>> import torch
        >>> from fastbg.measures.quality import ssim
        >>> hr = torch.rand(1, 3, 16, 16)
        >>> ssim(hr, hr)
        tensor([1.], dtype=torch.float64)
    """
    x, y = (grey_levels(image, channel) for image in _compared(sr, hr, window, shave))
    batch, channels, height, width = x.shape
    if min(height, width) < SSIM_SIZE:
        raise InvalidArgument(
            "window", f"{height}x{width} pixels", f"at least {SSIM_SIZE}x{SSIM_SIZE} for SSIM"
        )
    offset = torch.arange(SSIM_SIZE, dtype=x.dtype, device=x.device) - SSIM_SIZE // 2
    kernel = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()

    def blur(image: Tensor) -> Tensor:
        image = image.reshape(batch * channels, 1, height, width)
        return conv2d(conv2d(image, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))

    mx, my = blur(x), blur(y)
    vx, vy, covariance = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mx * my + c1) * (2 * covariance + c2)
    similarity = similarity / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.view(batch, -1).mean(dim=1)


def _compared(
    sr: Tensor, hr: Tensor, window: Sequence[int] | None, shave: int
) -> tuple[Tensor, Tensor]:
    """The measured parts of `sr` and `hr`; InvalidArgument as `psnr`."""
    for name, value in (("sr", sr), ("hr", hr)):
        if isinstance(value, Tensor) and value.dtype not in FLOATS:
            raise InvalidArgument(name, value.dtype, "floats in [0, 1]; divide uint8 by 255")
        check_images(name, value)
    if sr.shape != hr.shape:
        raise InvalidArgument(
            "sr", f"shape {tuple(sr.shape)}", f"hr's shape (B, 3, H, W) = {tuple(hr.shape)}"
        )
    if sr.device != hr.device:
        raise InvalidArgument("sr", f"device {sr.device}", f"hr's device {hr.device}")
    sr, hr = (cut_window(image, window, shave) for image in (sr, hr))
    check_no_other_range("sr", sr, SR_BEYOND)
    check_no_other_range("hr", hr)
    return sr, hr
