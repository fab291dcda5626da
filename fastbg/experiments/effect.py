"""Compares LAM with causal effects on the same blocks: do the blocks that LAM marks matter?

Images are paired as in `ring` and `inward`. Each pair gives three items, its scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution.blocks import BlockGrid
from fastbg.attribution.distance import window_distance
from fastbg.attribution.effect import CausalEffectMap
from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.inward import Inward, InwardOptions
from fastbg.experiments.nested import Nested
from fastbg.experiments.options import Options, option
from fastbg.experiments.reading import Reading
from fastbg.experiments.ring import Ring, RingOptions
from fastbg.experiments.study import Item, Study, as_image
from fastbg.experiments.windows import check_sizes
from fastbg.geometry import Box
from fastbg.models.network import Network
from fastbg.stats.correlation import partial_spearman, spearman

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNTOUCHED, RING, INWARD = "untouched", "ring", "inward"
SCENES = {
    UNTOUCHED: "untouched image",
    RING: "foreign ring",
    INWARD: "foreign surroundings",
}


@dataclass(frozen=True)
class EffectOptions(Options):
    """Sizes in HR pixels."""

    count: int = option(10, "pairs of photographs, and as many pairs of textures", low=1)
    candidates: int = option(80, "sub-images that the pairs are chosen from", low=2)
    size: int = option(128, "side of an image, HR pixels", low=1)
    window: int = option(16, "side of the central window that is measured, HR pixels", low=1)
    border: int = option(
        48, "outer side of the ring, where the surroundings begin, HR pixels", low=1
    )
    domain: Literal["hr", "lr"] = option(
        "hr",
        "resolution in which the images are composed",
        hr="high, then down-sampled",
        lr="low, so that LR pixels of the first image never change",
    )
    block: int = option(2, "side of a replaced block, LR pixels", low=1)
    coarse: int = option(3, "replacements of every block", low=1)
    fine: int = option(4, "further replacements of each affected block; published: 50", low=1)
    tolerance: float = option(0.01, "dB; blocks with a smaller effect are idle", low=0)
    near: float = option(
        0.1, "C10: shares of foreign pixels agree if they differ by less", low=0, high=1
    )


# Same plan and composites, but errors name the options of this experiment.
class _Rings(Ring):
    name = "effect"


class _Surroundings(Inward):
    name = "effect"


class Effect(Experiment):
    """LAM and the causal effect map of the central window, for the same input.

    Columns: `psnr` (n), dB, of the window; `draws` (n), the number of replacements; and for the K
    blocks outside of the window, row by row: `effect` (n,K), the loss of the window's PSNR in dB if
    the block is replaced; `error` (n,K), its standard error; `lam` (n,K), the block's share of the
    attribution map.
    """

    name = "effect"
    title = "Does what the attribution marks matter?"
    paper = "not in the paper"
    question = (
        "LAM computes from gradients which input pixels a network used for a window. Does the "
        "window get worse if these pixels are replaced? And is the share of foreign content in the "
        "attribution the same as its share in the effects?"
    )
    method = (
        "Pairs of dissimilar images, as in ring and inward, give three scenes each: the first "
        "image unchanged; with a ring of the second image around the window in the middle; with "
        "the second image beyond that ring. LAM gives each block of the LR input a share of the "
        "map. Then the block is replaced by patches of other photographs; its causal effect (CEM) "
        "is the mean loss of the window's PSNR. A block with a loss helps, one with a gain harms, "
        "and one below the tolerance is idle. The ranks of the blocks by LAM and by effect are "
        "compared for each input. The window's own blocks are left out."
    )
    options_type: ClassVar[type[Options]] = EffectOptions
    cost: ClassVar[float] = 400
    chunk: ClassVar[int] = 1
    extra = True
    curves = ("effect", "error", "lam")
    shown = ("lr",)

    def plan(self, study: Study) -> list[Item]:
        """The scenes of each pair, the ring first; the most dissimilar pairs come first."""
        self.check(study.scale)
        pairs = self.scenes[RING].plan(study)
        return [
            replace(pair, key=f"{pair.key}, {scene}", set=scene, number=number)
            for number, pair in enumerate(pairs)
            for scene in (RING, INWARD, UNTOUCHED)  # a quick run has the first only
        ]

    def check(self, scale: int) -> None:
        """InvalidArgument for sizes off the grid of blocks, and for PSNR on luma."""
        o = self.options
        o.check(self.name)
        check_sizes(self.name, o, scale)
        step = 2 * scale * o.block
        for name in ("size", "window", "border"):
            if getattr(o, name) % step:
                expected = f"a multiple of {step}, so that blocks of {o.block} LR pixels end there"
                raise InvalidArgument(f"{self.name}.{name}", getattr(o, name), expected)
        if not o.window < o.border < o.size:
            expected = f"between the window {o.window} and the size {o.size}"
            raise InvalidArgument(f"{self.name}.border", o.border, expected)
        if o.channel != "rgb":
            expected = "'rgb', as causal effects are measured"
            raise InvalidArgument(f"{self.name}.channel", repr(o.channel), expected)
        o.check_pairing(self.name)

    @cached_property
    def scenes(self) -> dict[str, Nested]:
        """For each scene the experiment that composes its images."""
        o = self.options
        shared: dict[str, Any] = {
            name: getattr(o, name)
            for name in ("count", "candidates", "size", "window", "domain", "kernel", "lr")
        }
        shared["nodes"] = "many"  # single blocks of the map are compared
        ring = _Rings(RingOptions(sizes=f"0,{o.border}", seam="hard", **shared), self.seed)
        around = _Surroundings(
            InwardOptions(sizes=f"{o.size},{o.border}", seam="hard", **shared), self.seed
        )
        return {UNTOUCHED: ring, RING: ring, INWARD: around}

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """One row for each item."""
        rows = [self.compare(net, item, study) for item in items]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def compare(self, net: Network, item: Item, study: Study) -> dict[str, Tensor]:
        """LAM and causal effects of one input, as columns of one row."""
        o, scene = self.options, self.scenes[item.set]
        hr, lr = self.inputs(item, study)
        effects = CausalEffectMap(
            net, o.block, o.coarse, o.fine, o.tolerance, seed=self.seed, reuse_coarse=True
        )
        y0, x0, _, _ = scene.window_box
        found = effects.effect(lr, (y0, x0, o.window), hr)
        others = ~found.own[0]
        shares = scene.attribute(net, lr, study).share(self.block_boxes(study.scale))[0]
        return {
            "psnr": found.baseline[0],
            "draws": found.samples.sum().double(),
            "effect": found.mean_effect[0][others],
            "error": found.standard_error[0][others].nan_to_num(nan=0.0),
            "lam": shares.double().cpu()[others.flatten()],
        }

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """The images, and those of the foreign content of all scenes."""
        return self.scenes[RING].readings(items, study)

    def inputs(self, item: Item, study: Study) -> tuple[Tensor, Tensor]:
        """HR image (1,3,H,W) uint8, and the LR input (1,3,h,w) of the item's scene."""
        hr, scene = study.ground_truth([item]), self.scenes[item.set]
        size = 0 if item.set == UNTOUCHED else self.options.border
        return hr, scene.inputs([item], hr, study, sizes=(size,))

    def block_boxes(self, scale: int) -> Tensor:
        """Boxes of all blocks (rows*columns,4) in HR pixels."""
        grid = self.grid(scale)
        boxes = [grid.box(*place) for place in np.ndindex(grid.shape)]
        return scale * torch.tensor(boxes, device="cpu")

    def grid(self, scale: int) -> BlockGrid:
        """The grid of blocks on an LR input."""
        side = self.options.size // scale
        return BlockGrid(self.options.block, side, side)

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """The coarse replacements only: how many blocks get further ones is not known before."""
        blocks = self.grid(study.scale).shape[0] ** 2
        return Work(forwards=blocks * self.options.coarse * len(items))

    def cases(self, measured: Measured) -> list[int]:
        """The ring scenes in which both maps agree best and worst."""
        ring = np.flatnonzero(in_scene(measured, RING))
        if not ring.size:
            return []
        rho = agreement(measured)[ring]
        return list(dict.fromkeys([int(ring[np.argmax(rho)]), int(ring[np.argmin(rho)])]))

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The input; the maps are drawn from the records."""
        return {"lr": as_image(self.inputs(item, study)[1][0])}


class Layout:
    """Positions of the K measured blocks, the same in every input.

    Attributes:
        shape: rows and columns of all blocks, including the window's own.
        own: (rows, columns) whether a block is one of the window's own, which are not measured.
        distance: (K) from the centre of a block to that of the window, in blocks.
    """

    def __init__(self, experiment: Effect, blocks: int) -> None:
        """`blocks`: K, from which the side of a block in HR pixels follows."""
        o = experiment.options
        self._pixels = round(((o.size**2 - o.window**2) / blocks) ** 0.5)
        count = o.size // self._pixels
        self.shape = count, count
        window = experiment.scenes[RING].window_box
        self.own = self._inside(window)
        distance = window_distance(window, self._pixels, count, count)
        self.distance: Values = distance[~self.own]
        self.foreign: dict[str, Mask] = {}
        for scene in (RING, INWARD):
            inner, outer = experiment.scenes[scene].boxes(o.border)
            self.foreign[scene] = (self._inside(outer) & ~self._inside(inner))[~self.own]

    def _inside(self, box: Box) -> Mask:
        """(rows, columns): whether a block lies in a box of HR pixels."""
        mask = np.zeros(self.shape, bool)
        y0, x0, y1, x1 = (v // self._pixels for v in box)
        mask[y0:y1, x0:x1] = True
        return mask

    def on_blocks(self, values: Values) -> Values:
        """`values` (K) as a map (rows, columns), with 0 for the window's own blocks."""
        drawn = np.zeros(self.shape)
        drawn[~self.own] = values
        return drawn


def in_scene(result: Measured, scene: str) -> Mask:
    """Whether each item (n) belongs to a scene."""
    return np.array([item.set == scene for item in result.items], dtype=bool)


def of_scene(result: Measured, scene: str) -> Measured:
    """The records of one scene."""
    chosen = in_scene(result, scene)
    items = [item for item, wanted in zip(result.items, chosen, strict=True) if wanted]
    columns = {name: values[chosen] for name, values in result.columns.items()}
    return replace(result, items=items, columns=columns)


def agreement(result: Measured, *, signed: bool = False) -> Values:
    """Rank correlation (n) of LAM and |effect| (`signed`: effect) over the blocks of an input."""
    effect = result.columns["effect"]
    return spearman(result.columns["lam"], effect if signed else np.abs(effect))


def agreement_at_distance(result: Measured, distance: Values) -> Values:
    """Partial rank correlation (n) of LAM and |effect|, given the distance (K) to the window."""
    effect = np.abs(result.columns["effect"])
    return partial_spearman(result.columns["lam"], effect, np.broadcast_to(distance, effect.shape))


def thresholded(result: Measured, tolerance: float) -> Values:
    """Effects (n,K); those below the tolerance are set to 0, as in the published maps."""
    effect = result.columns["effect"]
    return np.where(np.abs(effect) < tolerance, 0.0, effect)


def share_inside(values: Values, mask: Mask) -> Values:
    """Share (n) of `values` >= 0 (n,K) in the blocks of `mask` (K); NaN if all values are 0."""
    total = values.sum(axis=1)
    inside = values[:, mask].sum(axis=1)
    return np.divide(inside, total, out=np.full(len(values), np.nan), where=total > 0)
