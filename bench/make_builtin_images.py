"""Make fastbg/assets/images from the original photographs and textures.

    python bench/make_builtin_images.py KODAK_DIR TEXTURES_DIR

KODAK_DIR contains kodim01.png to kodim24.png; TEXTURES_DIR contains one folder for each of OST's
classes and a manifest.json with file, licence and source. Each photograph is cropped to the square
with the most structure: the largest mean difference between neighbouring pixels, with the corner at
multiples of 32.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 320
ASSETS = Path(__file__).parents[1] / "fastbg" / "assets" / "images"


def main() -> None:
    """Write the crops and manifest.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kodak", type=Path)
    parser.add_argument("textures", type=Path)
    arguments = parser.parse_args()
    entries = [photograph(path) for path in sorted(arguments.kodak.glob("kodim*.png"))]
    listed = json.loads((arguments.textures / "manifest.json").read_text(encoding="utf-8"))
    entries += [texture(arguments.textures, about) for about in listed]
    entries.sort(key=lambda entry: str(entry["file"]))
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    (ASSETS / "manifest.json").write_text(text + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in ASSETS.rglob("*.webp"))
    print(f"{len(entries)} images, {total / 1e6:.2f} MB")


def photograph(path: Path) -> dict[str, object]:
    """Save the crop of one of Kodak's photographs; its manifest entry."""
    pixels = np.array(Image.open(path).convert("RGB"))
    y, x = busiest(pixels)
    return save(
        f"photographs/{path.stem}.webp",
        pixels[y : y + SIDE, x : x + SIDE],
        origin=f"Kodak Lossless True Color Image Suite, {path.name}",
        licence="released for unrestricted use",
        author="Eastman Kodak Company",
        found_in="Kodak Lossless True Color Image Suite",
        crop=[y, x, SIDE, SIDE],
    )


def texture(folder: Path, about: dict[str, object]) -> dict[str, object]:
    """Save a texture unchanged; its manifest entry."""
    file = Path(str(about["file"]))
    pixels = np.array(Image.open(folder / file).convert("RGB"))
    return save(
        file.with_suffix(".webp").as_posix(),
        pixels,
        origin=str(about["source"]),
        **rights(str(about["licence"])),
        crop=[about["y"], about["x"], *pixels.shape[:2]],
        scaled_width=about.get("scaled_width"),
    )


def rights(text: str) -> dict[str, str | None]:
    """Licence, author (None if unknown) and collection from "CC-BY-4.0 A. Author (collection)"."""
    found = re.fullmatch(r"(\S+)\s*(.*?)\s*\((.+)\)", text)
    if found is None:
        raise SystemExit(f"{text!r}: expected a licence, an author if known, and (a collection)")
    licence, author, collection = found.groups()
    return {"licence": licence, "author": author or None, "found_in": collection}


def busiest(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Top left corner of the square with the largest mean difference of neighbours."""
    grey = pixels.mean(2)
    step = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    corners = [
        (y, x)
        for y in range(0, pixels.shape[0] - SIDE + 1, 32)
        for x in range(0, pixels.shape[1] - SIDE + 1, 32)
    ]
    return max(corners, key=lambda c: step[c[0] : c[0] + SIDE - 1, c[1] : c[1] + SIDE - 1].mean())


def save(file: str, pixels: NDArray[np.uint8], **about: object) -> dict[str, object]:
    """Write a lossless WebP; its manifest entry."""
    path = ASSETS / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, lossless=True, quality=100, method=6)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return {"file": file, **about, "sha256_of_pixels": digest}


if __name__ == "__main__":
    main()
