"""The built-in images: pixels, credits, classes, and which of them are of one photograph."""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from fastbg.data.builtin import IMAGES, builtin_images
from fastbg.data.images import OST_CLASSES
from fastbg.experiments.composites import Composites
from fastbg.experiments.experiment import Experiment
from fastbg.experiments.gram import Gram
from fastbg.experiments.inward import Inward
from fastbg.experiments.mosaic import Mosaic
from fastbg.experiments.ring import Ring
from fastbg.experiments.slicing import Slicing
from fastbg.experiments.study import Item, Study
from fastbg.experiments.surroundings import Surroundings
from fastbg.experiments.swap import Swap
from fastbg.experiments.table1 import Table1

BLOCK = 16  # pixels a side of the squares that are looked for in other images

# Textures that show some of the same pixels of one photograph; only the first at the same scale.
ALIKE = {
    ("grass/teagrass", "plant/tea"),
    ("mountain/aitz", "sky/aitz_sky"),
    ("mountain/sherburne", "sky/sherburne_sky"),
}
GROUPS = (Composites, Swap, Gram)
NESTED = (Ring, Inward)
OTHERS = (Surroundings, Slicing, Table1, Mosaic)


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((IMAGES / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def pixels() -> dict[str, NDArray[np.uint8]]:
    return {item.key: item.load() for item in builtin_images().items}


@pytest.fixture(scope="module")
def plans() -> dict[type[Experiment], list[Item]]:
    """The default plan of each experiment."""
    study = Study(builtin_images(), backend="torch")
    return {kind: kind().plan(study) for kind in (*GROUPS, *NESTED, *OTHERS)}


def test_every_image_has_the_pixels_of_the_manifest(
    entries: list[dict[str, Any]], pixels: dict[str, NDArray[np.uint8]]
) -> None:
    assert [f"{key}.webp" for key in pixels] == [entry["file"] for entry in entries]
    for image, entry in zip(pixels.values(), entries, strict=True):
        side = 320 if entry["file"].startswith("photographs/") else 256
        assert image.shape == (side, side, 3)
        assert entry["crop"][2:] == [side, side]
        assert hashlib.sha256(image.tobytes()).hexdigest() == entry["sha256_of_pixels"]


def test_nothing_but_these_images_is_shipped(entries: list[dict[str, Any]]) -> None:
    files = {path.relative_to(IMAGES).as_posix() for path in IMAGES.rglob("*.*")}
    assert files == {entry["file"] for entry in entries} | {"manifest.json", "CREDITS.md"}
    assert sum(path.stat().st_size for path in IMAGES.rglob("*.webp")) <= 8_000_000


def test_counts_and_classes(entries: list[dict[str, Any]]) -> None:
    images = builtin_images()
    assert len(images) == len(entries) == 69
    counts = Counter(images.classes.values())
    assert set(counts) == set(OST_CLASSES)
    assert sum(counts.values()) == 45
    assert min(counts.values()) >= 4
    assert len({entry["sha256_of_pixels"] for entry in entries}) == 69


def test_every_image_is_credited(entries: list[dict[str, Any]]) -> None:
    """The manifest says what CREDITS.md says: licence, author where known, origin."""
    text = (IMAGES / "CREDITS.md").read_text(encoding="utf-8")
    credited = {}
    for part in text.split("\n## ")[1:]:
        heading, *lines = part.splitlines()
        for line in lines:
            if line.startswith("- "):
                file, _, origin = line[2:].partition(": ")
                assert file not in credited
                credited[file] = heading, origin
    kodak = [entry for entry in entries if entry["file"].startswith("photographs/")]
    assert [entry["file"] for entry in kodak] == [
        f"photographs/kodim{number:02}.webp" for number in range(1, 25)
    ]
    for entry in kodak:
        assert (entry["author"], entry["licence"]) == (
            "Eastman Kodak Company",
            "released for unrestricted use",
        )
    assert "released by Eastman Kodak Company for unrestricted use" in text
    assert "kodim01 to kodim24 of the Kodak Lossless True Color Image Suite" in text
    textures = [entry for entry in entries if entry not in kodak]
    assert {entry["file"] for entry in textures} == credited.keys()
    for entry in textures:
        assert entry["licence"] in ("CC0", "CC-BY-4.0")
        assert entry["author"] or entry["licence"] == "CC0"  # BY: its author must be named
        rights = " ".join(filter(None, (entry["licence"], entry["author"])))
        assert credited[entry["file"]] == (f"{rights} ({entry['found_in']})", entry["origin"])


def test_a_photograph_is_one_cluster(entries: list[dict[str, Any]]) -> None:
    images = builtin_images()
    assert {key: images.source(key) for key in images.origins} == {
        entry["file"].removesuffix(".webp"): entry["origin"] for entry in entries
    }
    textures = Counter(images.source(key) for key in images.classes)
    photographs = {images.source(i.key) for i in images.items if i.key not in images.classes}
    assert len(textures) == 33
    assert sum(count > 1 for count in textures.values()) == 9
    assert len(photographs) == 24
    assert photographs.isdisjoint(textures)


def test_only_the_known_textures_share_pixels(
    entries: list[dict[str, Any]], pixels: dict[str, NDArray[np.uint8]]
) -> None:
    """By where they were cut, in parts of the photograph's width; at any scale."""
    images = builtin_images()
    cut = defaultdict(list)
    for entry in entries:
        y, x, height, width = entry["crop"]
        whole = entry.get("scaled_width") or 1
        box = np.array([y, x, y + height, x + width]) / whole
        cut[entry["origin"]].append((entry["file"].removesuffix(".webp"), box))
    found = set()
    for several in cut.values():
        for (a, first), (b, second) in itertools.combinations(several, 2):
            overlap = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
            if (overlap > 0).all():
                found.add((a, b))
                assert images.source(a) == images.source(b)
    assert found == ALIKE


def test_no_square_of_an_image_is_in_another(pixels: dict[str, NDArray[np.uint8]]) -> None:
    """Whatever the manifest says: squares of 16 x 16 pixels, exact, at the same scale."""
    where = [(key, hashes(image)) for key, image in pixels.items()]
    owner = np.concatenate([np.full(len(found), n) for n, (_, found) in enumerate(where)])
    values = np.concatenate([found for _, found in where])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    same = np.flatnonzero((values[1:] == values[:-1]) & (owner[1:] != owner[:-1]))
    pairs = {(where[owner[i]][0], where[owner[i + 1]][0]) for i in same}
    assert pairs == {("grass/teagrass", "plant/tea")}


def hashes(image: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One number of each square of `BLOCK` pixels that is not flat."""
    colour = image.astype(np.uint64) @ np.array([1, 1 << 8, 1 << 16], np.uint64)
    mixed = (colour + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    weights = np.random.default_rng(0).integers(1, 1 << 63, (2, BLOCK), dtype=np.uint64)
    count = len(image) - BLOCK + 1
    rows = np.add.reduce([w * mixed[k : k + count] for k, w in enumerate(weights[0])])
    rows ^= rows >> np.uint64(31)
    square = np.add.reduce([w * rows[:, k : k + count] for k, w in enumerate(weights[1])])
    grey, place = image[..., 1], {"size": BLOCK, "origin": -BLOCK // 2}
    spread = maximum_filter(grey, **place) - minimum_filter(grey, **place)
    found: NDArray[np.uint64] = square[spread[:count, :count] > 8]
    return found


@pytest.mark.parametrize("kind", [*GROUPS, *NESTED, *OTHERS])
def test_each_experiment_has_twenty_photographs_of_each_kind(
    kind: type[Experiment], plans: dict[type[Experiment], list[Item]]
) -> None:
    textures = builtin_images().classes
    sources: dict[bool, set[str]] = {True: set(), False: set()}
    for item in plans[kind]:
        assert item.source == builtin_images().source(item.image)
        sources[item.image in textures].add(item.source)
    assert len(sources[False]) >= 20
    assert len(sources[True]) >= 20


def test_composites_are_those_of_swap(plans: dict[type[Experiment], list[Item]]) -> None:
    assert plans[Composites] == plans[Swap] == plans[Gram]
    assert sum(1 + len(item.partners) for item in plans[Composites]) == 960


@pytest.mark.parametrize("kind", [Surroundings, Table1, Mosaic])
def test_each_photograph_is_measured_once(
    kind: type[Experiment], plans: dict[type[Experiment], list[Item]]
) -> None:
    assert len(plans[kind]) == len({item.source for item in plans[kind]}) == 57


@pytest.mark.parametrize("kind", [*GROUPS, *NESTED])
def test_foreign_content_is_of_another_photograph(
    kind: type[Experiment], plans: dict[type[Experiment], list[Item]]
) -> None:
    for item in plans[kind]:
        for partner in item.partners:
            assert partner.source == builtin_images().source(partner.image)
            assert partner.source != item.source
            if kind in GROUPS:
                assert (partner.image in builtin_images().classes) == (item.set == "OSSCD")
