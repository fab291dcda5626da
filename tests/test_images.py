"""Image files, good and bad, the built-in images, and down-sampling as others do it."""

import dataclasses
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from image_files import encoded, keys, noise, save
from numpy.typing import NDArray
from PIL import Image

from fastbg.data.builtin import IMAGES, builtin_images, example_images
from fastbg.data.degradation import downsample
from fastbg.data.images import OST_CLASSES, image_size, open_folder, read_image
from fastbg.errors import DataError, InvalidArgument

GOLDEN = Path(__file__).parent / "golden"


def deep_png(
    values: NDArray[np.uint16], color_type: int, filtered: int = 0, interlaced: int = 0
) -> bytes:
    """A PNG of 16 bits per channel, which Pillow writes of grey only; one filter for all rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = values.shape
    step = 2 * channels
    plain = np.zeros((height + 1, (width + 1) * step), int)
    plain[1:, step:] = values.astype(">u2").reshape(height, -1).view(np.uint8)
    x, a, b = plain[1:, step:], plain[1:, :-step], plain[:-1, step:]
    c = plain[:-1, :-step]
    p, q, r = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    paeth = np.where((p <= q) & (p <= r), a, np.where(q <= r, b, c))
    rows = (x - (0, a, b, (a + b) // 2, paeth)[min(filtered, 4)]).astype(np.uint8)
    body = b"".join(bytes([filtered]) + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, interlaced)
    packed = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + packed


class TestReadImage:
    def test_rgb_is_read_as_stored(self, tmp_path: Path) -> None:
        pixels = noise(5, 7)
        (tmp_path / "a.png").write_bytes(encoded(pixels, "PNG"))
        read = read_image(tmp_path / "a.png")
        assert read.dtype == np.uint8
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, pixels)

    def test_grey_is_repeated(self, tmp_path: Path) -> None:
        pixels = noise(5, 7, 1)
        (tmp_path / "a.png").write_bytes(encoded(pixels, "PNG"))
        np.testing.assert_array_equal(
            read_image(tmp_path / "a.png"), pixels[..., None].repeat(3, 2)
        )

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
    def test_what_is_no_regular_file_is_never_opened(
        self, tmp_path: Path, make: Callable[[Path], None]
    ) -> None:
        """A pipe would wait for a writer, /dev/zero never ends."""
        make(tmp_path / "a.png")
        for read in (read_image, image_size):
            with pytest.raises(DataError, match=r"a\.png: is no regular file"):
                read(tmp_path / "a.png")
        with pytest.raises(InvalidArgument, match=r"path: got a\\x00\.png; expected a path"):
            read_image("a\0.png")

    def test_deep_pngs_that_cannot_be_read_say_why(self, tmp_path: Path) -> None:
        values = np.zeros((4, 5, 3), np.uint16)
        for content, said in (
            (deep_png(values, 2, filtered=5), "a PNG filter 5 does not exist"),
            (deep_png(values, 2, interlaced=1), "is interlaced, with 16 bits per channel"),
        ):
            (tmp_path / "deep.png").write_bytes(content)
            with pytest.raises(DataError, match=said):
                read_image(tmp_path / "deep.png")

    @pytest.mark.parametrize("suffix", ["gif", "tiff", "png", "webp"])
    def test_several_images_in_a_file_are_refused(self, tmp_path: Path, suffix: str) -> None:
        frames = [Image.fromarray(np.roll(noise(8, 9), shift)) for shift in range(3)]
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match="contains 3 images; expected one"):
            read_image(tmp_path / f"a.{suffix}")

    def test_alpha_is_dropped_and_not_blended(self, tmp_path: Path) -> None:
        pixels = noise(5, 7, 4)
        (tmp_path / "a.png").write_bytes(encoded(pixels, "PNG"))
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels[..., :3])

    def test_palette_with_transparency_is_looked_up(self, tmp_path: Path) -> None:
        image = Image.fromarray(noise(5, 7) // 128 * 255).quantize(8)
        image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
        np.testing.assert_array_equal(
            read_image(tmp_path / "a.png"), np.array(image.convert("RGB"))
        )

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_of_jpeg_is_applied(self, tmp_path: Path, orientation: int) -> None:
        upright = np.zeros((16, 32, 3), np.uint8)
        upright[:8, :16] = 255  # white in the top left quarter
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),
            7: np.rot90(upright, 2).transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / "a.jpg"
        file.write_bytes(encoded(np.ascontiguousarray(stored), "JPEG", exif=exif, quality=95))
        assert image_size(file) == (16, 32)
        assert np.abs(read_image(file).astype(int) - upright).max() < 10

    def test_png_is_taken_as_stored_whatever_its_exif_says(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels = noise(5, 7)
        (tmp_path / "a.png").write_bytes(encoded(pixels, "PNG", exif=exif))
        assert image_size(tmp_path / "a.png") == (5, 7)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)

    @pytest.mark.parametrize("filtered", range(5))
    @pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_sixteen_bit_png_is_scaled_to_eight(
        self, tmp_path: Path, color_type: int, channels: int, filtered: int
    ) -> None:
        values = np.random.default_rng(0).integers(0, 65536, (4, 5, channels), dtype=np.uint16)
        values[0, :3, 0] = 128, 129, 65535
        file = tmp_path / "deep.png"
        file.write_bytes(deep_png(values, color_type, filtered))
        colours = values[..., :3] if channels > 2 else values[..., :1].repeat(3, 2)
        expected = np.floor(colours / 257 + 0.5)
        assert expected[0, :3, 0].tolist() == [0, 1, 255]
        np.testing.assert_array_equal(read_image(file), expected)
        assert image_size(file) == (4, 5)
        file.write_bytes(deep_png(values, color_type, filtered)[:-30])
        with pytest.raises(DataError, match=r"deep\.png"):
            read_image(file)

    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 4)])
    def test_sixteen_bit_tiff_is_scaled_to_eight(self, tmp_path: Path, shape: tuple) -> None:
        values = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
        tifffile.imwrite(tmp_path / "deep.tif", values)
        expected = np.floor(values / 257 + 0.5)
        expected = expected[..., None].repeat(3, 2) if len(shape) == 2 else expected[..., :3]
        np.testing.assert_array_equal(read_image(tmp_path / "deep.tif"), expected)

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_deeper_tiff_is_refused(self, tmp_path: Path, dtype: type) -> None:
        Image.fromarray(np.zeros((4, 5), dtype)).save(tmp_path / "deep.tif")
        with pytest.raises(DataError, match=r"deep\.tif: (has more than 8 bits|has int32)"):
            read_image(tmp_path / "deep.tif")

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    def test_the_size_is_that_of_the_pixels_read(
        self, tmp_path: Path, kind: str, orientation: int
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"a.{kind.lower()}"
        file.write_bytes(encoded(noise(96, 160), kind, exif=exif))
        assert image_size(file) == read_image(file).shape[:2]

    def test_animations_are_refused(self, tmp_path: Path) -> None:
        frames = [Image.fromarray(noise(8, 8, seed=i)) for i in range(3)]
        for name in ("a.webp", "a.png", "a.tif"):
            frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
            with pytest.raises(DataError, match="contains 3 images"):
                read_image(tmp_path / name)

    def test_between_pillows_limits_an_image_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
        assert read_image(save(tmp_path / "a.png", 8, 12)).shape == (8, 12, 3)
        with pytest.raises(DataError, match="decompression bomb"):
            read_image(save(tmp_path / "b.png", 80, 12))

    def test_names_that_are_too_long_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="name too long"):
            read_image(tmp_path / ("x" * 300 + ".png"))
        with pytest.raises(DataError, match=r"name too long|no such folder"):
            open_folder(tmp_path / ("x" * 300))

    @pytest.mark.parametrize("kept", [0, 5, 20, 33, 60, 500, 0.5, 0.9, 0.99])
    def test_truncated_png_names_file_and_cause(self, tmp_path: Path, kept: float) -> None:
        whole = encoded(noise(40, 50), "PNG")
        file = tmp_path / "cut.png"
        file.write_bytes(whole[: kept if kept >= 1 else int(kept * len(whole))])
        with pytest.raises(DataError, match=r"cut\.png: cannot be read as an image: .{5}"):
            read_image(file)

    # Pillow warns of a cut TIFF directory before it fails.
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
    def test_no_cut_gives_wrong_pixels(self, tmp_path: Path, kind: str) -> None:
        """Cut anywhere, a file is refused, unless only its trailer, behind all pixels, is gone."""
        whole = encoded(noise(12, 16), kind)
        file = tmp_path / f"cut.{kind.lower()}"
        file.write_bytes(whole)
        pixels = read_image(file)
        messages = []
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            try:
                read = read_image(file)
            except DataError as error:
                messages.append(str(error))
            else:
                np.testing.assert_array_equal(read, pixels)
        assert len(messages) > 0.8 * len(whole)
        assert all(str(file) in message for message in messages)

    def test_damaged_png_is_refused(self, tmp_path: Path) -> None:
        whole = bytearray(encoded(noise(40, 50), "PNG"))
        whole[3000] ^= 0xFF
        (tmp_path / "bad.png").write_bytes(whole)
        with pytest.raises(DataError, match=r"bad\.png: cannot be read as an image"):
            read_image(tmp_path / "bad.png")

    @pytest.mark.parametrize(
        ("make", "cause"),
        [
            (lambda path: None, "No such file"),
            (lambda path: path.mkdir(), "Is a directory"),
            (lambda path: path.write_text("<html>not found</html>"), "not an image"),
        ],
    )
    def test_what_is_no_image_is_refused(
        self, tmp_path: Path, make: Callable[[Path], object], cause: str
    ) -> None:
        make(tmp_path / "a.png")
        with pytest.raises(DataError, match=rf"a\.png: cannot be read as an image: {cause}"):
            read_image(tmp_path / "a.png")


def test_builtin_images_are_those_of_the_manifest() -> None:
    """Pixels by their digests, so that no release of Pillow reads them otherwise."""
    images = builtin_images()
    entries = json.loads((IMAGES / "manifest.json").read_text(encoding="utf-8"))
    assert [f"{key}.webp" for key in keys(images)] == [entry["file"] for entry in entries]
    assert set(images.classes.values()) == set(OST_CLASSES)
    assert len(images) - len(images.classes) == 24
    for item, entry in zip(images.items, entries, strict=True):
        pixels = item.load()
        assert pixels.shape == (*item.size(), 3)
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == entry["sha256_of_pixels"]
        assert entry["origin"]
        assert entry["licence"]
    assert sum(item.path.stat().st_size for item in images.items) <= 8_000_000


def test_a_built_in_image_that_was_changed_is_refused(tmp_path: Path) -> None:
    item = builtin_images().items[0]
    pixels = item.load().copy()
    pixels[3, 5, 1] ^= 1
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    changed = dataclasses.replace(item, path=tmp_path / "a.webp")
    with pytest.raises(DataError, match=r"a\.webp: is not the image that fastbg ships"):
        changed.load()


def test_example_images_need_no_download() -> None:
    images = example_images()
    assert keys(images) == ["astronaut", "chelsea", "coffee", "rocket"]
    for item in images.items:
        assert item.load().shape == (*item.size(), 3)


def test_matlabs_own_files_are_equalled_on_every_value() -> None:
    """Corners of Set5's images and of what MATLAB's imresize made of the whole images."""
    stored = np.load(GOLDEN / "imresize.npz")
    for scale in (2, 3, 4):
        hr, lr = stored[f"hr_x{scale}"], stored[f"lr_x{scale}"]
        made = downsample(hr, scale)[: lr.shape[0], : lr.shape[1]]
        np.testing.assert_array_equal(made, lr)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pillows_resize_is_equalled_on_every_value(scale: int) -> None:
    hr = noise(24, 36)
    size = (36 // scale, 24 // scale)
    expected = np.array(Image.fromarray(hr).resize(size, Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(downsample(hr, scale, "pil"), expected)
