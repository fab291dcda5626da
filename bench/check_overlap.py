"""Is a built-in image part of a training image? Prints the closest pairs.

    python bench/check_overlap.py TRAINING_DIR

Each built-in image is searched in each training image by normalised cross-correlation of their
high frequencies (in low frequencies, any two skies are alike). Both are reduced to a quarter of
their size, the built-in image also to other sizes. Crops of about the same scale are found. A crop
of another scale, or one that is half outside of the training image, scores 0.1 to 0.5, no more than
unrelated images.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.feature import match_template

from fastbg.data.builtin import builtin_images
from fastbg.data.images import open_folder
from fastbg.data.sets import ImageItem

SAME = 0.7
SIZES = (1.0, 0.8, 0.64, 0.5)


def main() -> None:
    """Print the ten closest pairs; exit status 1 if a pair shows the same scene."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", type=Path)
    training = [(i.key, small(i, 0.25)) for i in open_folder(parser.parse_args().training).items]
    found = []
    for item in builtin_images().items:
        sought = [small(item, 0.25 * size) for size in SIZES]
        for key, image in training:
            fitting = [
                s for s in sought if s.shape[0] <= image.shape[0] and s.shape[1] <= image.shape[1]
            ]
            best = max((float(match_template(image, s).max()) for s in fitting), default=0.0)
            found.append((best, item.key, key))
    found.sort(reverse=True)
    known = max(float(match_template(image, image[8:72, 8:72]).max()) for _, image in training[:9])
    print(f"{known:.3f}  a cut of a training image in itself, for comparison")
    for best, ours, theirs in found[:10]:
        print(f"{best:.3f}  {ours}  {theirs}")
    raise SystemExit(1 if found[0][0] > SAME else 0)


def small(item: ImageItem, factor: float) -> NDArray[np.float32]:
    """High frequencies of the grey levels, down-sampled by `factor`."""
    image = Image.fromarray(item.load()).convert("L")
    size = tuple(max(1, round(side * factor)) for side in image.size)
    grey = np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float32)
    detail: NDArray[np.float32] = grey - gaussian_filter(grey, 2.0)
    return detail


if __name__ == "__main__":
    main()
