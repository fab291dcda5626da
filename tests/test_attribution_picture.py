"""The figure, the interactive page and the command `fastbg attribute`."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastbg
from fastbg.attribution import picture
from fastbg.attribution.explain import explain
from fastbg.attribution.page import grid_windows, page
from fastbg.cli.arguments import parser
from fastbg.errors import FastbgError
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
    assert [panel.sr.shape for panel in panels] == [(80, 96, 3)] * 2
    drawn = picture.figure(image, panels, WINDOW, scale=4)
    axes = np.array(drawn.axes).reshape(3, 3)
    assert [axis.get_title() for axis in axes[0]] == ["LR input", "first", "second <b>"]
    for column, panel in enumerate(panels, start=1):
        assert axes[2, column].get_xlabel() == f"DI {panel.diffusion_index:.2f}"
        shown = axes[0, column].images[0].get_array()
        np.testing.assert_array_equal(shown, picture.heat(panel.map))
    crop = axes[2, 1].images[0].get_array()
    np.testing.assert_array_equal(crop, panels[0].sr[16:48, 22:54])


def test_result_plots_itself(image: torch.Tensor, models: dict[str, EDSR]) -> None:
    lam = fastbg.LocalAttribution(models["first"])
    result = lam.attribute(image[None], [WINDOW, (0, 0, 8)], 3)
    drawn = result.plot(1)
    assert len(drawn.axes) == 3
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


def test_page_holds_all_it_needs(image: torch.Tensor, models: dict[str, EDSR]) -> None:
    html = page(image, models, 16, 32, "a <b> title", start=(30, 40), n_steps=2)
    assert "a &lt;b&gt; title" in html
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", html)
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', html, re.S)
    assert found is not None
    content = json.loads(found[1])
    assert [model["name"] for model in content["models"]] == list(models)
    assert len(content["models"][0]["di"]) == len(content["windows"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_follows_a_click(image: torch.Tensor, models: dict[str, EDSR], tmp_path: Path) -> None:
    """In a headless browser: a click moves the window, then an arrow key, and maps follow."""
    html = page(image, models, 16, 32, "title", start=(0, 0), n_steps=2)
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

    def run(self, *words: object) -> None:
        options = parser().parse_args(["attribute", *map(str, words)])
        options.command(options)

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
        assert '"height": 5, "width": 6' in html.read_text()

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
