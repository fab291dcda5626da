"""Flat images tell a wrong option from the right one, and untrained weights from trained ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fastbg
from fastbg.cli import main
from fastbg.errors import CheckpointError
from fastbg.models.bicubic import Bicubic
from fastbg.models.checkpoints import installed
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.plausible import CLEAN, UNTRAINED, Answer, ask, check_output
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR


def with_options(net: Network, **options: Any) -> Network:
    """The same weights under other options."""
    other = type(net)(**{**net.config, **options})
    other.load_state_dict(net.state_dict())
    return other.eval()


@pytest.mark.parametrize("name", installed())
def test_trained_networks_give_flat_images_back(name: str) -> None:
    net = fastbg.load_model(name)
    assert check_output(net) == ""
    assert ask(net).error < CLEAN / 2


@pytest.mark.parametrize("name", installed())
def test_the_option_that_fits_is_named(name: str) -> None:
    net = fastbg.load_model(name)
    right = net.config["img_range"]
    with pytest.raises(CheckpointError, match=f"img_range={right:g} leaves"):
        check_output(with_options(net, img_range=256.0 - right))
    if name == "edsr":
        with pytest.raises(CheckpointError, match="res_scale=1 leaves"):
            check_output(with_options(net, res_scale=0.1))


@pytest.mark.parametrize("name", installed()[:1])
def test_other_options_are_tried_in_the_networks_precision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []

    def watched(net: Network) -> Answer:
        seen.append(net.mean.dtype)
        return ask(net)

    monkeypatch.setattr("fastbg.models.plausible.ask", watched)
    net = fastbg.load_model(name)
    with pytest.raises(CheckpointError, match=r"img_range=.* leaves"):
        check_output(with_options(net, img_range=256.0 - net.config["img_range"]).double())
    assert len(seen) > 1
    assert set(seen) == {torch.float64}


RANDOM: dict[str, Callable[[], Network]] = {
    "edsr": lambda: EDSR(features=16, blocks=2),
    "edsr of range 1": lambda: EDSR(features=16, blocks=2, img_range=1.0),
    "rcan": lambda: RCAN(features=8, groups=1, blocks=2, squeezed=2),
    "swinir": lambda: SwinIR(width=12, depths=(2,), heads=(2,)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_untrained_networks_are_doubted_but_work(name: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        net = RANDOM[name]().eval()
        assert "like untrained weights" in check_output(net)
        assert ask(net).error > UNTRAINED


class Changed(nn.Module):
    """Bicubic enlargement, changed."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enlarge, self.change = Bicubic(2), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.enlarge(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: 255 * y, "answers to flat grey images with 51 to 204.*img_range, mean"),
        (lambda y: y - 114.4, "with -114 to -114.*img_range, mean"),
        (lambda y: 0 * y, "difference to an enlarged image.*fastbg.wrap"),
        (lambda y: y / 0 * 0, "not a number"),
    ],
)
def test_what_is_no_image_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_output(fastbg.wrap(Changed(change), scale=2, name="odd"))


def test_bicubic_and_its_neighbours_pass() -> None:
    assert check_output(Bicubic(3)) == ""
    assert check_output(fastbg.wrap(Changed(lambda y: y + 0.02), scale=2)) == ""  # as GANs shift


def test_commands_and_run_experiments_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = EDSR(features=4, blocks=1)
    nn.init.constant_(net.conv_last.bias, 5e4)
    path = tmp_path / "bad.safetensors"
    fastbg.save_model(net, path)
    image = tmp_path / "x.png"
    Image.new("RGB", (16, 16)).save(image)
    commands = (
        ["run", "slicing", "--out", str(tmp_path / "run")],
        ["evaluate", "--data", str(tmp_path)],
        ["attribute", str(image), "--window", "0", "0", "8", "--out", str(tmp_path / "a.png")],
    )
    for command in commands:
        assert main([*command, "--model", str(path)]) == 2
        assert "flat grey images" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="flat grey images"):
        fastbg.run_experiments({"bad": net.eval()}, ["slicing"], out=tmp_path / "python")
    assert fastbg.load_model(path)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
