"""Causal effect maps (CEM; Hu et al., TPAMI 47(8), 2025): replace a block, look at the window.

Each block of the input is replaced by patches of other images. Its effect is the mean loss of the
window's PSNR, in dB. In the coarse stage every block gets a few replacements; in the fine stage the
blocks that made a difference get many more.

Unlike in the published code, the window's own blocks are not measured, colour channels are not
swapped, every draw is seeded, and images of any size are accepted.
"""

import os
from collections.abc import Callable, MutableMapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastbg.attribution import memory
from fastbg.attribution.blocks import BlockGrid
from fastbg.attribution.changed import Change, ChangedWindow, check_batch
from fastbg.attribution.effect_result import CausalEffectResult, affected_blocks
from fastbg.attribution.interventions import (
    COARSE,
    FINE,
    Interventions,
    Pool,
    image_digest,
    pool_of,
)
from fastbg.attribution.passes import (
    WindowPasses,
    Windows,
    as_box,
    as_inputs,
    as_windows,
    leading_shape,
)
from fastbg.attribution.regression import Regression, is_enough, rounds
from fastbg.attribution.window_measure import WindowMeasure, true_window
from fastbg.errors import InvalidArgument
from fastbg.filters.dtypes import as_float
from fastbg.models.arguments import check_number, check_whole
from fastbg.models.rcan import RCAN
from fastbg.models.rcan_direct import DirectRCAN
from fastbg.precision import current, in_precision
from fastbg.upload import sent
from fastbg.vocabulary import EFFECT_METRICS

Values = NDArray[np.float64]
Places = Sequence[tuple[int, int]]  # row and column of blocks
Progress = MutableMapping[str, Values]
Watch = Callable[[str, int, int], None]

# Number of blocks in one part of `progress`.
COARSE_BLOCKS, FINE_BLOCKS = 64, 16


class CausalEffectMap:
    """Which blocks of the LR image help a window of the SR image, and which harm it?

    Args:
        model: SR network, LR (B,3,h,w) in [0,1] -> SR (B,3,s*h,s*w), s = 1 for restoration; as
            `LocalAttribution` takes it.
        block: side of a block in LR pixels; the published 8 HR pixels are 2 at x4.
        coarse: number of replacements of every block.
        fine: number of further replacements of each affected block.
        tolerance: a block is affected if one of its coarse replacements changes the metric by at
            least this much; smaller effects are set to 0. In the metric's unit.
        metric: "psnr": dB on 8-bit RGB, as published; "mse": grey levels squared, defined for
            equal images too; "change": RMS difference to the unchanged SR window in grey levels,
            which needs no truth.
        patches: the replacements: uint8 (N,k,k,3) RGB with k >= block, or a folder of images;
            larger ones are cropped at random. None: LR versions of the built-in photographs.
            Patches should be degraded in the same way as the network's inputs.
        seed: of the draws. A draw depends only on the seed, the block and the stage, so images
            with the same seed get the same replacements.
        reuse_coarse: whether the mean of an affected block includes its coarse replacements, a
            better estimate than the published one, which discards them.
        include_window: whether the window's own blocks are measured too. `effect`, `samples` and
            `standard_error` then have numbers there instead of NaN, and `as_published` accepts any
            window. Counts, range, shares, differences and pictures still leave them out.
        paths: "total", or "direct" for RCAN: the channel weights are kept at those of the unchanged
            image. A replaced block changes the means over the whole feature map, and so the
            weights; "direct" leaves that part of the effect out. The part left out is
            ``total.difference(direct)``, see `CausalEffectResult.difference`.
        batch: interventions per pass; None: chosen for the device.
    """

    def __init__(
        self,
        model: nn.Module,
        block: int = 2,
        coarse: int = 3,
        fine: int = 50,
        tolerance: float = 0.01,
        metric: str = "psnr",
        patches: NDArray[np.uint8] | str | os.PathLike[str] | None = None,
        seed: int = 0,
        *,
        reuse_coarse: bool = False,
        include_window: bool = False,
        paths: str = "total",
        batch: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidArgument("model", type(model).__name__, "a torch.nn.Module")
        self.model = model
        self.block = check_whole("block", block)
        self.coarse, self.fine = check_whole("coarse", coarse), check_whole("fine", fine)
        self.seed = check_whole("seed", seed, least=0)
        self.tolerance = check_number("tolerance", tolerance, least=0)
        if metric not in EFFECT_METRICS:
            raise InvalidArgument("metric", repr(metric), f"one of {EFFECT_METRICS}")
        if paths not in ("total", "direct"):
            raise InvalidArgument("paths", repr(paths), "'total' or 'direct'")
        if paths == "direct" and not isinstance(model, RCAN):
            expected = "'total': only RCAN has channel weights to fix"
            raise InvalidArgument("paths", "'direct'", expected)
        self.paths = paths
        check_batch(batch)
        self.metric, self.patches = metric, patches
        self.reuse_coarse, self.include_window = reuse_coarse, include_window
        self.batch = batch

    @in_precision
    @torch.no_grad()
    def effect(
        self,
        images: Tensor,
        windows: Windows,
        truth: Tensor | None = None,
        interventions: Interventions | None = None,
        accuracy: str | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> CausalEffectResult:
        """Effect of each block of the images on their windows.

        Args:
            images: (B,3,h,w) LR in [0,1], on the model's device.
            windows: ``(y, x, size)``, top-left corner and side in SR pixels, for all images; or
                integers (B,3), one for each; or (N,3) for a single image, or (B,N,3). With four
                integers: boxes y0, x0, y1, x1.
            truth: (B,3,s*h,s*w) HR, uint8 or floats in [0,1]; not for ``metric="change"``.
            interventions: those of another result, to compare networks under the same
                interventions. Affected blocks without fine replacements in it get new ones, drawn
                with `seed`.
            accuracy: "published": as accurate as the published 50 replacements, with fewer where
                fewer are enough: 12, and 6 more at a time until the standard error is at most
                0.0025 dB or a tenth of the effect; at most `fine`. Effects are regression estimates
                (`CausalEffectResult.regression`); replacements of all blocks must come from one
                pool, given `interventions` included.
            progress: a mapping that finished parts are stored in and read from, so that an
                interrupted map can be resumed. Use a new one for other arguments.
            watch: called after each part of an image and window with the stage, "coarse" or "fine",
                the number of its blocks so far, and of all its blocks.

        Returns:
            A `CausalEffectResult` with one entry for each pair of image and window.

        Raises:
            InvalidArgument: an argument's shape, value, dtype or device; a window that leaves the
                image; an infinite PSNR; interventions of other sizes, counts or images; a model
                that raises, or returns NaN or no SR image; with ``paths="direct"``, an RCAN with
                local means, hooks or modules that are not fastbg's.
        """
        images = as_inputs(images, self.model)
        corners = as_windows(windows, len(images))
        self._check(images, corners, accuracy)
        digests = tuple(sorted({image_digest(image) for image in images}))
        grid = BlockGrid(self.block, *images.shape[-2:])
        if interventions is not None:
            if not isinstance(interventions, Interventions):
                got = type(interventions).__name__
                raise InvalidArgument("interventions", got, "fastbg.Interventions or None")
            self._check_interventions(interventions, grid, digests)

        passes = WindowPasses(self.model)
        kept: Progress = {} if progress is None else progress
        draws = _Draws(self, grid, passes, interventions)
        tables = []
        with memory.frozen(self.model):
            for i, row in enumerate(corners.tolist()):
                run = self._passes(passes, images[i : i + 1])
                for j, corner in enumerate(row):
                    box = as_box(corner)
                    window = ChangedWindow(
                        run,
                        images[i : i + 1],
                        box,
                        self.batch,
                        drop_rounding=self.metric != "change",  # which has no 8-bit levels
                    )
                    true = true_window(self.metric, truth, images, window.scale, i, box)
                    measure = WindowMeasure(self.metric, box, window.unchanged, true)
                    entry = _Entry(self, window, measure, draws, accuracy is not None)
                    tables.append(entry.tables(_Part(kept, f"{i} {j}", watch)))
        shape = leading_shape(windows, len(images))
        baseline, coarse, fine, own = (
            torch.from_numpy(np.stack(column)) for column in zip(*tables, strict=True)
        )
        each = images[:, None].expand(*corners.shape[:2], *images.shape[1:])
        return CausalEffectResult(
            baseline=baseline.reshape(shape),
            coarse_values=coarse.reshape(*shape, *coarse.shape[1:]),
            fine_values=fine.reshape(*shape, *fine.shape[1:]),
            own=own.reshape(*shape, *grid.shape),
            images=each.reshape(*shape, *images.shape[1:]),
            windows=corners.reshape(*shape, corners.shape[-1]),
            scale=passes.scale,
            block=self.block,
            metric=self.metric,
            tolerance=self.tolerance,
            reuse_coarse=self.reuse_coarse,
            interventions=draws.made(digests),
            precision=current() if images.dtype == torch.float32 else "ieee",
            regression=accuracy is not None,
        )

    def _passes(self, total: WindowPasses, image: Tensor) -> WindowPasses:
        """`total`, or for direct paths those of RCAN with the channel weights of `image`."""
        if isinstance(self.model, RCAN) and self.paths == "direct":
            return WindowPasses(DirectRCAN(self.model, image))
        return total

    def _check(self, images: Tensor, corners: Tensor, accuracy: str | None) -> None:
        if images.shape[1] != 3 or not corners.numel():
            expected = "(B, 3, h, w) with at least one image and window"
            raise InvalidArgument("images", f"shape {tuple(images.shape)}", expected)
        if accuracy not in (None, "published"):
            raise InvalidArgument("accuracy", repr(accuracy), "'published' or None")
        if accuracy is not None and self.metric != "psnr":
            raise InvalidArgument("accuracy", repr(accuracy), "None unless metric is 'psnr'")

    def _check_interventions(
        self, given: Interventions, grid: BlockGrid, digests: Sequence[str]
    ) -> None:
        side = self.block
        wanted = (*grid.shape, self.coarse, side, side, 3)
        if given.coarse.shape != wanted:
            expected = f"{wanted} for {grid.height}x{grid.width} pixels"
            raise InvalidArgument("interventions.coarse", f"shape {given.coarse.shape}", expected)
        if len(given.fine) and given.fine.shape[1] != self.fine:
            expected = f"fine = {self.fine} for each block"
            raise InvalidArgument("interventions.fine", f"shape {given.fine.shape}", expected)
        others = sorted(set(digests) - set(given.images))
        if given.images and others:
            got = f"a set for images {', '.join(d[:8] for d in given.images)} (SHA-256)"
            expected = f"one for {', '.join(d[:8] for d in others)}"
            raise InvalidArgument("interventions", got, expected)


class _Draws:
    """The replacements of every block: given ones, otherwise drawn ones."""

    def __init__(
        self,
        settings: CausalEffectMap,
        grid: BlockGrid,
        passes: WindowPasses,
        given: Interventions | None,
    ) -> None:
        self.grid, self._settings, self._passes, self._given = grid, settings, passes, given
        self._fine: dict[tuple[int, int], NDArray[np.uint8]] = {}
        if given is not None:
            places = map(tuple, given.fine_index.tolist())
            self._fine = dict(zip(places, given.fine, strict=True))

    @cached_property
    def _pool(self) -> Pool:
        """Made on first use: it may depend on the scale, which is known only after a pass."""
        settings = self._settings
        return pool_of(settings.patches, settings.block, self._passes.scale, settings.seed)

    @cached_property
    def _coarse(self) -> NDArray[np.uint8]:
        if self._given is not None:
            return self._given.coarse
        blocks = [self._draw(i, j, COARSE) for i, j in np.ndindex(self.grid.shape)]
        return np.stack(blocks).reshape(*self.grid.shape, *blocks[0].shape)

    def coarse(self, place: tuple[int, int]) -> NDArray[np.uint8]:
        """Coarse replacements (C,b,b,3) of a block."""
        found: NDArray[np.uint8] = self._coarse[place]
        return found

    def regression(self, image: Tensor) -> Regression:
        """Estimates means of blocks of an image (1,3,h,w)."""
        return Regression.of(image[0], self._coarse)

    def fine(self, place: tuple[int, int]) -> NDArray[np.uint8]:
        """Fine replacements (F,b,b,3) of a block."""
        if place not in self._fine:
            self._fine[place] = self._draw(*place, FINE)
        return self._fine[place]

    def made(self, digests: tuple[str, ...]) -> Interventions:
        """All replacements that were given or drawn."""
        places = sorted(self._fine)
        side = self._settings.block
        fine = np.empty((len(places), self._settings.fine, side, side, 3), np.uint8)
        for n, place in enumerate(places):
            fine[n] = self._fine[place]
        index = np.array(places, np.int64).reshape(-1, 2)
        return Interventions(self._coarse, index, fine, digests)

    def _draw(self, row: int, column: int, stage: int) -> NDArray[np.uint8]:
        count = self._settings.coarse if stage == COARSE else self._settings.fine
        return self._pool.draw(row, column, stage, count, self._settings.block)


class _Part:
    """Computes parts of one entry's tables, or reads them from the caller's `progress`."""

    def __init__(self, kept: Progress, entry: str, watch: Watch | None) -> None:
        self._kept, self._entry, self._watch = kept, entry, watch

    def __call__(self, name: str, make: Callable[[], Values]) -> Values:
        key = f"{self._entry} {name}"
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def note(self, stage: str, done: int, blocks: int) -> None:
        """Tell the caller how far a stage is."""
        if self._watch is not None:
            self._watch(stage, done, blocks)


class _Entry:
    """The map of one image and window."""

    def __init__(
        self,
        settings: CausalEffectMap,
        window: ChangedWindow,
        measure: WindowMeasure,
        draws: _Draws,
        sequential: bool,
    ) -> None:
        self._settings, self._window, self._measure = settings, window, measure
        self._draws, self._sequential = draws, sequential

    @cached_property
    def _regression(self) -> Regression:
        return self._draws.regression(self._window.image)

    def tables(self, part: _Part) -> tuple[Values, Values, Values, NDArray[np.bool_]]:
        """The metric unchanged, under coarse and fine replacements; the window's own blocks.

        The metric is NaN where nothing was measured.
        """
        grid, settings = self._draws.grid, self._settings
        own = grid.touching(self._window.box.coarsen(self._window.scale))
        baseline = np.array(self._measure.baseline)
        coarse = np.full((*grid.shape, settings.coarse), np.nan)
        wanted = grid.touching(self._window.reach)
        if not settings.include_window:
            wanted &= ~own
            if own.all():
                got = f"the box {tuple(self._window.box)}, which touches every block"
                expected = "a window that leaves blocks to replace, or include_window=True"
                raise InvalidArgument("windows", got, expected)
        self._fill(coarse, wanted, part, "coarse", COARSE_BLOCKS, self._coarse_values)
        fine = np.full((*grid.shape, settings.fine), np.nan)
        affected = affected_blocks(baseline, coarse, settings.tolerance)
        for i, j in np.argwhere(affected):  # the result stores them, even if nothing is measured
            self._draws.fine((int(i), int(j)))
        self._fill(
            fine, affected, part, "fine", FINE_BLOCKS, lambda p: self._fine_values(p, coarse)
        )
        return baseline, coarse, fine, own

    def _fill(
        self,
        table: Values,
        mask: NDArray[np.bool_],
        part: _Part,
        name: str,
        count: int,
        measured: Callable[[Places], Values],
    ) -> None:
        """Fill the rows of `table` for the blocks in `mask`, `count` blocks at a time."""
        places = [(int(i), int(j)) for i, j in np.argwhere(mask)]
        for start in range(0, len(places), count):
            some = places[start : start + count]
            values = part(f"{name} {start}", lambda some=some: measured(some))  # type: ignore[misc]
            expected = (len(some), table.shape[-1])
            if values.shape != expected:
                got = f"values {values.shape} for part {name!r} {start}"
                raise InvalidArgument("progress", got, f"{expected}: of a map with these arguments")
            table[tuple(np.transpose(some))] = values
            part.note(name, start + len(some), len(places))

    def _coarse_values(self, places: Places) -> Values:
        return self._values([(place, self._draws.coarse(place)) for place in places])

    def _fine_values(self, places: Places, coarse: Values) -> Values:
        """The metric (m,F) under fine replacements; NaN for rounds that a block did not need."""
        count = self._settings.fine
        values = np.full((len(places), count), np.nan)
        open_ = list(range(len(places)))
        stops = rounds(count) if self._sequential else [count]
        for start, stop in zip([0, *stops], stops, strict=False):
            asked = [(places[n], self._draws.fine(places[n])[start:stop]) for n in open_]
            values[open_, start:stop] = self._values(asked)
            if stop < count:
                of_block = {n: (values[n, :stop], coarse[places[n]]) for n in open_}
                open_ = [n for n in open_ if not self._is_enough(places[n], *of_block[n])]
            if not open_:
                break
        return values

    def _is_enough(self, place: tuple[int, int], drawn: Values, coarse: Values) -> bool:
        """Whether the mean of a block is as accurate as accuracy="published" asks."""
        replacements = self._draws.fine(place)[: len(drawn)]
        if self._settings.reuse_coarse:
            replacements = np.concatenate([self._draws.coarse(place), replacements])
            drawn = np.concatenate([coarse, drawn])
        mean = self._regression.mean(place, replacements, drawn)
        return is_enough(mean, self._measure.baseline)

    def _values(self, asked: Sequence[tuple[tuple[int, int], NDArray[np.uint8]]]) -> Values:
        """(m,k): the metric under each of k replacements (k,b,b,3) of m blocks."""
        image = self._window.image
        changes = []
        for place, replacements in asked:
            box = self._draws.grid.box(*place)
            rows, columns = box.y1 - box.y0, box.x1 - box.x0
            pixels = torch.from_numpy(np.ascontiguousarray(replacements[:, :rows, :columns]))
            floats = as_float(sent(pixels, image.device)).to(image.dtype).permute(0, 3, 1, 2)
            changes += [Change(box, one) for one in floats]
        values = torch.cat([self._measure(part) for part in self._window.changed(changes)])
        return values.numpy().reshape(len(asked), -1)
