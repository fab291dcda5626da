"""The folder layouts of the field's datasets: recognised, or refused by name."""

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from image_files import encoded, keys, noise, save

import fastbg
from fastbg.data.digests import cache_file
from fastbg.data.images import open_folder
from fastbg.data.readable import open_readable, readable
from fastbg.data.sets import check_lr_size, decoded
from fastbg.errors import DataError, InvalidArgument
from fastbg.evaluation import evaluate
from fastbg.experiments.groups import _cut
from fastbg.models.bicubic import Bicubic


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
        with pytest.raises(
            DataError, match=r"contains several data sets \(DIV2K_train, DIV2K_valid\)"
        ):
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
        with pytest.raises(DataError, match="contains Urban100 and other images"):
            open_folder(tmp_path)

    def test_opening_a_folder_opens_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"not an image")
        images = open_folder(tmp_path)
        with pytest.raises(DataError, match=r"broken\.png"):
            images.items[0].load()

    def test_no_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(DataError, match=r"contains no images; looked for .*DIV2K.*\*\.png"):
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
    "HR and LR in a folder of an unsure name": (
        ["original/HR/a.png", "original/LR/a.png"],
        "",
        "a.png",
        "original/LR/a.png",
    ),
    "scale first": (["x4/HR/a.png", "x4/LR/a.png"], "", "a.png", "x4/LR/a.png"),
    "an HR name that ends like LR": (["HR/ax4.png", "LR/ax4.png"], "", "ax4.png", "LR/ax4.png"),
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
        (["HR/a.png", "LR/a.png", "LR/ax4.png"], "both named like the LR image of a.png"),
        (["HR/a.png", "LR/a.png", "LR/x2/a.png"], "both named like the LR image of a.png"),
        (["sharp/a.png", "blur/a.png"], "contains sharp and other images"),
        (["clean/a.png", "noisy/a.png"], "contains clean and other images"),
        (["Set5/HR/a.png", "Set14/HR/a.png"], r"contains several data sets \(Set14, Set5\)"),
        (["Canon/Test/4/a_HR.png", "Nikon/Test/4/a_HR.png"], "contains several data sets"),
        (["HR/a.png", "more/b.png"], "and other images"),
        (["HR/baby.png", "HR/babyx4.png"], r"babyx4\.png: is named like an LR image"),
        (["HR/a.png", "HR/a_LR.png", "LR/a.png"], r"a_LR\.png: is named like an LR image"),
        (["HR/a_HR.png", "HR/ax4.png"], r"ax4\.png: is named like an LR image"),
        (["HR/s/a.png", "HR/s/ax2.png"], r"ax2\.png: is named like an LR image"),
        (["HR/a.png", "HR/LR_bicubic/a.png"], r"LR_bicubic/a\.png: is named like an LR image"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path: Path, files: list[str], said: str) -> None:
    for file in files:
        save(tmp_path / file)
    with pytest.raises(DataError, match=said):
        open_folder(tmp_path)


def test_an_lr_image_among_hr_images_is_told_by_the_template_too(tmp_path: Path) -> None:
    for file in ("HR/a.png", "HR/small-a.png"):
        save(tmp_path / file)
    assert keys(open_folder(tmp_path)) == ["a.png", "small-a.png"]
    with pytest.raises(DataError, match=r"small-a\.png: is named like an LR image, in the folder"):
        open_folder(tmp_path, "small-{}.png")


def test_low_resolution_images_are_no_ground_truth(tmp_path: Path) -> None:
    for name in ("DIV2K_valid_LR_bicubic/X4/0801x4.png", "only/a_LR4.png"):
        images = open_folder(save(tmp_path / name).parent)
        assert images.low
        with pytest.raises(DataError, match="named like low-resolution images"):
            images.refuse_low()
    assert not open_folder(save(tmp_path / "photos/redbox2.png").parent).low
    assert not open_folder(save(tmp_path / "input/a.png").parent).low
    assert keys(open_folder(save(tmp_path / "sharp/a.png").parent)) == ["a.png"]


def test_other_lr_names_are_told_by_a_template(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png")
    save(tmp_path / "lr/a-small4.png")
    images = open_folder(tmp_path, "{}-small{scale}")
    assert images.items[0].lr_path(4) == tmp_path / "lr/a-small4.png"
    assert images.lr_source == "lr"
    assert open_folder(tmp_path).items[0].lr_path(4) is None
    with pytest.raises(InvalidArgument, match="lr_name: got 'small'"):
        open_folder(tmp_path, "small")


def test_open_images_passes_the_template_on(tmp_path: Path) -> None:
    save(tmp_path / "HR/a.png", seed=1)
    save(tmp_path / "LR/small-a.png", 2, 3, seed=2)
    (item,) = fastbg.open_images(tmp_path, "small-{}.png").items
    np.testing.assert_array_equal(item.load(), noise(8, 12, seed=1))
    lr = item.load_lr(4)
    assert lr is not None
    np.testing.assert_array_equal(lr, noise(2, 3, seed=2))
    assert len(fastbg.open_images().items) == 24 + 45


def test_what_systems_leave_behind_and_special_files_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for name in ("@eaDir/b.png", "#recycle/b.png", "lost+found/b.png", "__MACOSX/b.png", "._b.png"):
        save(tmp_path / name)
    os.mkfifo(tmp_path / "c.png")
    assert keys(open_folder(tmp_path)) == ["a.png"]
    (tmp_path / "d.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"d\.png: is a link to nothing"):
        open_folder(tmp_path)


def test_lr_images_of_which_none_fits_are_not_left_aside_silently(tmp_path: Path) -> None:
    """LR images are made then."""
    save(tmp_path / "HR" / "a.png", 64, 64)
    save(tmp_path / "LR" / "b.png", 16, 16)
    images = open_folder(tmp_path)
    reason = r"none, as none is named like an HR image \(b\.png\)"
    assert re.fullmatch(reason, images.lr_source)
    with pytest.warns(UserWarning, match=f"made by matlab bicubic .own LR images: {reason}"):
        assert len(list(evaluate([Bicubic(4)], images))) == 1
    assert len(list(evaluate([Bicubic(4)], images, kernel="matlab"))) == 1  # no warning


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_are_the_same_in_either_spelling(tmp_path: Path, form: str) -> None:
    high, low = (unicodedata.normalize(f, "b\u00e9b\u00e9.png") for f in (form, "NFC"))
    save(tmp_path / "HR" / high)
    save(tmp_path / "LR" / unicodedata.normalize("NFD", low), 2, 3)
    (item,) = open_folder(tmp_path).items
    assert item.lr_path(4) == tmp_path / "LR" / unicodedata.normalize("NFD", low)


def test_images_are_read_again_after_their_file_changed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bmp")
    for seed in (1, 2):  # of the same name and size
        save(path, seed=seed)
        (item,) = open_folder(tmp_path).items
        assert np.array_equal(decoded(item), noise(8, 12, seed=seed))
        assert np.array_equal(_cut(item, (0, 0, 8, 8)), noise(8, 12, seed=seed)[:, :8])


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


def test_folders_are_opened_with_all_their_options(tmp_path: Path) -> None:
    save(tmp_path / "HR/a.png", height=8, width=12)
    save(tmp_path / "LR/a.png", height=2, width=3)
    save(tmp_path / "HR/b.png", height=8, width=12)
    save(tmp_path / "LR/b.png", height=2, width=4)
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read; --skip-bad") as caught:
        open_readable(tmp_path, lr_scale=4)
    assert "expected 1/4 of 8x12" in str(caught.value)
    assert "fits" not in str(caught.value)
    assert keys(open_readable(tmp_path, lr_scale=4, skip_bad=True)) == ["a.png"]
    assert keys(open_readable(tmp_path)) == ["a.png", "b.png"]


def test_names_of_any_bytes_have_a_fingerprint(tmp_path: Path) -> None:
    """Linux takes any bytes for a name; these are no UTF-8."""
    save(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    assert len(open_folder(tmp_path).fingerprint()) == 16


@pytest.mark.parametrize(("lr", "hint"), [((4, 6), ", it fits x2"), ((4, 4), ""), ((0, 6), "")])
def test_an_lr_image_of_another_scale_is_told_which_it_fits(lr: tuple[int, int], hint: str) -> None:
    said = f"lr.png: is {lr[0]}x{lr[1]}; expected 1/4 of 8x12, the size of hr.png{hint}"
    with pytest.raises(DataError) as caught:
        check_lr_size("lr.png", lr, (8, 12), 4, "hr.png")
    assert str(caught.value) == said


def test_ten_bad_files_are_named_and_others_counted(tmp_path: Path) -> None:
    for k in range(10):
        (tmp_path / f"{k}.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        readable(open_folder(tmp_path))
    assert [str(caught.value).count(f"{k}.png") for k in range(10)] == [1] * 10
    assert "more" not in str(caught.value)
    for k in (10, 11):
        (tmp_path / f"{k}.png").write_text("no image")
    with pytest.raises(DataError, match=r"\n  and 2 more$"):
        readable(open_folder(tmp_path))


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
