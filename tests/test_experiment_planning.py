"""What every experiment stands on: options, items, inputs, pictures; plans and their cost."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import save

from fastbg.data.files import read_image
from fastbg.data.images import open_folder
from fastbg.errors import InvalidArgument
from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.composites import Composites, CompositesOptions
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image
from fastbg.models.bicubic import Bicubic
from fastbg.runs.records import stored_options
from fastbg.runs.store import RunStore

SMALL = CompositesOptions(size=32, region=16, exported=0)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Nine images of 32 pixels, each with an LR image of other noise."""
    for number in range(9):
        save(tmp_path / f"HR/{number}.png", 32, 32, seed=number)
        save(tmp_path / f"LR/{number}.png", 8, 8, seed=100 + number)
    return Study(open_folder(tmp_path), backend="torch")


def group(study: Study, first: int, *others: int) -> Item:
    made = [Item(str(i), f"{i}.png", (0, 0, 32, 32)) for i in (first, *others)]
    return replace(made[0], partners=tuple(made[1:]))


def test_pictures_are_clipped_and_rounded() -> None:
    values = torch.tensor([-0.3, 0.0, 0.4999, 0.6, 1.0, 1.7]).reshape(1, 2, 3).repeat(3, 1, 1)
    expected = np.array([0, 0, 127, 153, 255, 255], np.uint8).reshape(2, 3, 1).repeat(3, 2)
    np.testing.assert_array_equal(as_image(values), expected)
    levels = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    np.testing.assert_array_equal(as_image(levels), levels.permute(1, 2, 0).numpy())


def test_paired_inputs_are_the_same_region_of_the_sets_own_images(study: Study) -> None:
    items = [Item("a", "3.png", (8, 16, 24, 32)), Item("b", "5.png", (0, 4, 16, 20))]
    found = study.inputs(items, study.ground_truth(items), "paired", "matlab")
    for image, name, (y, x) in zip(found, ("3.png", "5.png"), ((2, 4), (0, 1)), strict=True):
        own = read_image(study.images[name].path.parent.parent / "LR" / name)
        np.testing.assert_array_equal(as_image(image), own[y : y + 4, x : x + 4])


@dataclass(frozen=True)
class Example(Options):
    """Two numbers."""

    free: int = option(3, "any whole number")
    bounded: float = option(0.5, "a share", low=0, high=1)


def test_options_without_a_range_take_every_number() -> None:
    declared = Example.declared()
    assert (declared["free"].low, declared["free"].high) == (-np.inf, np.inf)
    assert (declared["bounded"].low, declared["bounded"].high) == (0, 1)
    assert Example.parse({"free": "-1000000"}, "some").free == -1_000_000
    for value in (-0.1, 1.1):
        with pytest.raises(InvalidArgument, match=rf"^some\.bounded: got {value}"):
            Example(bounded=value).check("some")
    Example(bounded=1).check("some")
    with pytest.raises(InvalidArgument, match=r"^some\.free: got 'three'"):
        Example.parse({"free": "three"}, "some")


def test_an_option_is_a_field_with_its_declaration() -> None:
    """Called here: where classes are made it runs before a test begins."""
    field: Any = option(3, "so many", low=1, high=9, before=2, some="a word")
    assert field.default == 3
    about = {"meaning": "so many", "low": 1, "high": 9, "before": 2, "choices": {"some": "a word"}}
    assert dict(field.metadata) == about


@dataclass(frozen=True)
class Grown(Options):
    """Options of an experiment, two of which were added after its first runs."""

    old: int = option(1, "as old as the experiment")
    same: int = option(2, "the default is what was done before", before=2)
    other: str = option("new", "the default is something new", before="old")


def test_options_added_after_a_run_count_as_what_was_done_before(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, config={}, seeds={"seed": 0}, manifest=None) as store:
        store.remember("options grown", lambda: {"old": 5, "lr": "made"})
        found = stored_options(store, "grown", Grown)
        assert found == {"old": 5, "lr": "made", "same": 2, "other": "old"}
        store.remember("options recent", lambda: {"old": 5, "same": 7, "other": "new"})
        assert stored_options(store, "recent", Grown) == {"old": 5, "same": 7, "other": "new"}


def test_what_was_done_before_an_option_is_one_of_its_values() -> None:
    for kind in EXPERIMENTS.values():
        for declared in kind.options_type.declared().values():
            if declared.before is not None:
                declared.check(declared.before, kind.name)


def test_the_cost_of_composites_is_their_number(study: Study) -> None:
    work = Composites(SMALL, 0).work([group(study, 0, 1, 2), group(study, 3)], study)
    assert (work.forwards, work.composites) == (0, 4)


def test_a_composite_that_changes_one_value_of_the_foreground() -> None:
    """Of 4x4 LR pixels and 3 channels."""
    lr = torch.zeros(3, 3, 8, 8)
    lr[1, 2, 3, 4] = 1
    lr[2] = 1
    found = Composites(SMALL, 0).compare(torch.zeros(3, 3, 32, 32), lr)
    assert found["touched"].tolist() == [0, 1 / 16, 1]
    assert found["mixed"].tolist() == pytest.approx([0, 255 / 48, 255])
    assert found["step"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("foreign", [1, 2, 8])
def test_pictures_show_backgrounds_spread_over_the_group(study: Study, foreign: int) -> None:
    """The own background first, then the group's first to last."""
    item = group(study, 0, *range(1, foreign + 1))
    shown = list(Composites(SMALL, 0).exhibit(Bicubic(4), item, study).items())
    pictures = dict(shown)
    corner = {name: picture[0, 0].tolist() for name, picture in pictures.items()}
    own = {tuple(read_image(study.images[f"{i}.png"].path)[0, 0].tolist()): i for i in range(9)}
    seen = [own[tuple(value)] for value in corner.values()]
    assert seen[:2] == [0, 1]
    assert seen[-1] == foreign
    assert seen == sorted(set(seen))
    centre = read_image(study.images["0.png"].path)[8:24, 8:24]
    for picture in pictures.values():
        np.testing.assert_array_equal(picture[8:24, 8:24], centre)
