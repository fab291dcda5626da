"""Trains the built-in networks: L1, Adam, cosine schedule with warm-up, averaged weights.

The patches of a step depend on (seed, step) only, so a resumed run sees the same patches as one
that was never interrupted.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor, nn

from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.errors import CheckpointError, DataError
from fastbg.given_path import file_to_write
from fastbg.precision import autocast_dtype, held, use_precision
from fastbg.printable import printable
from fastbg.working_folder import elsewhere
from fastbg.writing import replacing

Image = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights; stored in the checkpoint and in the model card."""

    steps: int = 18_000
    batch: int = 8
    patch: int = 24  # LR pixels
    scale: int = 4
    learning_rate: float = 5e-4
    warmup: int = 500
    final_rate: float = 1e-6
    clip_norm: float = 1.0
    average_decay: float = 0.999
    seed: int = 0
    resize: tuple[float, ...] = ()  # factors: each image is used at these sizes too
    precision: str = "ieee"  # of float32 products, see fastbg.use_precision
    start: str = ""  # fingerprint of the initial weights; empty: random ones

    def rate(self, step: int) -> float:
        """Learning rate of `step`: linear warm-up, then half a cosine down to `final_rate`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        half_cosine = 0.5 * (1 + np.cos(np.pi * share))
        return self.final_rate + (self.learning_rate - self.final_rate) * float(half_cosine)


class PatchSampler:
    """Aligned LR / HR patches with flips and rotations from a list of HR images (h,w,3) uint8.

    `config.resize` adds reduced copies of the images, which are sharper.
    """

    def __init__(self, images: list[Image], config: TrainConfig) -> None:
        scale, patch = config.scale, config.patch
        smaller = [_resized(image, factor) for factor in config.resize for image in images]
        cut = [crop_to_multiple(image, scale) for image in (*images, *smaller)]
        self.hr = [image for image in cut if min(image.shape[:2]) >= scale * patch]
        if not self.hr:
            most = max((min(image.shape[:2]) // scale for image in cut), default=0)
            raise DataError(
                f"patch: got {patch}; expected at most {most} LR pixels a side, as no image is at "
                f"least {scale * patch} pixels high and wide"
            )
        self.lr = [downsample(image, scale) for image in self.hr]
        self.config = config

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """LR (B,3,p,p) and HR (B,3,s*p,s*p) in [0,1] for `step`."""
        c = self.config
        rng = np.random.default_rng((c.seed, step))
        pairs = [self._patch(rng) for _ in range(c.batch)]
        lr, hr = (np.stack(side).transpose(0, 3, 1, 2) for side in zip(*pairs, strict=True))
        return _to_unit_range(lr), _to_unit_range(hr)

    def _patch(self, rng: np.random.Generator) -> tuple[Image, Image]:
        s, p = self.config.scale, self.config.patch
        i = int(rng.integers(len(self.hr)))
        height, width = self.lr[i].shape[:2]
        y, x = int(rng.integers(height - p + 1)), int(rng.integers(width - p + 1))
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def augment(image: Image) -> Image:
            return np.rot90(image[::-1] if flip else image, turns)

        lr = self.lr[i][y : y + p, x : x + p]
        hr = self.hr[i][s * y : s * (y + p), s * x : s * (x + p)]
        return augment(lr), augment(hr)


def _resized(image: Image, factor: float) -> Image:
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    picture = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _to_unit_range(patches: Image) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(patches)).float() / 255
    return tensor.contiguous(memory_format=torch.channels_last)


def train(
    model: nn.Module,
    images: Callable[[], list[Image]],
    config: TrainConfig,
    checkpoint: str | os.PathLike[str],
    *,
    resume: bool = False,
    save_every: float = 180.0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Train `model` and return its averaged weights (float32, CPU).

    `images` loads the HR images. `checkpoint` is rewritten every `save_every` seconds; with
    `resume` training continues from it. Raises CheckpointError if the checkpoint belongs to another
    configuration, or exists without `resume`; InvalidArgument if it is no path.
    """
    stored = file_to_write("checkpoint", checkpoint)
    model = model.to(device).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    with elsewhere():  # it loads PyTorch's compiler
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, betas=(0.9, 0.99))
    done = _restore(stored, resume, config, model, average, optimizer)

    sampler = PatchSampler(images(), config)
    saved = time.monotonic()
    with progress or progress_bar() as bar, use_precision(config.precision), held():
        dtype = autocast_dtype()
        task = bar.add_task("training", total=config.steps, completed=done, loss=float("nan"))
        for step in range(done, config.steps):
            lr, hr = (side.to(device) for side in sampler.batch(step))
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(lr.device.type, dtype=dtype, enabled=dtype is not None):
                sr = model(lr)
            loss = (sr.float() - hr).abs().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            # Early on the average follows closely, so that it forgets the random start.
            decay = min(config.average_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)

            if step % 20 == 0 or step + 1 == config.steps:
                bar.update(task, completed=step + 1, loss=255 * loss.item())
            if time.monotonic() - saved > save_every or step + 1 == config.steps:
                _save(stored, config, step + 1, model, average, optimizer)
                saved = time.monotonic()
    names = [name for name, _ in model.named_parameters()]
    return {name: value.float().cpu() for name, value in zip(names, average, strict=True)}


class StepRate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f} steps/s")


def progress_bar() -> Progress:
    """Steps, loss in grey levels, rate, remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.2f}/255"),
        StepRate(),
        TimeRemainingColumn(),
    )


def _save(
    path: Path,
    config: TrainConfig,
    step: int,
    model: nn.Module,
    average: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    state = {
        "config": dataclasses.asdict(config),
        "step": step,
        "model": model.state_dict(),
        "average": average,
        "optimizer": optimizer.state_dict(),
    }
    with replacing(path) as partial:
        torch.save(state, partial)


def _restore(
    path: Path,
    resume: bool,
    config: TrainConfig,
    model: nn.Module,
    average: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    if not path.exists():
        return 0
    if not resume:
        raise CheckpointError(
            f"{printable(path)} exists; pass --resume to go on from it, or delete it"
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["config"] != dataclasses.asdict(config):
        raise CheckpointError(f"{printable(path)} belongs to {state['config']}, not to {config}")
    model.load_state_dict(state["model"])
    for mine, stored in zip(average, state["average"], strict=True):
        mine.copy_(stored)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
