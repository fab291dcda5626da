"""How a low-resolution input is made from a ground-truth image."""

import numpy as np
from numpy.typing import NDArray

from fastbg.ops.resampling import bicubic_matrix


def downsample(image: NDArray[np.uint8], scale: int, kernel: str = "matlab") -> NDArray[np.uint8]:
    """Bicubic LR image (h/s,w/s,C) of `image` (h,w,C), both 8 bit; `scale` divides h and w."""
    rows = bicubic_matrix(image.shape[0], scale, kernel)
    columns = bicubic_matrix(image.shape[1], scale, kernel)
    small = np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns, optimize=True)
    return (small + 0.5).clip(0, 255).astype(np.uint8)


def crop_to_multiple(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """`image` (h,w,C) without the last rows and columns that `scale` does not divide."""
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
