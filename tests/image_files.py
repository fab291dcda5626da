"""Image files for tests."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastbg.data.images import ImageSet

Pixels = NDArray[np.uint8]


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: Pixels, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def save(path: Path, height: int = 8, width: int = 12, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, seed=seed)).save(path)
    return path


def keys(images: ImageSet) -> list[str]:
    return [item.key for item in images.items]
