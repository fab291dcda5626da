"""How a low-resolution input is made from a ground-truth image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastbg.filters.bicubic import bicubic_matrix, bicubic_taps


def downsample(image: NDArray[np.uint8], scale: int, kernel: str = "matlab") -> NDArray[np.uint8]:
    """Bicubic LR image (h/s,w/s,C) of `image` (h,w,C), both 8 bit; `scale` divides h and w.

    Equal on every value to what the tool itself makes of 8-bit images, which round to 8 bit after
    each of their two passes: "matlab" to MATLAB's ``imresize`` (rows first), "pil" to Pillow's
    ``resize``. Raises InvalidArgument for an unknown kernel or a side that `scale` does not divide.
    """
    if kernel == "pil":
        bicubic_taps(image.shape[0], scale, kernel)  # for its checks
        bicubic_taps(image.shape[1], scale, kernel)
        size = image.shape[1] // scale, image.shape[0] // scale
        planes = [Image.fromarray(plane) for plane in np.moveaxis(image, -1, 0)]
        small = [np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in planes]
        return np.stack(small, axis=-1)
    rows = bicubic_matrix(image.shape[0], scale, kernel)
    columns = bicubic_matrix(image.shape[1], scale, kernel)
    lower = _to_8_bit(np.einsum("ih,hwc->iwc", rows, image.astype(np.float64), optimize=True))
    return _to_8_bit(np.einsum("iwc,jw->ijc", lower.astype(np.float64), columns, optimize=True))


def _to_8_bit(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Halves away from zero, as MATLAB rounds; what rounding errors put beside a half is a half."""
    return (values.round(9) + 0.5).clip(0, 255).astype(np.uint8)


def crop_to_multiple(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """`image` (h,w,C) without the last rows and columns that `scale` does not divide."""
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
