"""The hot loop never waits for the device: it runs on tensors that have no data to wait for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastbg
from fastbg.attribution import changed, effect, expected, gradient, unexplained
from fastbg.attribution.faithfulness import _Curves
from fastbg.attribution.local import integrate
from fastbg.attribution.passes import as_box
from fastbg.attribution.paths import Path
from fastbg.attribution.quadrature import quadrature
from fastbg.attribution.window_measure import WindowMeasure
from fastbg.data.images import ImageSet
from fastbg.experiments.groups import Groups, compose, group_distances
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.filters import constants
from fastbg.measures.quality import psnr
from fastbg.models.edsr import EDSR
from fastbg.upload import sent

# Fake tensors need no GPU, but copies between fake CUDA tensors need a CUDA build of PyTorch.
DEVICE = torch.device("cuda" if torch.backends.cuda.is_built() else "cpu")
CENTRE = (48, 48, 80, 80)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Tensors made in here have shapes only: `.item()`, `nonzero`, a branch on a value raise."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield


class Experiment:
    """Foregrounds in foreign backgrounds: compose, restore, measure the window, accumulate."""

    def __init__(self) -> None:
        with DEVICE:  # fake modules cannot be moved
            self.model = EDSR(features=8, blocks=2).eval().requires_grad_(False)
        self.a = torch.empty((4, 3, 128, 128), dtype=torch.uint8, device=DEVICE)
        self.b = torch.empty_like(self.a)
        self.pairs = torch.empty((6, 2), dtype=torch.int32, device=DEVICE)
        self.each_box = torch.empty((6, 4), dtype=torch.int32, device=DEVICE)
        self.total = torch.zeros((), dtype=torch.float64, device=DEVICE)

    def step(self, inner: torch.Tensor | tuple[int, ...]) -> torch.Tensor:
        hr = fastbg.composite(self.a, self.b, self.pairs, inner)
        lr = fastbg.composite_lr(self.a, self.b, self.pairs, inner, quantize=True)
        y0, x0, y1, x1 = CENTRE
        scores = psnr(self.model.forward_window(lr, CENTRE), hr[..., y0:y1, x0:x1], shave=4)
        self.total += scores.sum()
        return scores


def test_the_hot_loop_never_synchronises() -> None:
    with no_synchronisation():
        experiment = Experiment()
        for inner in (CENTRE, experiment.each_box):
            scores = experiment.step(inner)
            assert scores.shape == (6,)
            assert scores.device.type == DEVICE.type
        assert experiment.total.shape == ()


def test_mosaic_and_whole_images_never_synchronise() -> None:
    with no_synchronisation():
        experiment = Experiment()
        tiles = torch.empty((2, 3, 16, 16), device=DEVICE)
        codes = torch.empty((2, 5, 5), dtype=torch.int32, device=DEVICE)
        mosaics = fastbg.mosaic(tiles, codes)
        restored = experiment.model(mosaics)
        assert restored.shape == (2, 3, 320, 320)
        assert psnr(restored, torch.empty_like(restored), channel="y").shape == (2,)


@pytest.mark.parametrize(
    "synchronising",
    [
        lambda scores: scores.sum().item(),
        lambda scores: scores.max() > 30 and 1,
        lambda scores: scores[scores > 30],
        lambda scores: torch.nonzero(scores),
        lambda scores: scores.tolist(),
        lambda scores: [float(score) for score in scores],
    ],
    ids=["item", "branch", "mask", "nonzero", "tolist", "float"],
)
def test_a_synchronising_step_is_caught(
    synchronising: Callable[[torch.Tensor], object],
) -> None:
    with no_synchronisation():
        scores = Experiment().step(CENTRE)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            synchronising(scores)


WINDOW = (48, 48, 16)
Passes = Callable[[nn.Module, torch.Tensor], object]


def each_image(window: tuple[int, ...], count: int) -> Any:
    """`window` for each of `count` images, as an array: a fake mode makes all tensors fake."""
    return np.array([[window]] * count)


def along(make: Callable[[], Path], estimator: str = "path") -> Passes:
    """Passes of `LocalAttribution` along a path, of two windows of each image at once."""

    def run(model: nn.Module, images: torch.Tensor) -> None:
        lam = fastbg.LocalAttribution(model, make(), estimator=estimator)
        cells = quadrature("riemann_right", 4, lam.path.at_length)
        windows: Any = np.array([[WINDOW, (64, 48, 16)]] * len(images))
        found = integrate(lam, images, windows, cells, 64, with_ends=True)
        assert found.total.shape == (len(images), 2, *images.shape[1:])

    return run


def drawn(model: nn.Module, images: torch.Tensor) -> None:
    """Passes of `ExpectedGradients`, for points that are drawn on the lines."""
    mean = fastbg.ExpectedGradients(model, torch.rand(2, 3, 32, 32, device="cpu"))
    for line, cells in zip(mean._lines, mean._drawn(6), strict=True):
        integrate(line, images, each_image(WINDOW, len(images)), cells, 64, with_ends=False)


def ordered(model: nn.Module, images: torch.Tensor) -> None:
    """Passes of the curves of `faithfulness`."""
    path, objective = fastbg.GaussianBlurPath(), fastbg.GradientDetector()
    curves = _Curves(model, path, objective, np.array([4, 64, 256]))
    curves.start(images[:1], as_box(WINDOW))
    assert curves.mean([np.arange(32 * 32)]).shape == (2, 3)


PASSES: dict[str, Passes] = {
    "blur path": along(fastbg.GaussianBlurPath),
    "line from grey": along(fastbg.LinearPath),
    "line from an image": along(lambda: fastbg.LinearPath(torch.rand(1, 3, 32, 32, device="cpu"))),
    "line from blurred": along(fastbg.GaussianLinearPath),
    "line from noise": along(fastbg.NoisePath),
    "custom path": along(lambda: fastbg.CustomPath(lambda x, t: t.view(-1, 1, 1, 1) * x[:, None])),
    "custom path with derivatives": along(
        lambda: fastbg.CustomPath(
            lambda x, t: t.view(-1, 1, 1, 1) * x[:, None],
            lambda x, t: x[:, None].expand(-1, len(t), -1, -1, -1),
        )
    ),
    "IDGI, blur path": along(fastbg.GaussianBlurPath, "idgi"),
    "IDGI, line": along(fastbg.LinearPath, "idgi"),
    "expected gradients": drawn,
    "window_gradient": lambda model, images: fastbg.window_gradient(model, images, WINDOW),
    "faithfulness": ordered,
}
# Methods that wait for a device within a call, and why; docs/gpu.md has this list, too.
WAITING: dict[str, Passes] = {
    # The values of the coarse stage decide which blocks the fine one replaces.
    "causal effect map": lambda model, images: fastbg.CausalEffectMap(
        model, block=16, coarse=2, fine=2, metric="change"
    ).effect(images, WINDOW),
    # Each part of the boxes is refused if its window is not finite.
    "occlusion": lambda model, images: fastbg.Occlusion(model, metric="change").occlude(
        images, WINDOW, size=16, replacement=0.5
    ),
}


@pytest.fixture
def reads_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what calls read when all passes of an image are launched."""

    def none(values: torch.Tensor, *_: object) -> object:
        return np.zeros(values.shape[:2], bool)

    for module, name in ((expected, "without"), (unexplained, "without"), (unexplained, "changed")):
        monkeypatch.setattr(module, name, none)
    monkeypatch.setattr(gradient, "check_finite", lambda *_: None)
    monkeypatch.setattr(gradient, "as_windows", each_image)


@pytest.mark.usefixtures("reads_no_result")
@pytest.mark.parametrize("method", PASSES)
def test_passes_of_attribution_never_synchronise(method: str) -> None:
    with no_synchronisation():
        PASSES[method](Experiment().model, torch.empty((3, 3, 32, 32), device=DEVICE))


class Copies(TorchDispatchMode):
    """Notes each use of the host's data by the `meta` device that does not come from pinned memory.

    Reading from that device raises. fastbg's operators keep the tables that they are given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited_for: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        on_host = [each for each in given if each.device.type == "cpu"]
        on_device = any(
            isinstance(each, torch.Tensor) and each.is_meta for each in tree_leaves(out)
        )
        at_once = (kwargs or {}).get("non_blocking", False) or func.namespace == "fastbg"
        if on_host and on_device and not at_once:
            self.waited_for.append(f"{func} of {[tuple(each.shape) for each in on_host]}")
        return out


@pytest.mark.usefixtures("reads_no_result")
@pytest.mark.parametrize("method", [*PASSES, *WAITING])
def test_passes_of_attribution_copy_no_pageable_memory(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # has no `meta` device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(constants, "_get_current_dispatch_mode", lambda: None)  # it only watches
    if method in WAITING:  # the values that they wait for
        monkeypatch.setattr(changed, "check_finite", lambda *_: None)
        monkeypatch.setattr(effect, "image_digest", lambda _: "")
        values = lambda _, patches: torch.ones(len(patches), dtype=torch.float64)  # noqa: E731
        monkeypatch.setattr(WindowMeasure, "__call__", values)
    with torch.device("meta"):
        model = EDSR(features=8, blocks=2).eval().requires_grad_(False)
    images = torch.empty((2, 3, 32, 32), device="meta")
    run = (PASSES | WAITING)[method]
    run(model, images)  # constants are copied once
    with Copies() as copies:
        run(model, images)
    assert copies.waited_for == []


def test_data_are_sent_from_pinned_memory_to_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def moved(tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        calls.append((device.type, non_blocking))
        return tensor

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("pinned")
        return tensor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", moved)
    sent(torch.ones(2), torch.device("cuda"))
    sent(torch.ones(2), torch.device("cpu"))
    sent(torch.empty(2, device="meta"), torch.device("cpu"))  # must have arrived when it is read
    assert calls == ["pinned", ("cuda", True), ("cpu", True), ("cpu", False)]


def test_groups_of_composites_never_synchronise() -> None:
    """What `swap` does with several groups in one pass, sub-images shared between them."""
    options = SwapOptions(size=64, region=16, seam="hard,4")
    swap, nothing = Swap(options), Study(ImageSet("none", ()), device=DEVICE, backend="torch")
    members = [Item(str(i), str(i), (0, 0, 64, 64)) for i in range(5)]
    with no_synchronisation():
        model = Experiment().model
        images = torch.empty((5, 3, 64, 64), dtype=torch.uint8, device=DEVICE)
        pairs = torch.empty((8, 2), dtype=torch.int64, device=DEVICE)
        groups = Groups(members, images, pairs, [4, 4])
        for seam in swap.seams:
            assert swap.compare(model, groups, compose(groups, nothing, options, seam)).shape == (
                8,
            )
        distances = group_distances(swap.descriptions, model, groups, nothing, options)
        assert [found["vgg_gram"].shape for found in distances] == [(4,), (4,)]
