"""Image files, good and bad, and the folder layouts of the field's datasets."""

import dataclasses
import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from fastbg.data.builtin import IMAGES, builtin_images, example_images
from fastbg.data.degradation import downsample
from fastbg.data.digests import cache_file
from fastbg.data.images import OST_CLASSES, ImageSet, image_size, open_folder, read_image
from fastbg.data.readable import readable
from fastbg.errors import DataError, InvalidArgument

Pixels = NDArray[np.uint8]
GOLDEN = Path(__file__).parent / "golden"


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


def deep_png(values: NDArray[np.uint16], color_type: int, filtered: int = 0) -> bytes:
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
    rows = (x - (0, a, b, (a + b) // 2, paeth)[filtered]).astype(np.uint8)
    body = b"".join(bytes([filtered]) + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
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
        with pytest.raises(DataError, match=r"deep\.tif: (has more than 8 bits|holds int32)"):
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
            with pytest.raises(DataError, match="holds 3 images"):
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


def div2k(root: Path) -> Path:
    save(root / "DIV2K_valid_HR/0801.png", seed=1)
    save(root / "DIV2K_valid_HR/0802.png", seed=2)
    save(root / "DIV2K_valid_LR_bicubic/X4/0801x4.png", 2, 3, seed=3)
    save(root / "DIV2K_valid_LR_bicubic/X4/0802x4.png", 2, 3, seed=4)
    save(root / "DIV2K_valid_LR_bicubic/X2/0801x2.png", 4, 6, seed=5)
    return root


def urban100(root: Path) -> Path:
    save(root / "HR/img_001.png", seed=1)
    save(root / "LR_bicubic/X4/img_001x4.png", 2, 3, seed=3)
    return root


def urban100_srf(root: Path) -> Path:
    for scale in (2, 4):
        folder = root / f"image_SRF_{scale}"
        save(folder / f"img_001_SRF_{scale}_HR.png", seed=1)
        save(folder / f"img_001_SRF_{scale}_LR.png", 8 // scale, 12 // scale, seed=3)
        save(folder / f"img_001_SRF_{scale}_SRCNN.png", seed=9)
    return root


def ost(root: Path) -> Path:
    for name in ("sky", "water"):
        save(root / name / f"OST_{name}_1.png")
    return root


def keys(images: ImageSet) -> list[str]:
    return [item.key for item in images.items]


class TestOpenFolder:
    @pytest.mark.parametrize("pointed_at", ["", "DIV2K", "DIV2K/DIV2K_valid_HR"])
    def test_div2k(self, tmp_path: Path, pointed_at: str) -> None:
        div2k(tmp_path / "DIV2K")
        images = open_folder(tmp_path / pointed_at)
        assert images.name == "DIV2K_valid"
        assert keys(images) == ["0801.png", "0802.png"]
        first = images["0801.png"]
        np.testing.assert_array_equal(first.load(), noise(8, 12, seed=1))
        lr = first.load_lr(4)
        assert lr is not None
        np.testing.assert_array_equal(lr, noise(2, 3, seed=3))
        assert first.load_lr(3) is None

    def test_a_gap_in_the_paired_images_is_an_error(self, tmp_path: Path) -> None:
        images = open_folder(div2k(tmp_path))
        with pytest.raises(DataError, match=r"X2/0802x2\.png: .*No such file"):
            images["0802.png"].load_lr(2)

    def test_a_paired_image_of_another_size_is_an_error(self, tmp_path: Path) -> None:
        save(div2k(tmp_path) / "DIV2K_valid_LR_bicubic/X4/0801x4.png", 2, 4)
        with pytest.raises(DataError, match=r"0801x4\.png: is 2x4; expected 1/4 of 8x12"):
            open_folder(tmp_path)["0801.png"].load_lr(4)

    def test_two_splits_have_to_be_told_apart(self, tmp_path: Path) -> None:
        save(div2k(tmp_path) / "DIV2K_train_HR/0001.png")
        with pytest.raises(DataError, match=r"more than one dataset \(DIV2K_train, DIV2K_valid\)"):
            open_folder(tmp_path)
        assert keys(open_folder(tmp_path / "DIV2K_train_HR")) == ["0001.png"]
        assert open_folder(tmp_path / "DIV2K_train_HR").items[0].load_lr(4) is None

    @pytest.mark.parametrize("pointed_at", ["", "Urban100", "Urban100/HR"])
    def test_urban100(self, tmp_path: Path, pointed_at: str) -> None:
        urban100(tmp_path / "Urban100")
        images = open_folder(tmp_path / pointed_at)
        assert images.name == "Urban100"
        assert keys(images) == ["img_001.png"]
        lr = images.items[0].load_lr(4)
        assert lr is not None
        np.testing.assert_array_equal(lr, noise(2, 3, seed=3))

    @pytest.mark.parametrize(
        ("pointed_at", "scale"),
        [("", 4), ("Urban100", 4), ("Urban100/image_SRF_4", 4), ("Urban100/image_SRF_2", 2)],
    )
    def test_urban100_srf(self, tmp_path: Path, pointed_at: str, scale: int) -> None:
        urban100_srf(tmp_path / "Urban100")
        images = open_folder(tmp_path / pointed_at)
        assert images.name == "Urban100"
        assert keys(images) == [f"img_001_SRF_{scale}_HR.png"]
        lr = images.items[0].load_lr(scale)
        assert lr is not None
        np.testing.assert_array_equal(lr, noise(8 // scale, 12 // scale, seed=3))

    @pytest.mark.parametrize("pointed_at", ["", "OutdoorSceneTrain_v2"])
    def test_ost(self, tmp_path: Path, pointed_at: str) -> None:
        ost(tmp_path / "OutdoorSceneTrain_v2")
        images = open_folder(tmp_path / pointed_at)
        assert images.name == "OutdoorSceneTrain_v2"
        assert dict(images.classes) == {
            "sky/OST_sky_1.png": "sky",
            "water/OST_water_1.png": "water",
        }
        assert keys(images) == sorted(images.classes)

    def test_photographs_beside_ost_have_no_class(self, tmp_path: Path) -> None:
        ost(tmp_path)
        save(tmp_path / "0.png")
        save(tmp_path / "Urban100/1.png")
        images = open_folder(tmp_path)
        assert sorted(images.classes) == ["sky/OST_sky_1.png", "water/OST_water_1.png"]
        assert keys(images) == sorted(["0.png", "Urban100/1.png", *images.classes])

    def test_plain_folder_is_searched_to_the_bottom(self, tmp_path: Path) -> None:
        save(tmp_path / "b/c/2.jpg")
        save(tmp_path / "a/1.PNG")
        save(tmp_path / "0.bmp")
        save(tmp_path / ".thumbnails/0.png")
        save(tmp_path / "a/._1.png")
        (tmp_path / "a/readme.txt").write_text("no image")
        images = open_folder(tmp_path)
        assert keys(images) == ["0.bmp", "a/1.PNG", "b/c/2.jpg"]
        assert images.name == tmp_path.name
        assert not images.classes
        assert images.items[0].load_lr(4) is None

    def test_linked_folders_are_followed_once(self, tmp_path: Path) -> None:
        save(tmp_path / "real/1.png")
        (tmp_path / "set").mkdir()
        (tmp_path / "set/link").symlink_to(tmp_path / "real")
        (tmp_path / "real/loop").symlink_to(tmp_path / "set")
        assert keys(open_folder(tmp_path / "set")) == ["link/1.png"]

    def test_a_dataset_beside_other_images_has_to_be_named(self, tmp_path: Path) -> None:
        urban100(tmp_path / "Urban100")
        save(tmp_path / "Set5/baby.png")
        with pytest.raises(DataError, match="holds Urban100 beside other images"):
            open_folder(tmp_path)

    def test_opening_a_folder_opens_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"not an image")
        images = open_folder(tmp_path)
        with pytest.raises(DataError, match=r"broken\.png"):
            images.items[0].load()

    def test_no_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(DataError, match=r"holds no images; looked for .*DIV2K.*\*\.png"):
            open_folder(tmp_path)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="nowhere: no such folder"):
            open_folder(tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"1\.png: is a file; expected a folder"):
            open_folder(save(tmp_path / "1.png"))

    def test_unknown_key(self, tmp_path: Path) -> None:
        save(tmp_path / "1.png")
        with pytest.raises(DataError, match=r"has no image '2\.png'"):
            open_folder(tmp_path)["2.png"]

    def test_fingerprint_tells_sets_apart(self, tmp_path: Path) -> None:
        save(tmp_path / "1.png")
        one = open_folder(tmp_path).fingerprint()
        assert open_folder(tmp_path).fingerprint() == one
        save(tmp_path / "2.png")
        assert open_folder(tmp_path).fingerprint() != one


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


LAYOUTS = {  # files; what is pointed at; HR key; its LR file at x4
    "BasicSR": (
        ["Set5/GTmod12/baby.png", "Set5/original/baby.png", "Set5/LRbicx4/baby.png"],
        "Set5",
        "baby.png",
        "Set5/LRbicx4/baby.png",
    ),
    "BasicSR, cut": (
        ["DIV2K_train_HR_sub/1_s001.png", "DIV2K_train_LR_bicubic/X4_sub/1_s001.png"],
        "",
        "1_s001.png",
        "DIV2K_train_LR_bicubic/X4_sub/1_s001.png",
    ),
    "Flickr2K": (
        ["Flickr2K_HR/000001.png", "Flickr2K_LR_bicubic/X4/000001x4.png"],
        "Flickr2K_HR",
        "000001.png",
        "Flickr2K_LR_bicubic/X4/000001x4.png",
    ),
    "DIV2K, mild": (
        ["DIV2K_train_HR/0801.png", "DIV2K_train_LR_mild/0801x4m.png"],
        "",
        "0801.png",
        "DIV2K_train_LR_mild/0801x4m.png",
    ),
    "DIV2K, bicubic before unknown": (
        ["V_HR/1.png", "V_LR_unknown/X4/1x4.png", "V_LR_bicubic/X4/1x4.png"],
        "",
        "1.png",
        "V_LR_bicubic/X4/1x4.png",
    ),
    "RCAN": (
        ["HR/Set5/x4/baby_HR_x4.png", "LR/LRBI/Set5/x4/baby_LRBI_x4.png"],
        "",
        "baby_HR_x4.png",
        "LR/LRBI/Set5/x4/baby_LRBI_x4.png",
    ),
    "SwinIR": (
        ["testsets/Set5/HR/baby.png", "testsets/Set5/LR_bicubic/X4/babyx4.png"],
        "testsets",
        "baby.png",
        "testsets/Set5/LR_bicubic/X4/babyx4.png",
    ),
    "RealSR": (
        ["Canon/Test/4/Canon_001_HR.png", "Canon/Test/4/Canon_001_LR4.png"],
        "",
        "Canon_001_HR.png",
        "Canon/Test/4/Canon_001_LR4.png",
    ),
    "REDS": (
        ["train_sharp/000/0001.png", "train_sharp_bicubic/X4/000/0001.png"],
        "train_sharp",
        "000/0001.png",
        "train_sharp_bicubic/X4/000/0001.png",
    ),
    "gt, lq": (["gt/a.png", "lq/a.png"], "", "a.png", "lq/a.png"),
    "target, input": (["target/a.png", "input/a.png"], "", "a.png", "input/a.png"),
    "HR, LR_x4": (["HR/a.png", "LR_x4/a.png", "LR_x2/a.png"], "", "a.png", "LR_x4/a.png"),
    "HR above LR": (["a.png", "LRbicx4/a.png"], "", "a.png", "LRbicx4/a.png"),
    "one folder": (["a.png", "ax4.png"], "", "a.png", "ax4.png"),
    "subfolders": (["HR/b/1.png", "LR/b/1.png"], "", "b/1.png", "LR/b/1.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_field(tmp_path: Path, layout: str) -> None:
    files, pointed_at, key, lr = LAYOUTS[layout]
    for file in files:
        save(tmp_path / file)
    images = open_folder(tmp_path / pointed_at)
    assert keys(images) == [key]
    assert images.items[0].lr_path(4) == tmp_path / lr
    assert not images.low


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["HR/a.png", "LR/a.png", "LR/a.jpg"], "both named like the LR image of a.png"),
        (["Set5/HR/a.png", "Set14/HR/a.png"], r"more than one dataset \(Set14, Set5\)"),
        (["Canon/Test/4/a_HR.png", "Nikon/Test/4/a_HR.png"], "more than one dataset"),
        (["HR/a.png", "more/b.png"], "beside other images"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path: Path, files: list[str], said: str) -> None:
    for file in files:
        save(tmp_path / file)
    with pytest.raises(DataError, match=said):
        open_folder(tmp_path)


def test_low_resolution_images_are_no_ground_truth(tmp_path: Path) -> None:
    for name in ("DIV2K_valid_LR_bicubic/X4/0801x4.png", "only/a_LR4.png"):
        images = open_folder(save(tmp_path / name).parent)
        assert images.low
        with pytest.raises(DataError, match="named like low-resolution images"):
            images.refuse_low()
    assert not open_folder(save(tmp_path / "photos/redbox2.png").parent).low
    assert not open_folder(save(tmp_path / "input/a.png").parent).low


def test_other_lr_names_are_told_by_a_template(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png")
    save(tmp_path / "lr/a-small4.png")
    images = open_folder(tmp_path, "{}-small{scale}")
    assert images.items[0].lr_path(4) == tmp_path / "lr/a-small4.png"
    assert open_folder(tmp_path).items[0].lr_path(4) is None
    with pytest.raises(InvalidArgument, match="lr_name: got 'small'"):
        open_folder(tmp_path, "small")


def test_what_systems_leave_behind_and_special_files_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for name in ("@eaDir/b.png", "#recycle/b.png", "lost+found/b.png", "__MACOSX/b.png", "._b.png"):
        save(tmp_path / name)
    os.mkfifo(tmp_path / "c.png")
    assert keys(open_folder(tmp_path)) == ["a.png"]
    (tmp_path / "d.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"d\.png: is a link to nothing"):
        open_folder(tmp_path)


def test_the_fingerprint_is_of_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where name, size and time are equal, and with a cache that is damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "set/a.bmp"
    seen = []
    for seed in range(3):
        save(file, seed=seed)
        os.utime(file, ns=(10**18, 10**18))
        images = open_folder(tmp_path / "set")
        assert images.fingerprint() == images.fingerprint()
        seen.append(images.fingerprint())
    assert len(set(seen)) == 3
    cache_file().parent.mkdir(parents=True, exist_ok=True)
    cache_file().write_bytes(b"no database")
    assert open_folder(tmp_path / "set").fingerprint() == seen[-1]


def test_bad_files_are_listed_before_work_or_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(encoded(noise(8, 8), "PNG")[:-40])
    (tmp_path / "c.png").write_text("no image")
    images = open_folder(tmp_path)
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read; --skip-bad") as caught:
        readable(images)
    assert "b.png" in str(caught.value)
    assert "c.png" in str(caught.value)
    said: list[str] = []
    assert keys(readable(images, skip_bad=True, say=said.append)) == ["a.png"]
    assert "2 of 3" in said[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="2 of 2 images cannot be read"):
        readable(open_folder(tmp_path), skip_bad=True)


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
