"""The hot loop never waits for the device: it runs on tensors that have no data to wait for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

import fastbg
from fastbg.attribution.local import _Run
from fastbg.attribution.quadrature import quadrature
from fastbg.data.images import ImageSet
from fastbg.experiments.groups import Groups, compose, group_distances
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.geometry import Box
from fastbg.measures.quality import psnr
from fastbg.models.edsr import EDSR

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


def test_passes_of_attribution_never_synchronise() -> None:
    """All paths of all images and windows in one pass, and their integrals.

    Along a straight line: the blur path's few taps are made on the host, and cached on the device.
    """
    path = fastbg.LinearPath()
    cells = quadrature("riemann_right", 4, path.at_length)
    boxes = [[Box(48, 48, 64, 64), Box(64, 48, 80, 64)]] * 3
    with no_synchronisation():
        model = Experiment().model
        run = _Run(fastbg.LocalAttribution(model, path), 64)
        run.batch = 64
        images = torch.empty((3, 3, 32, 32), device=DEVICE)
        parts = run.parts(images, boxes, cells)
        assert len(parts) == 6
        (stack,) = run.stacks(parts, cells)
        inputs = torch.cat([part.image for part in stack])
        ((_, found),) = run.integrals(inputs, stack[0].windows, cells)
        assert found.shape == inputs.shape


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
