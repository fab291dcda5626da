"""What a result gives: arrays, a file, what a notebook shows, the area of contribution."""

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastbg
from fastbg.attribution.diffusion import contribution_area
from fastbg.errors import DataError, InvalidArgument
from fastbg.models.edsr import EDSR

WINDOWS = [(24, 30, 16), (0, 0, 8)]


@pytest.fixture(scope="module")
def result() -> fastbg.AttributionResult:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 20, 24)
    lam = fastbg.LocalAttribution(EDSR(features=4, blocks=1))
    return lam.attribute(image, WINDOWS, 3, return_convergence_delta=True)


def test_arrays_have_the_fields(result: fastbg.AttributionResult) -> None:
    arrays = result.to_numpy()
    assert arrays["attribution"].shape == (2, 3, 20, 24)
    np.testing.assert_array_equal(arrays["map"], result.map.numpy())
    np.testing.assert_allclose(arrays["diffusion_index"], 100 * (1 - arrays["gini"]))
    assert arrays["windows"].tolist() == [list(window) for window in WINDOWS]
    assert arrays["scale"] == 4


def test_bfloat16_has_arrays_too(result: fastbg.AttributionResult) -> None:
    half = fastbg.AttributionResult(
        result.attribution, result.images.bfloat16(), result.windows, 4, 3
    )
    assert half.to_numpy()["images"].dtype == np.float32


def test_a_file_holds_all_of_it(result: fastbg.AttributionResult, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.any"
    result.save(path)
    back = fastbg.AttributionResult.load(path)
    for name in ("attribution", "images", "windows", "convergence_delta"):
        assert torch.equal(getattr(back, name), getattr(result, name)), name
    assert (back.scale, back.passes) == (result.scale, result.passes)
    assert torch.equal(back.diffusion_index, result.diffusion_index)
    assert [p.name for p in path.parent.iterdir()] == ["result.any"]
    with np.load(path) as stored:
        assert "gini" in stored


class Trap:
    """Unpickled, it would raise."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise AssertionError('ran')",))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "cannot be read"),
        (lambda path: path.write_bytes(pickle.dumps(Trap())), "cannot be read"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "cannot be read"),
        (lambda path: np.savez(path.open("wb"), images=np.zeros(3)), "holds no attribution"),
        (
            lambda path: np.savez(path.open("wb"), attribution=np.array([Trap()], dtype=object)),
            "cannot be read",
        ),
        (
            lambda path: np.savez(
                path.open("wb"), attribution=np.zeros((1, 3, 4, 4)), images=np.zeros((1, 3, 5, 4)),
                windows=np.zeros((1, 3), np.int64), scale=4, passes=1,
            ),
            r"images of shape \(1, 3, 5, 4\); expected \(1, 3, 4, 4\)",
        ),
        (
            lambda path: np.savez(
                path.open("wb"), attribution=np.zeros((1, 3, 4, 4)), images=np.zeros((1, 3, 4, 4)),
                windows=np.zeros((1, 2), np.int64), scale=4, passes=1,
            ),
            r"windows of shape \(1, 2\); expected \(1, 3\) or \(1, 4\)",
        ),
        (
            lambda path: np.savez(
                path.open("wb"), attribution=np.zeros((1, 3, 4, 4)), images=np.zeros((1, 3, 4, 4)),
                windows=np.zeros((1, 3), np.int64), scale=np.zeros(2), passes=1,
            ),
            "scale",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:unclosed file")
def test_other_files_are_refused(write: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "result.npz"
    write(path)
    with pytest.raises(DataError, match=rf"result\.npz: .*{message}"):
        fastbg.AttributionResult.load(path)


WRONG: dict[str, tuple[tuple[Any, str], ...]] = {
    "attribution": (
        (np.zeros((2, 3, 20, 24), np.complex64), "attribution of type complex64"),
        (np.zeros((2, 3, 20, 24), "U4"), "attribution of type <U4"),
        (np.full((2, 3, 20, 24), np.nan), "attribution with NaN or infinity"),
        (np.zeros(24), r"attribution of shape \(24,\); expected"),
    ),
    "images": ((np.full((2, 3, 20, 24), np.inf), "images with NaN or infinity"),),
    "windows": (
        (np.array(WINDOWS) * 1.0, "windows of type float64"),
        (np.array([(24, 30, 16), (-1, 0, 8)]), "windows that are empty or not inside of 80x96"),
        (np.array([(24, 30, 16), (0, 0, 0)]), "windows that are empty or not inside of 80x96"),
        (np.array([(24, 30, 16), (2**62, 0, 8)]), "windows that are empty or not inside"),
    ),
    "scale": (
        (0, "scale 0, expected at least 1"),
        (-4, "scale -4"),
        (1, "windows .* not inside of 20x24"),
    ),
    "passes": ((-1, "passes -1, expected at least 0"), (2.0, "a passes that is no whole number")),
    "convergence_delta": ((np.array([np.nan, 0]), "convergence_delta with NaN"),),
    "unexplained": ((np.zeros(2), "unexplained of type float64"),),
    "aggregation": ((np.array("sum"), "the aggregation 'sum'"),),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_with_another_field_is_refused(
    name: str, result: fastbg.AttributionResult, tmp_path: Path
) -> None:
    path = tmp_path / "result.npz"
    for wrong, said in WRONG[name]:
        np.savez(path, **(result.to_numpy() | {name: np.asarray(wrong)}))
        with pytest.raises(DataError, match=rf"result\.npz: holds {said}.*; expected a file that"):
            fastbg.AttributionResult.load(path)


def test_integers_of_another_size_are_read(
    result: fastbg.AttributionResult, tmp_path: Path
) -> None:
    path = tmp_path / "result.npz"
    arrays = result.to_numpy()
    for name in ("windows", "scale", "passes"):
        np.savez(path, **(arrays | {name: arrays[name].astype(np.uint64)}))
        back = fastbg.AttributionResult.load(path)
        assert back.boxes.tolist() == result.boxes.tolist()
        assert (back.scale, back.passes) == (4, result.passes)


def test_a_picture_is_not_what_save_writes(
    result: fastbg.AttributionResult, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match=r"path: got .*map\.png; expected a file of arrays"):
        result.save(tmp_path / "map.png")
    assert not any(tmp_path.iterdir())


def test_a_notebook_shows_numbers_and_a_picture(result: fastbg.AttributionResult) -> None:
    html = result._repr_html_()
    assert html.count("<tr>") == 3
    assert "<td>24:40, 30:46</td>" in html
    assert f"<td>{float(result.diffusion_index[0]):.2f}</td>" in html
    assert re.search(r'<img [^>]*src="data:image/png;base64,iVBOR', html)
    assert result._repr_png_()[:4] == b"\x89PNG"
    assert repr(result) == "AttributionResult(2 maps, attribution (2, 3, 20, 24), x4)"
    one = dataclasses.replace(
        result, attribution=result.attribution[:1], windows=result.windows[:1]
    )
    assert repr(one).startswith("AttributionResult(1 map, ")
    assert "<p>1 attribution</p>" in one._repr_html_()


def test_a_notebook_shows_a_grid_and_nothing(result: fastbg.AttributionResult) -> None:
    lam = fastbg.LocalAttribution(EDSR(features=4, blocks=1))
    grid = lam.attribute(torch.rand(2, 3, 12, 12), torch.tensor([[[0, 0, 8]] * 8] * 2), 2)
    html = grid._repr_html_()
    assert html.count("<tr>") == 13
    assert "and 4 more" in html
    empty = lam.attribute(torch.rand(0, 3, 12, 12), (0, 0, 8), 2)
    assert empty._repr_png_() is None
    assert "0 attributions" in empty._repr_html_()


def test_area_is_the_fewest_pixels() -> None:
    maps = torch.zeros(3, 4, 5)
    maps[0, 1, 1:4] = torch.tensor([0.625, 1.0, 0.375])
    maps[1] = 1
    assert contribution_area(maps, 0.5).tolist() == [1, 10, 0]
    assert contribution_area(maps, 0.75).tolist() == [2, 15, 0]
    assert contribution_area(maps, 0.82).tolist() == [3, 17, 0]
    assert contribution_area(maps, 1).tolist() == [3, 20, 0]
    for share in (0, 1.5, float("nan")):
        with pytest.raises(InvalidArgument, match="share"):
            contribution_area(maps, share)


def test_public_names_do_a_whole_example(tmp_path: Path) -> None:
    """No example needs to import from inside."""
    image = fastbg.open_images()["photographs/kodim05"].load()
    assert image.shape == (320, 320, 3)
    Image.fromarray(image[:64, :48]).save(tmp_path / "a.png")
    (item,) = fastbg.open_images(tmp_path).items
    lr = fastbg.downsample(item.load(), 4)
    assert lr.shape == (16, 12, 3)
    sr, hr = torch.rand(2, 1, 3, 16, 16)
    assert fastbg.psnr(sr, sr).isinf().all()
    assert fastbg.ssim(sr, hr) < 1
    net = EDSR(features=4, blocks=1).eval()
    (score,) = fastbg.evaluate([net], fastbg.open_images(tmp_path))
    assert score.image == "a.png"
    assert callable(fastbg.train)
    assert {"open_images", "downsample", "psnr", "ssim", "evaluate", "train"} <= set(dir(fastbg))
