"""Manifests: the same for a seed in every process, spread evenly, inside their images."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastbg.data import digests, manifests, sets
from fastbg.data.builtin import builtin_images
from fastbg.data.images import ImageItem, ImageSet, open_folder
from fastbg.data.manifests import (
    SubImage,
    by_photograph,
    composite_groups,
    load_sub_image,
    sub_images,
)
from fastbg.errors import DataError, InvalidArgument


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Five images of noise of different sizes, one of them too small for 32 pixels."""
    sizes = {"a": (40, 64), "b": (32, 32), "c": (100, 36), "d": (31, 90), "e": (51, 47)}
    for seed, (name, size) in enumerate(sizes.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return open_folder(tmp_path)


def test_squares_lie_inside_at_multiples_and_differ(images: ImageSet) -> None:
    subs = sub_images(images, 40, 32, seed=3, multiple=4)
    assert len(set(subs)) == len({sub.key for sub in subs}) == 40
    for sub in subs:
        height, width = images[sub.item].size()
        assert sub.y % 4 == sub.x % 4 == 0
        assert sub.y + 32 <= height
        assert sub.x + 32 <= width


def test_squares_are_spread_evenly(images: ImageSet) -> None:
    subs = sub_images(images, 10, 32, seed=3)
    # d.png is too low, b.png holds just one; the rest share the other nine.
    assert Counter(sub.item for sub in subs) == {"a.png": 3, "b.png": 1, "c.png": 3, "e.png": 3}
    assert {sub.item for sub in subs[:4]} == {"a.png", "b.png", "c.png", "e.png"}


def test_every_possible_square_can_be_had_and_not_one_more(images: ImageSet) -> None:
    a, b, c, e = 3 * 9, 1, 18 * 2, 5 * 4
    subs = sub_images(images, a + b + c + e, 32, seed=0)
    assert len(set(subs)) == a + b + c + e
    flat = sub_images(images, a + b + c + e, 32, seed=0, min_std=0)  # no image is decoded
    assert set(flat) == set(subs)
    for least in (0, 1):
        with pytest.raises(
            DataError, match=r"its 5 images contain 84 different squares .*expected 85"
        ):
            sub_images(images, a + b + c + e + 1, 32, seed=0, min_std=least)


def test_seed_decides(images: ImageSet) -> None:
    assert sub_images(images, 20, 32, seed=1) == sub_images(images, 20, 32, seed=1)
    assert sub_images(images, 20, 32, seed=1) != sub_images(images, 20, 32, seed=2)


def test_squares_are_spread_over_photographs_not_over_their_images(images: ImageSet) -> None:
    """a, c and e are of one photograph: together they give as many squares as each other image."""
    cut = dataclasses.replace(images, origins=dict.fromkeys(("a.png", "c.png", "e.png"), "one"))
    subs = sub_images(cut, 6, 24, seed=3)
    assert Counter(cut.source(sub.item) for sub in subs) == {"one": 2, "b.png": 2, "d.png": 2}
    assert {cut.source(sub.item) for sub in subs[:3]} == {"one", "b.png", "d.png"}
    later = sub_images(cut, 9, 24, seed=3)
    assert later[:6] == subs
    # One of each of its images before a second of any.
    assert sorted(s.item for s in later if cut.source(s.item) == "one") == [
        "a.png",
        "c.png",
        "e.png",
    ]
    assert [item.key for item in by_photograph(cut, cut.items)] == [
        *("a.png", "b.png", "d.png", "c.png", "e.png")
    ]


def test_the_same_in_another_process() -> None:
    code = (
        "import json; from dataclasses import astuple\n"
        "from fastbg.data.builtin import builtin_images\n"
        "from fastbg.data.manifests import sub_images, composite_groups\n"
        "subs = sub_images(builtin_images(), 20, 128, seed=7)\n"
        "groups = composite_groups(30, 30, 5, 10, seed=7)\n"
        "print(json.dumps([[astuple(s) for s in subs], [astuple(g) for g in groups]]))"
    )
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    ).stdout
    subs, groups = json.loads(output)
    assert [SubImage(*sub) for sub in subs] == sub_images(builtin_images(), 20, 128, seed=7)
    here = composite_groups(30, 30, 5, 10, seed=7)
    assert groups == [[g.foreground, list(g.backgrounds)] for g in here]


def test_flat_squares_are_passed_over(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[:32, :32] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = open_folder(tmp_path)
    everywhere = sub_images(images, 16, 16, seed=0, multiple=16, min_std=0)
    textured = sub_images(images, 4, 16, seed=0, multiple=16)
    assert {(sub.y, sub.x) for sub in textured} == {(0, 0), (0, 16), (16, 0), (16, 16)}
    assert set(textured) < set(everywhere)
    with pytest.raises(DataError, match=r"contain 4 different squares .*at least 4\.0 grey levels"):
        sub_images(images, 5, 16, seed=0, multiple=16)


def test_flatness_is_the_standard_deviation_of_the_square() -> None:
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    image[:8, :8] = 255
    fast = manifests._standard_deviations(image, 5)
    grey = image.astype(np.float64).mean(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (5, 5))
    assert fast.shape == (9, 13)
    np.testing.assert_allclose(fast, windows.std(axis=(2, 3)), rtol=1e-9, atol=1e-5)


def test_sizes_alone_need_no_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")

    def refuse(_: ImageItem) -> None:
        raise AssertionError("decoded an image")

    monkeypatch.setattr(ImageItem, "load", refuse)
    assert len(sub_images(open_folder(tmp_path), 3, 32, seed=0, min_std=0)) == 3


@pytest.mark.parametrize(
    ("argument", "value"), [("count", 0), ("size", -1), ("multiple", 0), ("seed", -1)]
)
def test_bad_arguments_are_named(images: ImageSet, argument: str, value: int) -> None:
    arguments = {"count": 1, "size": 16, "seed": 0, "multiple": 4} | {argument: value}
    least = "0 or more" if argument == "seed" else "at least 1"
    with pytest.raises(InvalidArgument, match=f"^{argument}: got {value}; expected {least}"):
        sub_images(images, **arguments)


def test_the_papers_groups() -> None:
    groups = composite_groups(seed=5)
    assert len({group.foreground for group in groups}) == 100
    for group in groups:
        assert 0 <= group.foreground < 150
        assert len(set(group.backgrounds)) == 99
        assert 0 <= min(group.backgrounds) <= max(group.backgrounds) < 150
    assert groups == composite_groups(seed=5)
    assert groups != composite_groups(seed=6)


def test_a_group_may_hold_every_background_and_its_own() -> None:
    for group in composite_groups(3, 4, groups=3, per_group=5):
        assert group.backgrounds == (0, 1, 2, 3)
    assert [group.backgrounds for group in composite_groups(3, 4, groups=3, per_group=1)] == [
        ()
    ] * 3


@pytest.mark.parametrize(
    ("argument", "value"),
    [("groups", 151), ("groups", 0), ("per_group", 152), ("per_group", 0), ("seed", -1)],
)
def test_impossible_groups_are_refused(argument: str, value: int) -> None:
    arguments = {"seed": 0} | {argument: value}
    with pytest.raises(InvalidArgument, match=f"^{argument}: got {value}"):
        composite_groups(**arguments)


def test_a_foreground_meets_only_backgrounds_that_it_may_meet() -> None:
    eligible = [(1, 3, 4), (0, 2)]
    for group in composite_groups(2, 5, groups=2, per_group=3, eligible=eligible):
        assert set(group.backgrounds) <= set(eligible[group.foreground])
        assert len(group.backgrounds) == 2
    with pytest.raises(InvalidArgument, match=r"^per_group: got 4; expected at most 3, as many"):
        composite_groups(2, 5, groups=2, per_group=4, eligible=eligible)


def test_loading_cuts_the_square(images: ImageSet) -> None:
    sub = SubImage("c.png", 8, 4, 32)
    pixels = load_sub_image(images, sub)
    np.testing.assert_array_equal(pixels, images["c.png"].load()[8:40, 4:36])
    pixels[:] = 0  # the caller's own copy: the cached image must not change
    assert load_sub_image(images, sub).any()


def test_an_image_stays_decoded_while_its_squares_are_cut(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED", 0)  # files of a moment ago may still change
    subs = sorted(sub_images(images, 30, 32, seed=0), key=lambda sub: sub.item)
    decoded: list[str] = []
    load = ImageItem.load

    def loaded(item: ImageItem) -> Any:
        decoded.append(item.key)
        return load(item)

    monkeypatch.setattr(ImageItem, "load", loaded)
    sets.KEPT.clear()
    for sub in subs:
        load_sub_image(images, sub)
    assert decoded == sorted({sub.item for sub in subs})
    decoded.clear()
    sub_images(images, 30, 32, seed=1)  # a plan before or after takes the same ones
    assert set(decoded).isdisjoint(sub.item for sub in subs)


def test_as_many_images_stay_decoded_as_fit() -> None:
    kept, loaded = sets.Decoded(3 * 12), list[str]()

    def get(key: str, side: int = 2) -> None:
        def load() -> Any:
            loaded.append(key)
            return np.zeros((side, side, 3), np.uint8)

        assert kept.get(key, load).shape == (side, side, 3)

    for key in "abcaada":  # d takes the place of b, which was used least lately
        get(key)
    assert loaded == [*"abcd"]
    get("large", 100)  # more than fits: alone
    get("large", 100)
    get("a")
    assert loaded == [*"abcd", "large", "a"]


def test_squares_that_cannot_be_loaded(images: ImageSet) -> None:
    with pytest.raises(DataError, match="outside its image of 32x32 pixels"):
        load_sub_image(images, SubImage("b.png", 4, 0, 32))
    with pytest.raises(DataError, match=r"has no image 'z\.png'"):
        load_sub_image(images, SubImage("z.png", 0, 0, 32))
