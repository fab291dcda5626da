"""Groups of composites: what is drawn, what it measures, what it writes."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_images, rounded_once
from torch._subclasses.fake_tensor import FakeTensorMode

from fastbg.data.builtin import builtin_images
from fastbg.data.images import ImageSet, open_folder
from fastbg.data.manifests import composite_groups
from fastbg.errors import DataError, InvalidArgument, RunStoreError
from fastbg.experiments.composites import Composites, CompositesOptions, export
from fastbg.experiments.groups import (
    GroupOptions,
    image_sets,
    plan_groups,
    sources,
)
from fastbg.experiments.study import Study
from fastbg.models.bicubic import Bicubic

SMALL = GroupOptions(size=64, region=16)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Four photographs and three textures."""
    plain = open_folder(make_images(tmp_path / "images", 7))
    return dataclasses.replace(plain, classes={f"{i}.png": "grass" for i in (1, 3, 5)})


@pytest.fixture
def study(images: ImageSet) -> Study:
    return Study(images, backend="torch")


def test_groups_are_drawn_from_both_sets_in_turn(study: Study) -> None:
    items = plan_groups(study, SMALL, "swap")
    assert [item.set for item in items[:4]] == ["natural", "OSSCD", "natural", "OSSCD"]
    assert [item.number for item in items[:4]] == [0, 0, 1, 1]
    textures = set(study.images.classes)
    for item in items:
        assert len(item.partners) == len(items[0].partners) >= 2
        assert len({p.key for p in item.partners}) == len(item.partners)
        for partner in item.partners:
            assert partner.source != item.source
            assert (partner.source in textures) == (item.set == "OSSCD")
    assert items == plan_groups(study, SMALL, "swap")
    assert items != plan_groups(dataclasses.replace(study, seed=1), SMALL, "swap")


def test_images_of_one_photograph_never_meet(study: Study) -> None:
    """Textures 1 and 3 are of one photograph: each meets the third only."""
    images = dataclasses.replace(study.images, origins={"1.png": "p", "3.png": "p"})
    small = dataclasses.replace(SMALL, size=32)
    items = plan_groups(dataclasses.replace(study, images=images), small, "swap")
    textures = [item for item in items if item.set == "OSSCD"]
    assert {item.source for item in textures} == {"p", "5.png"}
    for item in textures:
        alone = {"5.png"} if item.source == "5.png" else {"1.png", "3.png"}
        assert item.image in alone
        assert {partner.image for partner in item.partners}.isdisjoint(alone)
        assert all(partner.source != item.source for partner in item.partners)
    y0, x0, y1, x1 = textures[0].box
    whole = images[textures[0].image].load()[y0:y1, x0:x1]
    found = sources(textures[0], dataclasses.replace(study, images=images))[0]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), whole)


def test_textures_of_one_photograph_are_no_set(study: Study) -> None:
    images = dataclasses.replace(study.images, origins=dict.fromkeys(study.images.classes, "p"))
    items = plan_groups(dataclasses.replace(study, images=images), SMALL, "swap")
    assert {item.set for item in items} == {"natural"}


def test_counts_are_the_papers_where_images_allow(study: Study) -> None:
    few = dataclasses.replace(SMALL, groups=2, backgrounds=3)
    items = plan_groups(study, few, "swap")
    assert len(items) == 4
    assert {len(item.partners) for item in items} == {2}


def test_built_in_images_give_both_sets() -> None:
    sets = image_sets(builtin_images())
    assert [len(images) for images in sets.values()] == [24, 45]


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        (GroupOptions(size=62), "swap.size"),
        (GroupOptions(region=30), "swap.region"),
        (GroupOptions(region=128), "swap.region"),
        (GroupOptions(size=64, region=20), "swap.region"),
        (GroupOptions(groups=0), "swap.groups"),
        (GroupOptions(backgrounds=2), "swap.backgrounds"),
    ],
)
def test_bad_options_are_named(options: GroupOptions, argument: str, study: Study) -> None:
    with pytest.raises(InvalidArgument, match="expected") as caught:
        plan_groups(study, options, "swap")
    assert caught.value.argument == argument


def test_one_image_is_too_few(tmp_path: Path) -> None:
    study = Study(open_folder(make_images(tmp_path / "one", 1)))
    with pytest.raises(DataError, match="two or more photographs"):
        plan_groups(study, SMALL, "swap")


def test_eligible_backgrounds_only() -> None:
    groups = composite_groups(3, 6, 3, 3, seed=0, eligible=[[0, 1], [2, 3], [4, 5]])
    assert [group.backgrounds for group in groups] == [(0, 1), (2, 3), (4, 5)]
    with pytest.raises(InvalidArgument, match="per_group: got 4"):
        composite_groups(3, 6, 3, 4, seed=0, eligible=[[0, 1, 2], [2, 3], [4, 5, 0]])


def test_columns_equal_a_plain_loop(study: Study) -> None:
    experiment = Composites(CompositesOptions(size=64, region=16, groups=2, backgrounds=3))
    item = experiment.plan(study)[0]
    columns = experiment.measure(Bicubic(4), [item], study)
    hr = sources(item, study).permute(0, 2, 3, 1).numpy()
    own = rounded_once(hr[0], 4)[6:10, 6:10].astype(int)
    for k in range(3):
        image = hr[k].copy()
        image[24:40, 24:40] = hr[0, 24:40, 24:40]
        change = np.abs(rounded_once(image, 4)[6:10, 6:10].astype(int) - own)
        # In float32 a tie may round the other way: one grey level in two of 48 values, one pixel.
        assert columns["mixed"][0, k].item() == pytest.approx(change.mean(), abs=2.1 / 48)
        assert columns["touched"][0, k].item() == pytest.approx(
            (change.max(-1) > 0).mean(), abs=1.1 / 16
        )
        level = image.astype(int)
        top = np.abs(level[24, 24:40] - level[23, 24:40]).mean()
        sides = [
            np.abs(level[39, 24:40] - level[40, 24:40]).mean(),
            np.abs(level[24:40, 24] - level[24:40, 23]).mean(),
            np.abs(level[24:40, 39] - level[24:40, 40]).mean(),
        ]
        assert columns["step"][0, k].item() == pytest.approx(np.mean([top, *sides]))
    assert columns["mixed"][0, 0] == 0


def test_the_hot_loop_never_waits_for_the_device() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        experiment = Composites(CompositesOptions(size=64, region=16))
        columns = experiment.compare(torch.zeros(3, 3, 64, 64), torch.zeros(3, 3, 16, 16))
    assert all(column.shape == (3,) for column in columns.values())


def test_exported_groups(study: Study, tmp_path: Path) -> None:
    options = CompositesOptions(size=64, region=16, groups=2, backgrounds=3, exported=1)
    experiment = Composites(options)
    study = dataclasses.replace(study, folder=tmp_path / "run")
    items = experiment.plan(study)
    experiment.measure(Bicubic(4), items, study)
    place = tmp_path / "run" / "composites" / "natural" / "000"
    assert sorted(path.name for path in place.parent.iterdir()) == ["000"]
    hr = sources(items[0], study).permute(0, 2, 3, 1).numpy()
    image = np.asarray(Image.open(place / "002_hr.png"))
    assert np.array_equal(image[24:40, 24:40], hr[0, 24:40, 24:40])
    assert np.array_equal(image[:24], hr[2, :24])
    assert np.array_equal(np.asarray(Image.open(place / "002_lr.png")), rounded_once(image, 4))
    with (place / "group.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["composite"] for row in rows] == ["000", "001", "002"]
    assert rows[2]["background"] == items[0].partners[1].source
    assert {row["foreground"] for row in rows} == {items[0].source}

    (tmp_path / "file").write_text("")
    pixels = torch.zeros(3, 3, 4, 4)
    with pytest.raises(RunStoreError, match="composites cannot be written"):
        export(items[0], pixels, pixels, tmp_path / "file")
