"""The figure, the interactive page and the command `fastbg attribute`."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_rcan, plain_psnr

import fastbg
from fastbg.attribution import picture
from fastbg.attribution.diffusion import diffusion_index, offset_index
from fastbg.attribution.explain import explain
from fastbg.attribution.page import MOST_WINDOWS, Map, Steps, default_step, grid_windows, page
from fastbg.cli.arguments import parser
from fastbg.errors import FastbgError
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR

WINDOW = (24, 30, 16)


@pytest.fixture(scope="module")
def models() -> dict[str, EDSR]:
    built = {}
    for seed, name in enumerate(("first", "second <b>")):
        torch.manual_seed(seed)
        built[name] = EDSR(features=8, blocks=1).requires_grad_(False).eval()
    return built


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(1))


def test_figure_shows_every_network(image: torch.Tensor, models: dict[str, EDSR]) -> None:
    panels = explain(image, models, WINDOW, n_steps=4)
    drawn = picture.figure(image, panels, WINDOW, scale=4)
    axes = np.array(drawn.axes[:9]).reshape(3, 3)
    assert [axis.get_title() for axis in axes[0]] == ["LR input", "first", "second <b>"]
    for column, panel in enumerate(panels, start=1):
        assert axes[0, column].get_xlabel() == f"DI {panel.diffusion_index:.2f}"
        shown = axes[0, column].images[0].get_array()
        np.testing.assert_array_equal(shown, picture.heat(panel.map))
        assert axes[2, column].get_xlabel() == ""
        sr = picture.pixels(models[panel.name](image[None])[0])
        crop = axes[2, column].images[0].get_array()
        np.testing.assert_allclose(crop.astype(int), sr[16:48, 22:54], atol=1)  # rounding
    assert drawn.axes[9].get_ylabel() == "share of the maximum"
    assert drawn.axes[9].get_ylim() == (0, 1)
    # These maps show all of the input, so the second row does.
    assert [axis.get_title() for axis in axes[1:, 0]] == ["LR input", "LR input"]
    assert [len(axis.images) for axis in axes[:, 0]] == [1, 1, 1]
    np.testing.assert_array_equal(axes[1, 0].images[0].get_array(), picture.pixels(image))


def test_ground_truth_stands_beside_the_networks(
    image: torch.Tensor, models: dict[str, EDSR]
) -> None:
    hr = torch.rand(3, 80, 96, generator=torch.Generator().manual_seed(2))
    panels = explain(image, models, WINDOW, hr, n_steps=2)
    drawn = picture.figure(image, panels, WINDOW, scale=4, hr=hr)
    axes = np.array(drawn.axes[:9]).reshape(3, 3)
    assert axes[2, 0].get_title() == "ground truth"
    crop = axes[2, 0].images[0].get_array()
    np.testing.assert_array_equal(crop, picture.pixels(hr)[16:48, 22:54])
    y, x, size = WINDOW
    for column, panel in enumerate(panels, start=1):
        sr = models[panel.name](image[None])[..., y : y + size, x : x + size]
        expected = plain_psnr(sr[0], picture.pixels(hr)[y : y + size, x : x + size])
        assert panel.psnr == pytest.approx(expected, abs=0.01)
        assert axes[2, column].get_xlabel() == f"PSNR {panel.psnr:.2f} dB"


def test_maps_are_zoomed_to_where_they_are() -> None:
    map_ = np.zeros((200, 300))
    map_[90:100, 150:160] = 1
    map_[95, 175] = 4.0  # 4 % of it, 20 pixels away
    window = Box(4 * 93, 4 * 153, 4 * 97, 4 * 157)
    assert picture.view_of([map_], window, 4) == (window.coarsen(4).around(17, 200, 300), 0.95)
    far = map_.copy()
    far[95, 175] = 8.0
    (y0, x0, y1, x1), _ = picture.view_of([map_, far], window, 4)
    assert y0 <= 75 < 115 <= y1
    assert x0 <= 135 < 176 <= x1
    whole = Box(0, 0, 200, 300), 1.0
    assert picture.view_of([np.ones((200, 300))], window, 4) == whole
    last = np.zeros((40, 100))
    last[20, 4], last[20, 99] = 9.0, 1.0  # a tenth of it in the pixel that is farthest away
    corner = Box(64, 0, 96, 32)
    assert picture.view_of([last], corner, 4) == (corner.coarsen(4).around(17, 40, 100), 0.8)
    last[20, 99] = 21.0  # more than half of it
    assert picture.view_of([last], corner, 4) == (Box(0, 0, 40, 100), 1.0)
    at_the_end = Box(4 * 196, 4 * 296, 800, 1200)
    assert picture.view_of([np.zeros((200, 300))], at_the_end, 4)[0] == Box(183, 283, 200, 300)


def test_the_legend_says_which_window_and_how_much_of_the_map_is_shown() -> None:
    """A map as RCAN's, a faint part of which is everywhere, is still shown where it is dense."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((1, 3, 64, 96), dtype=np.float32)) / 600
    values[..., 20:26, 30:36] = 1
    windows = torch.tensor([[80, 120, 104, 144]])
    images = torch.rand(1, 3, 64, 96)
    result = fastbg.AttributionResult(values, images, windows, scale=4, passes=1)
    told = " ".join(result.plot().get_supxlabel().split())
    assert "24 x 24 SR pixels (x4) at y 80, x 120" in told
    assert "at least 80 % of each map" in told
    assert "Density: the attribution smoothed" in told


def test_an_index_that_tells_the_number_of_pixels_has_a_star() -> None:
    """The public code adds 1e-7 to each pixel, which in 12 million is a tenth of a small map."""
    map_ = np.zeros((30, 40), np.float32)
    map_[10:13, 10:13] = 1
    large = np.zeros((3000, 4000), np.float32)
    large[:30, :40] = map_
    both = [torch.from_numpy(each) for each in (map_, large)]
    small_index, index = (float(diffusion_index(each)) for each in both)
    small_offset, offset = (float(offset_index(each)) for each in both)
    assert picture.spread(map_, small_index) == f"DI {small_index:.2f}"
    assert picture.spread(large, index) == f"DI {index:.2f}*"
    assert index > 10
    assert index == pytest.approx(offset, rel=0.01)
    assert small_offset < 0.01 * small_index


def test_the_density_of_a_zoom_is_that_of_the_whole_map() -> None:
    y, x = np.mgrid[:60, :80]
    map_ = np.exp(-((y - 30) ** 2 + (x - 20) ** 2) / 20.0)
    map_[map_ < 1e-3] = 0
    view = Box(15, 5, 45, 60)
    expected = picture.kde_density(map_)[view.slices()]
    got = picture.density_in(map_, view)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert picture.density_in(np.eye(1, 4800).reshape(60, 80), view) is None  # one pixel


def test_result_plots_itself(image: torch.Tensor, models: dict[str, EDSR]) -> None:
    lam = fastbg.LocalAttribution(models["first"])
    result = lam.attribute(image[None], [WINDOW, (0, 0, 8)], 3)
    drawn = result.plot(1)
    assert len(drawn.axes) == 4
    assert drawn.axes[1].get_xlabel() == f"DI {float(result.diffusion_index[1]):.2f}"


def test_heat_is_white_for_nothing_and_red_for_much() -> None:
    colours = picture.heat(np.array([[0.0, 0.5, 1.0]]))
    assert colours[0, 0].min() > 250
    assert colours[0, 1, 0] > 250
    assert colours[0, 2, 0] > 100
    assert colours[0, 2, 1] == colours[0, 2, 2] == 0


def test_grid_reaches_both_ends() -> None:
    windows = grid_windows(20, 30, 8, 10)
    assert windows == [(y, x, 8) for y in (0, 10, 12) for x in (0, 10, 20, 22)]
    assert grid_windows(8, 8, 8, 5) == [(0, 0, 8)]


def test_a_page_has_no_more_windows_than_it_must() -> None:
    for height, width, size in ((1152, 1152, 16), (80, 96, 16), (16, 4000, 16)):
        step = default_step(height, width, size)
        assert len(grid_windows(height, width, size, step)) <= MOST_WINDOWS
        smaller = step - size
        assert not smaller or len(grid_windows(height, width, size, smaller)) > MOST_WINDOWS


def test_a_pages_maps_are_cut_to_where_they_are() -> None:
    values = np.zeros((9, 7))
    values[2:4, 3:6] = 0.5
    cut = Map.of(values)
    assert (cut.y, cut.x, cut.levels.shape) == (2, 3, (2, 3))
    assert Map.of(np.zeros((9, 7))).levels.tolist() == [[0]]


def test_page_holds_all_it_needs(image: torch.Tensor, models: dict[str, EDSR]) -> None:
    told = []
    steps = Steps(image, models, 16, 32, (30, 40))
    html = page(
        steps,
        "a <b> title",
        advance=lambda name, count: told.append((name, count)),
        n_steps=2,
    )
    # 0 first, so that the time of the first window counts.
    assert told == [(n, k) for n in models for k in (0, *(1 for _ in steps.windows))]
    assert "a &lt;b&gt; title" in html
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", html)
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', html, re.S)
    assert found is not None
    content = json.loads(found[1])
    assert [model["name"] for model in content["models"]] == list(models)
    assert len(content["models"][0]["di"]) == len(content["windows"])
    assert content["windows"][content["start"]] == [30, 40, 16]  # as asked for, not the nearest


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_follows_a_click(image: torch.Tensor, models: dict[str, EDSR], tmp_path: Path) -> None:
    """In a headless browser: a click moves the window, then an arrow key, and maps follow."""
    html = page(Steps(image, models, 16, 32), "title", n_steps=2)
    probe = """<script>
    const wait = setInterval(() => {
      if (document.body.dataset.ready !== "yes") return;
      clearInterval(wait);
      const log = [], sr = document.querySelectorAll("canvas.sr")[1];
      const note = () => {
        const map = document.querySelector("canvas.map");
        const sum = map.getContext("2d").getImageData(0, 0, map.width, map.height).data
          .reduce((a, b) => a + b, 0);
        log.push([document.getElementById("place").textContent,
          document.querySelectorAll("output.di")[1].textContent, sum]);
      };
      note();
      const box = sr.getBoundingClientRect();
      sr.dispatchEvent(new MouseEvent("click", { clientX: box.left + box.width * 0.45,
        clientY: box.top + box.height * 0.55 }));
      note();
      sr.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      note();
      const out = document.createElement("pre");
      out.id = "log";
      out.textContent = JSON.stringify(log);
      document.body.append(out);
    }, 10);
    </script></html>"""
    path = tmp_path / "page.html"
    path.write_text(html.replace("</html>", probe), encoding="utf-8")
    done = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=20000",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r'<pre id="log">(.*?)</pre>', done.stdout)
    assert found is not None, done.stdout[-2000:]
    start, clicked, moved = json.loads(found[1])
    assert start[0] == "y 0, x 0, size 16"
    assert clicked[0] == "y 32, x 32, size 16"
    assert moved[0] == "y 32, x 64, size 16"
    lam = fastbg.LocalAttribution(models["second <b>"])
    expected = lam.attribute(image[None], (32, 32, 16), 2).diffusion_index.item()
    assert clicked[1] == f"DI {expected:.2f}"
    assert len({entry[2] for entry in (start, clicked, moved)}) == 3


class TestCommand:
    @pytest.fixture
    def files(self, models: dict[str, EDSR], image: torch.Tensor, tmp_path: Path) -> Path:
        fastbg.save_model(models["first"], tmp_path / "net.safetensors")
        Image.fromarray(picture.pixels(image)).save(tmp_path / "lr.png")
        return tmp_path

    def run(self, *words: object) -> int | None:
        options = parser().parse_args(["attribute", *map(str, words)])
        status: int | None = options.command(options)
        return status

    @pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
    def test_writes_the_figure(
        self, files: Path, suffix: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = files / f"figure{suffix}"
        net = files / "net.safetensors"
        self.run(
            files / "lr.png", "--model", net, net, "--window", *WINDOW, "--out", out, "--steps", 2
        )
        assert capsys.readouterr().out == f"{out}\n"
        head = out.read_bytes()[:400]
        assert {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<svg"}[suffix] in head

    def test_reduces_high_resolution_and_writes_the_page(self, files: Path) -> None:
        out, html = files / "figure.png", files / "page.html"
        self.run(
            files / "lr.png", "--hr", "--model", files / "net.safetensors", "--window", 0, 0, 8,
            "--out", out, "--steps", 2, "--html", html, "--grid", 16,
        )  # fmt: skip
        assert '"height": 5, "width": 6' in html.read_text(encoding="utf-8")

    def table(self, folder: Path) -> list[dict[str, str]]:
        with (folder / "attribution.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def test_windows_of_several_images_into_a_folder(
        self,
        files: Path,
        models: dict[str, EDSR],
        image: torch.Tensor,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        other = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(3))
        (files / "more").mkdir()
        Image.fromarray(picture.pixels(other)).save(files / "more" / "b.png")
        lines = "image,y0,x0,y1,x1\nlr,4,8,12,40\nb.png,0,0,8,8\n"
        (files / "w.csv").write_text(lines)
        fastbg.save_model(models["second <b>"], files / "two.safetensors")
        out = files / "out"
        status = self.run(
            files / "lr.png", files / "more", "--model", files / "net.safetensors",
            files / "two.safetensors", "--window", 24, 30, 16, "--window", "center", 8,
            "--window", files / "w.csv", "--out", out, "--format", "svg", "--steps", 2,
        )  # fmt: skip
        assert not status
        told = capsys.readouterr().err
        for where in (
            "lr.png at 24 30 16  net: ",
            "lr.png at 4 8 12 40  two: ",
            "b.png at 0 0 8  ",
        ):
            assert where in told
        rows = self.table(out)
        boxes = {
            "lr.png": [(24, 30, 40, 46), (36, 44, 44, 52), (4, 8, 12, 40)],
            "b.png": [(24, 30, 40, 46), (44, 44, 52, 52), (0, 0, 8, 8)],
        }
        wanted = [
            (name, net, *map(str, box))
            for name, found in boxes.items()
            for box in found
            for net in ("net", "two")
        ]
        names = ("image", "network", "y0", "x0", "y1", "x1")
        assert [tuple(row[name] for name in names) for row in rows] == wanted
        stems = [
            "_".join((Path(r["image"]).stem, r["y0"], r["x0"], r["y1"], r["x1"])) for r in rows
        ]
        assert {p.stem for p in out.glob("*.svg")} == set(stems)
        for row, stem in zip(rows, stems, strict=True):
            result = fastbg.AttributionResult.load(out / f"{stem}_{row['network']}.npz")
            assert float(result.diffusion_index) == pytest.approx(
                float(row["diffusion_index"]), abs=1e-4
            )
            assert int(result.area()) == int(row["area_lr_pixels"])
            assert row["psnr_rgb_db"] == ""
        lam = fastbg.LocalAttribution(fastbg.load_model(files / "net.safetensors"))
        lr = torch.from_numpy(np.array(Image.open(files / "lr.png"))).permute(2, 0, 1)[None] / 255
        expected = lam.attribute(lr, (4, 8, 12, 40), 2)
        got = fastbg.AttributionResult.load(out / "lr_4_8_12_40_net.npz")
        torch.testing.assert_close(got.attribution, expected.attribution)

    def test_ground_truth_gives_psnr(self, files: Path) -> None:
        out = files / "out"
        self.run(
            files / "lr.png", "--hr", "--model", files / "net.safetensors", "--window", "center", 8,
            "--out", out, "--steps", 2,
        )  # fmt: skip
        (row,) = self.table(out)
        hr = np.array(Image.open(files / "lr.png"))
        lr = torch.from_numpy(fastbg.downsample(hr, 4)).permute(2, 0, 1)[None] / 255
        sr = fastbg.load_model(files / "net.safetensors")(lr)[0, :, 6:14, 8:16]
        assert float(row["psnr_rgb_db"]) == pytest.approx(plain_psnr(sr, hr[6:14, 8:16]), abs=0.01)

    def test_a_star_is_explained_once(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dark = Image.new("RGB", (400, 300))
        dark.putpixel((200, 150), (255, 255, 255))
        dark.save(files / "dark.png")
        self.run(
            files / "dark.png", "--model", files / "net.safetensors", "--window", 592, 792, 16,
            "--window", 596, 796, 8, "--out", files / "out", "--steps", 2,
        )  # fmt: skip
        said = capsys.readouterr().err
        assert len(re.findall(r"DI \d+\.\d+\*, Gini", said)) == 2
        assert said.count(picture.STARRED) == 1

    def test_equal_names_keep_their_files(self, files: Path) -> None:
        (files / "more").mkdir()
        shutil.copy(files / "lr.png", files / "more" / "lr.png")
        self.run(
            files / "lr.png", files / "more" / "lr.png", "--model", files / "net.safetensors",
            "--window", "center", "--out", files / "out", "--steps", 2,
        )  # fmt: skip
        names = ["lr_32_40_48_56.png", "lr_32_40_48_56_2.png"]
        assert sorted(path.name for path in (files / "out").glob("*.png")) == names
        paths = [str(files / "lr.png"), str(files / "more" / "lr.png")]
        assert [row["image"] for row in self.table(files / "out")] == paths

    def test_the_whole_image_is_not_computed_beyond_the_budget(self, files: Path) -> None:
        """But a crop of it, when asked for, and the picture says so."""
        wide = files / "wide.safetensors"
        make_rcan(wide)
        words = [files / "lr.png", "--model", wide, "--window", "center", "--out", files / "out"]
        with pytest.raises(FastbgError, match=r"IMAGE: got 20x24 LR pixels; wide looks at all of"):
            self.run(*words, "--memory", 1e-5, "--steps", 2)
        self.run(*words, "--memory", 1e-4, "--steps", 2)
        (row,) = self.table(files / "out")
        assert row["network"] == "wide"
        self.run(*words, "--memory", 1e-5, "--steps", 2, "--crop", 8)
        (row,) = self.table(files / "out")
        assert row["network"] == "wide on 8 x 8"
        result = fastbg.AttributionResult.load(files / "out/lr_32_40_48_56_wide_on_8_x_8.npz")
        assert result.attribution.shape == (1, 3, 20, 24)
        inside = result.attribution[..., 6:14, 8:16]
        assert inside.abs().sum() == result.attribution.abs().sum() > 0
        net = fastbg.load_model(wide)
        crop = fastbg.LocalAttribution(net).attribute(result.images[..., 6:14, 8:16], (8, 8, 16), 2)
        torch.testing.assert_close(inside, crop.attribution)

    def test_the_page_tells_how_long_it_takes(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(
            files / "lr.png", "--model", files / "net.safetensors", "--window", 0, 0, 16,
            "--out", files / "a.png", "--html", files / "a.html", "--steps", 2,
        )  # fmt: skip
        said = capsys.readouterr().err
        words = r"interactive page: 30 windows every 16 SR pixels; \d+%, \d+:\d\d so far, .* left"
        assert re.search(words + r" \(--grid N", said)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"--out": "figure.txt"}, r"--out: got figure.txt; expected .*\.png"),
            ({"--out": "missing/figure.png"}, "--out: got missing/figure.png; expected .* exists"),
            ({"--grid": "0"}, "--grid: got 0"),
        ],
    )
    def test_names_the_option(self, files: Path, change: dict[str, str], message: str) -> None:
        words = {"--model": "net", "--out": "figure.png", **change}
        with pytest.raises(FastbgError, match=message):
            self.run("lr.png", "--window", *WINDOW, *(w for pair in words.items() for w in pair))


def test_an_image_without_structure_has_a_picture_too(tmp_path: Path) -> None:
    """And a network may be called like a formula that Matplotlib cannot read."""
    net = EDSR(features=4, blocks=1).eval()
    image = torch.zeros(3, 12, 12)
    panels = explain(image, {"$\\bad{$": net}, (0, 0, 16), n_steps=2)
    drawn = picture.figure(image, panels, (0, 0, 16), 4)
    drawn.savefig(tmp_path / "a.png")
    texts = [axis.get_xlabel() for axis in drawn.axes] + [axis.get_title() for axis in drawn.axes]
    assert "nothing attributed" in texts
    assert "$\\bad{$" in texts
