"""Training: what it learns from, that it resumes as if never stopped, what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastbg
from fastbg.cli import main
from fastbg.data.degradation import downsample
from fastbg.errors import CheckpointError, DataError
from fastbg.models.checkpoints import save_model
from fastbg.models.edsr import EDSR
from fastbg.models.files.tensors import read_safetensors
from fastbg.models.registry import BUILT_IN
from fastbg.training import PatchSampler, TrainConfig, train

CONFIG = TrainConfig(steps=6, batch=2, patch=8, warmup=2)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (50, 61, 3), dtype=np.uint8) for _ in range(3)]


def tiny() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=4, blocks=1)


def test_patches_are_aligned_and_depend_on_the_step_only() -> None:
    """The bicubic LR of an HR patch is the LR patch, away from the patch's own border."""
    sampler = PatchSampler(images(), TrainConfig(batch=4, patch=12))
    lr, hr = sampler.batch(7)
    assert lr.shape == (4, 3, 12, 12)
    assert hr.shape == (4, 3, 48, 48)
    again, _ = PatchSampler(images(), TrainConfig(batch=4, patch=12)).batch(7)
    other, _ = sampler.batch(8)
    assert torch.equal(lr, again)
    assert not torch.equal(lr, other)
    for small, large in zip(lr, hr, strict=True):
        levels = (large.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        expected = downsample(levels, 4)[3:-3, 3:-3]
        got = (small.permute(1, 2, 0).numpy() * 255).round()[3:-3, 3:-3]
        # Of a patch that was turned, the passes of the down-sampling have changed places, and
        # each of them rounds.
        assert np.abs(got - expected).max() <= 1
        assert (got == expected).mean() > 0.7


def test_smaller_copies_take_part() -> None:
    """Scale augmentation: each image at each size, LR made of the resized HR."""
    grey = np.full((40, 60, 3), 90, np.uint8)
    sampler = PatchSampler([grey, grey], TrainConfig(batch=16, patch=5, resize=(0.5,)))
    assert [image.shape for image in sampler.hr] == [(40, 60, 3)] * 2 + [(20, 28, 3)] * 2
    assert [image.shape for image in sampler.lr] == [(10, 15, 3)] * 2 + [(5, 7, 3)] * 2
    for side in sampler.batch(0):
        torch.testing.assert_close(side, torch.full_like(side, 90 / 255))


def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny(), images, CONFIG, tmp_path / "whole.ckpt")

    class Killed(Exception):
        pass

    class DiesAtStepFour(PatchSampler):
        def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            if step == 4:
                raise Killed
            return super().batch(step)

    monkeypatch.setattr("fastbg.training.PatchSampler", DiesAtStepFour)
    with pytest.raises(Killed):
        train(tiny(), images, CONFIG, tmp_path / "cut.ckpt", save_every=0)
    monkeypatch.undo()
    resumed = train(tiny(), images, CONFIG, tmp_path / "cut.ckpt", resume=True)
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_learns(tmp_path: Path) -> None:
    """A few steps on one smooth image beat the start by far."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    smooth = np.broadcast_to(ramp[:, None, None], (64, 64, 3)).copy()
    config = TrainConfig(steps=60, batch=4, patch=8, warmup=5, learning_rate=2e-3)
    lr, hr = PatchSampler([smooth], config).batch(0)
    model = tiny()
    before = (model(lr) - hr).abs().mean()
    model.load_state_dict(train(model, lambda: [smooth], config, tmp_path / "c.ckpt"))
    after = (model(lr) - hr).abs().mean()
    assert after < before / 2


def test_refuses(tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    train(tiny(), images, CONFIG, path)
    with pytest.raises(CheckpointError, match="pass --resume"):
        train(tiny(), images, CONFIG, path)
    other = TrainConfig(steps=7, batch=2, patch=8, warmup=2)
    with pytest.raises(CheckpointError, match="belongs to"):
        train(tiny(), images, other, path, resume=True)
    with pytest.raises(DataError, match="at least 96 pixels"):
        train(tiny(), images, TrainConfig(steps=1), tmp_path / "d.ckpt")


def test_goes_on_from_the_weights_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Almost no rate: the weights that come out are those that training started from."""
    folder, start, out = (
        tmp_path / "hr",
        tmp_path / "start.safetensors",
        tmp_path / "on.safetensors",
    )
    folder.mkdir()
    for number, image in enumerate(images()):
        Image.fromarray(image).save(folder / f"{number}.png")
    save_model(tiny(), start)
    monkeypatch.setitem(BUILT_IN, "edsr", lambda: EDSR(features=4, blocks=1))
    command = ["train", "edsr", "--data", str(folder), "--steps", "2", "--batch", "1"]
    command += ["--patch", "8", "--rate", "1e-9", "--out", str(out), "--start"]
    assert main([*command, str(start)]) == 0
    before, after = fastbg.load_model(start), fastbg.load_model(out)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0, atol=1e-6)
    assert len(read_safetensors(out)[1]["card"]["training"]["start"]) == 16

    out.unlink()
    assert main([*command, str(start), "--resize", "1.5"]) != 0
    assert "--resize: got 1.5; expected in (0, 1]" in capsys.readouterr().err
    assert not out.exists()

    other = tmp_path / "other.safetensors"
    save_model(EDSR(features=8, blocks=1), other)
    assert main([*command, str(other)]) != 0
