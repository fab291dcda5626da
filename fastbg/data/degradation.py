"""Makes LR inputs from HR images: bicubic down-sampling on 8-bit images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastbg.errors import InvalidArgument
from fastbg.filters.bicubic import bicubic_matrix, bicubic_taps


def downsample(image: NDArray[np.uint8], scale: int, kernel: str = "matlab") -> NDArray[np.uint8]:
    """Reduce an 8-bit image bicubically.

    Every value equals that of the named tool on 8-bit images, which rounds to 8 bit after each of
    its two passes.

    Args:
        image: (h,w,C) uint8.
        scale: integer that divides h and w.
        kernel: "matlab" (MATLAB's ``imresize``, rows first) or "pil" (Pillow's ``resize``).

    Returns:
        (h/scale,w/scale,C) uint8.

    Raises:
        InvalidArgument: another dtype or shape, an unknown kernel, or a side that `scale` does not
            divide.

    Example:
        >>> import numpy as np
        >>> from fastbg.data.degradation import downsample
        >>> downsample(np.full((8, 12, 3), 7, dtype=np.uint8), 4).shape
        (2, 3, 3)
    """
    given = getattr(image, "dtype", type(image).__name__), getattr(image, "shape", ())
    if given[0] != np.uint8 or len(given[1]) != 3 or not isinstance(image, np.ndarray):
        raise InvalidArgument("image", "{} of shape {}".format(*given), "uint8, (h, w, C)")
    if kernel == "pil":
        bicubic_taps(image.shape[0], scale, kernel)  # checks the arguments
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
    """Round halves up, as MATLAB does; values within rounding error of a half count as halves."""
    return (values.round(9) + 0.5).clip(0, 255).astype(np.uint8)


def crop_to_multiple(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """`image` (h,w,C) without the last rows and columns that `scale` does not divide."""
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
