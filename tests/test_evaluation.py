"""Scores of a benchmark folder: the field's conventions, every way to get LR images, bad input."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from small_run import make_rcan
from torch import nn

import fastbg
from fastbg.cli import main
from fastbg.data.degradation import downsample
from fastbg.data.images import open_folder
from fastbg.errors import DataError, InvalidArgument
from fastbg.evaluation import Score, evaluate, mean_scores
from fastbg.measures import strips
from fastbg.measures.quality import grey_levels, psnr, ssim
from fastbg.models.bicubic import Bicubic
from fastbg.models.checkpoints import save_model
from fastbg.models.edsr import EDSR


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth structures and noise, 8 bit."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None] / 9.0
    waves = 127 + 90 * np.sin(y + np.arange(3)) * np.cos(x * 1.3)
    return (waves + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for i, size in enumerate([(48, 40), (45, 63)]):
        Image.fromarray(picture(*size, seed=i)).save(images / f"img_{i}.png")
    return images


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_ssim_equals_scikit_image(channel: str) -> None:
    x, y = (torch.from_numpy(picture(40, 33, s)).permute(2, 0, 1)[None] / 255 for s in (0, 1))
    expected = []
    for a, b in zip(*(grey_levels(image, channel)[0].numpy() for image in (x, y)), strict=True):
        _, similarity = structural_similarity(
            a,
            b,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        expected.append(similarity[5:-5, 5:-5].mean())
    assert ssim(x, y, channel=channel).item() == pytest.approx(np.mean(expected), abs=1e-9)
    assert ssim(x, x, channel=channel).item() == 1.0


def test_ssim_of_a_window_and_a_batch() -> None:
    x, y = (torch.from_numpy(picture(40, 40, s)).permute(2, 0, 1)[None] / 255 for s in (0, 1))
    batch = ssim(torch.cat([x, y]), torch.cat([y, y]), window=(4, 8, 36, 40), shave=2)
    alone = ssim(x[..., 6:34, 10:38], y[..., 6:34, 10:38])
    torch.testing.assert_close(batch, torch.stack([alone[0], torch.ones(()).double()]))
    with pytest.raises(InvalidArgument, match="window: got 10x40 pixels"):
        ssim(x, y, window=(0, 0, 10, 40))
    with pytest.raises(InvalidArgument, match="sr"):
        ssim(x, y[..., :30])


def test_bicubic_equals_matlab(shared: Path) -> None:
    with np.load(shared / "golden" / "bicubic.npz") as stored:
        lr, expected = stored["lr_matlab"], stored["sr_matlab_upsampled"]
    sr = Bicubic(4)(torch.from_numpy(lr).permute(2, 0, 1)[None])
    np.testing.assert_allclose(sr[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "published"), [("Set5", 28.42), ("Set14", 26.1)])
def test_bicubic_has_its_published_score(name: str, published: float, shared: Path) -> None:
    images = open_folder(shared / "data" / "eval" / name)
    (mean,) = mean_scores(list(evaluate([Bicubic(4)], images, channel="y")))
    assert mean.psnr == pytest.approx(published, abs=0.02)


def test_every_network_on_every_image(folder: Path) -> None:
    blurred = fastbg.wrap(nn.Upsample(scale_factor=4, mode="nearest"), scale=4, name="nearest")
    scores = list(evaluate([Bicubic(4), blurred], open_folder(folder), channel="y"))
    assert [(s.image, s.model) for s in scores] == [
        ("img_0.png", "bicubic"),
        ("img_0.png", "nearest"),
        ("img_1.png", "bicubic"),
        ("img_1.png", "nearest"),
    ]
    bicubic, nearest = mean_scores(scores)
    assert (bicubic.model, bicubic.image) == ("bicubic", "mean of 2")
    assert bicubic.psnr == pytest.approx((scores[0].psnr + scores[2].psnr) / 2)
    assert nearest.psnr < bicubic.psnr
    assert nearest.ssim < bicubic.ssim


def test_given_lr_images_are_used(folder: Path, tmp_path: Path) -> None:
    lr = tmp_path / "lr"
    lr.mkdir()
    for i, name in enumerate(["img_0.png", "img_1x4.png"]):
        hr = np.array(Image.open(folder / f"img_{i}.png"))
        small = downsample(hr[: len(hr) // 4 * 4, : hr.shape[1] // 4 * 4], 4, "pil")
        Image.fromarray(small).save(lr / name)
    models, images = [Bicubic(4)], open_folder(folder)
    given = list(evaluate(models, images, lr=open_folder(lr)))
    assert given == list(evaluate(models, images, kernel="pil"))
    assert given != list(evaluate(models, images))

    with pytest.raises(InvalidArgument, match="kernel: got 'pil'"):
        list(evaluate(models, images, lr=open_folder(lr), kernel="pil"))
    Image.fromarray(picture(9, 12)).save(lr / "img_0.png")
    with pytest.raises(DataError, match=r"img_0\.png: is 9x12; expected 1/4 of 48x40"):
        list(evaluate(models, images, lr=open_folder(lr)))
    (lr / "img_0.png").unlink()
    with pytest.raises(DataError, match=r"lr: has no LR image x4 named like img_0\.png"):
        list(evaluate(models, images, lr=open_folder(lr)))


def test_the_datasets_own_lr_images_come_first(tmp_path: Path) -> None:
    (tmp_path / "HR").mkdir()
    (tmp_path / "LR_bicubic" / "X4").mkdir(parents=True)
    hr = picture(64, 48)
    Image.fromarray(hr).save(tmp_path / "HR" / "a.png")
    Image.fromarray(downsample(hr, 4, "pil")).save(tmp_path / "LR_bicubic" / "X4" / "ax4.png")
    images, models = open_folder(tmp_path), [Bicubic(4)]
    own = list(evaluate(models, images))
    assert own == list(evaluate(models, images, kernel="pil"))
    assert own != list(evaluate(models, images, kernel="matlab"))


def test_networks_of_several_scales(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"models: got scales \[2, 4\]"):
        next(evaluate([Bicubic(4), Bicubic(2)], open_folder(folder)))


def test_a_network_alone_is_no_list(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"models: got the network .*; expected a list"):
        next(fastbg.evaluate(fastbg.load_model("edsr"), fastbg.open_images(folder)))  # type: ignore[arg-type]


def test_networks_of_one_name_are_refused(folder: Path) -> None:
    """Their scores would be averaged as those of one network."""
    two = [EDSR(features=4, blocks=1).eval() for _ in range(2)]
    with pytest.raises(InvalidArgument, match=r"models: got names \['edsr', 'edsr'\]"):
        next(evaluate(two, open_folder(folder)))
    two[1].name = "other"
    assert [score.model for score in evaluate(two, open_folder(folder))][:2] == ["edsr", "other"]


def test_mean_scores_keep_the_networks_order() -> None:
    scores = [Score("b", "1", 30.0, 0.5), Score("a", "1", 20.0, 0.5), Score("b", "2", 32.0, 0.7)]
    assert mean_scores(scores) == [
        Score("b", "mean of 2", 31.0, pytest.approx(0.6)),
        Score("a", "mean of 1", 20.0, 0.5),
    ]


def test_the_command_prints_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "mine.safetensors"
    fastbg.save_model(EDSR(features=4, blocks=1), weights)
    options = ["--model", str(weights), "--data", str(folder), "--channel", "rgb", "--shave", "2"]
    assert main(["evaluate", *options]) == 0
    printed = capsys.readouterr().out
    assert "PSNR rgb, dB" in printed
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ["bicubic", "mine"]
    expected = mean_scores(
        list(evaluate([Bicubic(4)], open_folder(folder), channel="rgb", shave=2))
    )
    assert float(rows[0][2]) == pytest.approx(expected[0].psnr, abs=0.005)


def test_networks_of_one_name_keep_their_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two weights files of the same name in two folders are two networks."""
    files = [tmp_path / name / "mine.safetensors" for name in ("old", "new")]
    for path in files:
        save_model(EDSR(features=4, blocks=1), path)
    assert main(["evaluate", "--data", str(folder), "--model", *map(str, files)]) == 0
    table = capsys.readouterr().out.splitlines()[-5:]
    assert [row.split()[1] for row in table if "mine" in row] == ["mine", "mine"]
    assert "mine (2)" in table[-2]


@pytest.mark.parametrize("channel", ["y", "rgb"])
@pytest.mark.parametrize("pixels", [1, 500, 1 << 20])
def test_strips_are_the_whole_image(
    channel: str, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "PIXELS", pixels)
    sr, hr = picture(47, 33, 0), picture(47, 33, 1)
    x, y = (strips.to_tensor(each) for each in (sr, hr))
    got = strips.psnr_and_ssim(sr, hr, 3, channel)
    assert got[0] == pytest.approx(psnr(x, y, shave=3, channel=channel).item(), rel=1e-12)
    assert got[1] == pytest.approx(ssim(x, y, shave=3, channel=channel).item(), rel=1e-12)
    assert strips.psnr_and_ssim(sr, sr, 3, channel) == (float("inf"), pytest.approx(1))


def test_tiles_give_the_same_scores(folder: Path) -> None:
    torch.manual_seed(0)
    models = [Bicubic(4), EDSR(features=4, blocks=1).eval()]
    whole = list(evaluate(models, open_folder(folder)))
    for score, other in zip(evaluate(models, open_folder(folder), tile=5), whole, strict=True):
        assert score[:2] == other[:2]
        # A value that rounding puts on the other side of a half changes a grey level by one.
        assert score.psnr == pytest.approx(other.psnr, abs=1e-3)
        assert score.ssim == pytest.approx(other.ssim, abs=1e-4)
    with pytest.raises(InvalidArgument, match="tile: got 0; expected at least 1 LR pixel"):
        next(evaluate(models, open_folder(folder), tile=0))


def test_an_output_that_is_no_image_is_refused(folder: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(4, -1).repeat_interleave(4, -2) * float("nan")

    broken = fastbg.wrap(Broken(), scale=4, name="broken")
    with pytest.raises(InvalidArgument, match="model broken: got an SR image that is NaN"):
        next(evaluate([broken], open_folder(folder)))


class TestCommand:
    @pytest.fixture
    def words(self, folder: Path, tmp_path: Path) -> list[str]:
        weights = tmp_path / "mine.safetensors"
        torch.manual_seed(0)
        save_model(EDSR(features=4, blocks=1), weights)
        return ["evaluate", "--model", str(weights), "--data", str(folder)]

    def test_writes_csv_json_and_images(
        self, words: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Image.fromarray(picture(50, 44)).save(folder / "img_0.bmp")
        out = [tmp_path / name for name in ("a.csv", "a.json", "sr")]
        options = [w for pair in zip(("--csv", "--json", "--save"), out, strict=True) for w in pair]
        assert main([*words, *map(str, options)]) == 0
        printed = capsys.readouterr().out
        assert f"{out[0]}\n{out[1]}\n" in printed
        with out[0].open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["image", "network", "psnr_y_db", "ssim_y"]
        assert [row[:2] for row in rows[-2:]] == [["mean of 3", "bicubic"], ["mean of 3", "mine"]]
        content = json.loads(out[1].read_text())
        assert len(content["scores"]) == 6
        assert content["left_out"] == {}
        assert content["border"] == 4
        means = mean_scores(list(evaluate([Bicubic(4)], open_folder(folder), channel="y")))
        assert content["means"][0]["psnr"] == pytest.approx(means[0].psnr)
        assert float(rows[-2][2]) == pytest.approx(means[0].psnr, abs=1e-4)
        saved = sorted(p.relative_to(out[2]).as_posix() for p in out[2].rglob("*.*"))
        names = ["img_0.bmp.png", "img_0.png", "img_1.png"]
        assert saved == [f"{net}/{name}" for net in ("bicubic", "mine") for name in names]
        sr = np.array(Image.open(out[2] / "bicubic" / "img_1.png"))
        hr = np.array(Image.open(folder / "img_1.png"))[: sr.shape[0], : sr.shape[1]]
        one = next(s for s in content["scores"] if s["image"] == "img_1.png")
        assert strips.psnr_and_ssim(sr, hr, 4, "y")[0] == pytest.approx(one["psnr"])

    def test_goes_on_past_bad_files(
        self, words: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "img_00_cut.png").write_bytes((folder / "img_0.png").read_bytes()[:300])
        Image.fromarray(picture(9, 9)).save(folder / "tiny.png")
        out = tmp_path / "a.json"
        assert main([*words, "--json", str(out)]) == 1
        printed = capsys.readouterr().out
        assert "left out, 2 of 4 images:" in printed
        assert "img_00_cut.png: cannot be read as an image" in printed
        assert "tiny.png: 8x8 pixels that can be compared; expected at least 19x19" in printed
        assert set(json.loads(out.read_text())["left_out"]) == {"img_00_cut.png", "tiny.png"}
        assert main([*words, "--skip-bad"]) == 0

    def test_says_whose_tiles_are_not_the_whole_image(
        self, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_rcan(tmp_path / "global.safetensors")
        words.insert(2, str(tmp_path / "global.safetensors"))
        assert main([*words, "--tile", "6"]) == 0
        printed = capsys.readouterr().out
        assert "tiles of 6 LR pixels a side: the same SR image for bicubic, mine; NOT" in printed
        assert "NOT the same for global" in printed

    def test_equal_images_are_null_in_json(self, tmp_path: Path) -> None:
        folder = tmp_path / "flat"
        folder.mkdir()
        Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(folder / "a.png")
        weights, out = tmp_path / "mine.safetensors", tmp_path / "a.json"
        save_model(EDSR(features=4, blocks=1), weights)
        words = ["evaluate", "--model", str(weights), "--data", str(folder), "--json", str(out)]
        assert main(words) == 0
        assert json.loads(out.read_text())["scores"][0]["psnr"] is None


def test_tiles_give_the_network_little_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pass takes follows from the pixels it is given: a tile and the network's reach."""
    Image.fromarray(np.tile(picture(500, 400), (1, 1, 1))).save(tmp_path / "large.png")
    given: list[tuple[int, ...]] = []
    plain = EDSR.forward_window

    def noted(self: EDSR, x: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
        given.append(tuple(x.shape[-2:]))
        return plain(self, x, window)

    monkeypatch.setattr(EDSR, "forward_window", noted)
    net = EDSR(features=8, blocks=1).eval()
    scores = list(evaluate([net], open_folder(tmp_path), tile=32))
    assert len(scores) == 1
    assert len(given) == 4 * 4  # of 125 x 100 LR pixels
    reach = net.reach((128, 128, 256, 256), 125, 100)
    assert max(given) == (reach.y1 - reach.y0, reach.x1 - reach.x0)
    assert max(given) < (50, 50)


@pytest.mark.parametrize("kernel", ["matlab", "pil"])
@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.full((8, 8, 3), 0.5), "float64"),  # became 0 or 1
        (np.full((8, 8, 3), 40_000, np.uint16), "uint16"),  # became white
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_downsample_takes_8_bit_images_only(image: object, got: str, kernel: str) -> None:
    with pytest.raises(InvalidArgument, match=f"image: got .*{got}.*expected uint8"):
        downsample(image, 2, kernel)
