"""What is given as a path and is none is refused by name; str and any os.PathLike are taken."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastbg
from fastbg.attribution.archive import read_arrays
from fastbg.data.files import image_size, read_image
from fastbg.data.images import open_folder
from fastbg.data.readable import open_readable
from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.given_path import file_to_write, path_of
from fastbg.models.edsr import EDSR
from fastbg.runs.records import read_run
from fastbg.runs.store import RunStore

PIXELS = np.zeros((2, 2, 1, 2, 2, 3), np.uint8)
NO_FINE = np.zeros((0, 2), np.int64), np.zeros((0, 1, 2, 2, 3), np.uint8)


def small_net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=4, blocks=1).eval().requires_grad_(False)


def no_images() -> list[Any]:
    raise AssertionError("the path is looked at before any image is")


def run(path: Any, name: str) -> object:
    return fastbg.run_experiments({"net": small_net()}, ["table1"], **{name: path})


class Bytes(os.PathLike[Any]):
    """A path that is bytes, such as an entry of os.scandir(b".")."""

    def __fspath__(self) -> bytes:
        return b"here"


class Number(os.PathLike[Any]):
    """A path that is no text at all."""

    def __fspath__(self) -> int:
        return 3


READ: dict[str, tuple[str, Callable[[Any], object]]] = {
    "load_model": ("name_or_path", fastbg.load_model),
    "open_images": ("path", fastbg.open_images),
    "open_folder": ("path", open_folder),
    "open_readable": ("path", open_readable),
    "read_image": ("path", read_image),
    "image_size": ("path", image_size),
    "read_arrays": ("path", read_arrays),
    "AttributionResult.load": ("path", fastbg.AttributionResult.load),
    "CausalEffectResult.load": ("path", fastbg.CausalEffectResult.load),
    "Interventions.load": ("path", fastbg.Interventions.load),
    "run_experiments, data": ("data", lambda path: run(path, "data")),
    "run_experiments, out": ("out", lambda path: run(path, "out")),
    "RunStore.read": ("folder", RunStore.read),
    "RunStore.open": ("folder", lambda path: RunStore.open(path, {})),
    "read_run": ("folder", read_run),
}
WRITTEN: dict[str, tuple[str, Callable[[Any], object]]] = {
    "save_model": ("path", lambda path: fastbg.save_model(fastbg.load_model("edsr"), path)),
    "Interventions.save": ("path", lambda path: fastbg.Interventions(PIXELS, *NO_FINE).save(path)),
    "AttributionResult.save": ("path", lambda path: attribution().save(path)),
    "train": (
        "checkpoint",
        lambda path: fastbg.train(small_net(), no_images, fastbg.TrainConfig(), path),
    ),
}

MAY_BE_NONE = {"open_images", "run_experiments, data"}


def attribution() -> fastbg.AttributionResult:
    return fastbg.LocalAttribution(small_net()).attribute(torch.rand(1, 3, 8, 8), (0, 0, 8), 1)


@pytest.mark.parametrize(
    "value",
    [b"here", 3, 2.5, ["here"], np.zeros(100), Bytes(), Number(), "", "a\0b", "\ud800"],
    ids=["bytes", "int", "float", "list", "array", "entry", "number", "empty", "NUL", "surrogate"],
)
@pytest.mark.parametrize("name", [*READ, *WRITTEN])
def test_what_is_no_path_is_refused_by_name(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument, call = (READ | WRITTEN)[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidArgument, match=rf"^{argument}: got .*; expected a path: str or"
    ) as e:
        call(value)
    assert len(str(e.value)) < 200
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name", sorted({*READ, *WRITTEN} - {"open_images", "run_experiments, data"})
)
def test_none_is_refused_where_it_has_no_meaning(name: str) -> None:
    argument, call = (READ | WRITTEN)[name]
    with pytest.raises(InvalidArgument, match=rf"^{argument}: got None \(NoneType\); expected a p"):
        call(None)


@pytest.mark.parametrize("name", [*READ, *WRITTEN])
def test_an_open_file_is_refused(name: str, tmp_path: Path) -> None:
    argument, call = (READ | WRITTEN)[name]
    refused = pytest.raises(InvalidArgument, match=rf"^{argument}: .*\(BufferedWriter\); expected")
    with (tmp_path / "open").open("wb") as file, refused:
        call(file)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_is_no_file_to_write(name: str, tmp_path: Path) -> None:
    argument, call = WRITTEN[name]
    with pytest.raises(InvalidArgument, match=rf"^{argument}: .*expected a file to write; this is"):
        call(tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", sorted({*WRITTEN} - {"train"}))
def test_a_name_that_is_too_long_is_an_error_of_writing(name: str, tmp_path: Path) -> None:
    _, call = WRITTEN[name]
    expected = CheckpointError if name == "save_model" else OSError
    with pytest.raises(expected, match="File name too long"):
        call(tmp_path / ("x" * 300))
    assert not [*tmp_path.iterdir()]


def test_a_path_like_object_is_taken(tmp_path: Path) -> None:
    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "made.npz")

    fastbg.Interventions(PIXELS, *NO_FINE).save(Named())
    assert np.array_equal(fastbg.Interventions.load(Named()).coarse, PIXELS)
    assert path_of("path", Named()) == file_to_write("path", Named()) == tmp_path / "made.npz"


def test_bytes_of_the_locale_are_taken(tmp_path: Path) -> None:
    """A name that is no UTF-8 is a str with surrogates, which stand for its bytes."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.npz")
    fastbg.Interventions(PIXELS, *NO_FINE).save(name)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.npz"]


def test_evaluate_takes_image_sets_and_no_paths(tmp_path: Path) -> None:
    for given in ({"images": str(tmp_path)}, {"images": fastbg.open_images(), "lr": tmp_path}):
        with pytest.raises(InvalidArgument, match="expected an image set, as open_images gives"):
            next(iter(fastbg.evaluate([small_net()], **given)))  # type: ignore[arg-type]
