"""Custom paths: which pixels does a network use to remove compression artefacts, or rain?

LAM's path starts at a blurred image, as super-resolution restores detail. For other restoration
networks the path should start at an image with their degradation: here strong JPEG compression, or
rain. Both paths are functions of t that end at the image; their derivatives are not needed. Takes
about 5 seconds.

The networks are stand-ins: the built-in EDSR, and a median filter that removes thin streaks.
Replace them by your own.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fastbg import CustomPath, LocalAttribution, downsample, load_model, open_images, wrap

STEPS = 64
QUALITIES = (10, 20, 40, 60, 80, 95)


def compressed(image: Tensor, quality: int) -> Tensor:
    """`image` (3,h,w) in [0,1] after JPEG compression."""
    pixels = (255 * image).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    decoded = np.asarray(Image.open(buffer))
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1).to(image) / 255


def jpeg(images: Tensor, t: Tensor) -> Tensor:
    """From JPEG quality 10 at t = 0 through higher ones to the image; linear in between."""

    def nodes(image: Tensor) -> Tensor:
        anchors = torch.stack([*(compressed(image, quality) for quality in QUALITIES), image])
        place = t * len(QUALITIES)
        before = place.long().clamp(max=len(QUALITIES) - 1)
        share = (place - before)[:, None, None, None]
        return (1 - share) * anchors[before] + share * anchors[before + 1]

    return torch.stack([nodes(image) for image in images])


def streaks(height: int, width: int, seed: int = 0) -> Tensor:
    """Rain (h,w) in [0,1]: steep streaks, 9 pixels long, the same at every call."""
    random = np.random.default_rng(seed)
    drops = torch.from_numpy((random.random((height, width)) < 0.02).astype(np.float32))
    streak = torch.zeros(9, 9)
    streak[torch.arange(9), 2 + torch.arange(9) // 2] = 0.5  # two rows down, one column right
    falling = functional.conv2d(drops[None, None], streak[None, None], padding=4)
    return falling[0, 0].clamp(0, 1)


def rain(images: Tensor, t: Tensor) -> Tensor:
    """The image under rain (screen blending), which fades away as t goes from 0 to 1."""
    falling = streaks(*images.shape[-2:]).to(images)
    fading = (1 - t)[:, None, None, None] * falling  # (K,1,h,w)
    return images[:, None] + fading * (1 - images[:, None])


class Median(nn.Module):
    """(B,3,h,w) to (B,3,h,w): the median of 5 pixels in a row, which removes steep thin streaks."""

    def forward(self, x: Tensor) -> Tensor:
        """The middle value of each pixel and two on either side."""
        row = functional.pad(x, (2, 2, 0, 0), "reflect").unfold(3, 5, 1)
        return row.median(-1).values


photograph = open_images()["photographs/kodim05"].load()[:192, :192]
small = torch.from_numpy(downsample(photograph, 4)).permute(2, 0, 1)[None] / 255
full = torch.from_numpy(photograph[:64, :64].copy()).permute(2, 0, 1)[None] / 255

cases = {
    "EDSR, JPEG": (load_model("edsr"), jpeg, small, (88, 88, 16)),
    "median, rain": (wrap(Median(), scale=1), rain, full, (24, 24, 16)),
}
for name, (net, degraded, image, window) in cases.items():
    lam = LocalAttribution(net, CustomPath(degraded))
    result = lam.attribute(image, window, STEPS, "riemann_trapezoid", return_convergence_delta=True)
    rise = float(result.attribution.sum() - result.convergence_delta[0])
    print(
        f"{name}: diffusion index {float(result.diffusion_index[0]):.1f}, "
        f"structure gained along the path {rise:+.2f}, "
        f"of which the map misses {abs(float(result.convergence_delta[0]) / rise):.1%}"
    )
    result.plot().savefig(f"{name.replace(', ', '_').lower()}.png", dpi=120)
