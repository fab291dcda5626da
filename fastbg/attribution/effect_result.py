"""The result of a causal effect map: the metric under every replacement, effects and counts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution import diffusion as statistics
from fastbg.attribution.archive import read_arrays
from fastbg.attribution.blocks import BlockGrid
from fastbg.attribution.effect_file import check_map, recorded_precision, recorded_regression
from fastbg.attribution.interventions import Interventions, image_digest
from fastbg.attribution.passes import as_box
from fastbg.attribution.regression import LEAST, Regression
from fastbg.attribution.window_measure import METRICS
from fastbg.errors import DataError, InvalidArgument
from fastbg.given_path import file_to_write
from fastbg.printable import printable
from fastbg.writing import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED_BOUND = 2.5  # dB; end of the published colour scale for SR


class Counts(NamedTuple):
    """How many blocks of each map (B) harm, help, or do neither."""

    harm: Tensor
    help: Tensor
    idle: Tensor


class Extremes(NamedTuple):
    """Lowest and highest effect (B), and their row and column (B,2). The own blocks count as 0."""

    low: Tensor
    high: Tensor
    low_at: Tensor
    high_at: Tensor


@dataclass(frozen=True)
class CausalEffectResult:
    """Causal effects for B (image, window) pairs; for windows (B,N,3) every B stands for (B,N).

    Everything is float64 on the CPU, on a grid of (rows, columns) blocks.

    Attributes:
        baseline: (B) the metric of the unchanged window.
        coarse_values: (B,rows,columns,C) the metric under each coarse replacement; NaN for blocks
            that the window cannot depend on and for its own.
        fine_values: (B,rows,columns,F) under each fine one; NaN for blocks that are not affected,
            and for draws that ``accuracy="published"`` did not need.
        own: (B,rows,columns) blocks that share a pixel with the window.
        images: (B,3,h,w), the LR images.
        windows: (B,3) integers y, x, size in SR pixels, or (B,4) boxes, as they were given.
        scale: SR pixels per LR pixel and axis.
        block: side of a block in LR pixels.
        metric, tolerance, reuse_coarse: as for `CausalEffectMap`.
        interventions: the replacements of the blocks.
        regression: whether the means of affected blocks, from 12 replacements on, are regression
            estimates, as ``accuracy="published"`` has them: a linear function of the change of mean
            luma, the RMS change of the block's pixels, and the slopes of the replacement's luma is
            fitted to the losses, and taken at the means of these four over all coarse replacements.
            Those of all blocks stand for the pool that each block's are drawn from. Closer to the
            mean over the pool than the plain mean of the same replacements.
        precision: of the network's passes, see `fastbg.use_precision`; "not recorded" in files
            that were written before it was stored.
    """

    baseline: Tensor
    coarse_values: Tensor
    fine_values: Tensor
    own: Tensor
    images: Tensor
    windows: Tensor
    scale: int
    block: int
    metric: str
    tolerance: float
    reuse_coarse: bool
    interventions: Interventions
    precision: str = "ieee"
    regression: bool = False

    @cached_property
    def affected(self) -> Tensor:
        """(B,rows,columns): whether a coarse replacement changed the metric by `tolerance`."""
        values = self.baseline.numpy(), self.coarse_values.numpy(), self.tolerance
        return torch.from_numpy(affected_blocks(*values))

    @cached_property
    def _used(self) -> Tensor:
        """The metric (B,rows,columns,k) under the replacements that are averaged; NaN elsewhere."""
        keep_coarse = ~self.affected | self.reuse_coarse
        coarse = self.coarse_values.where(keep_coarse[..., None], torch.nan)
        return torch.cat([coarse, self.fine_values], -1)

    @cached_property
    def samples(self) -> Tensor:
        """(B,rows,columns): number of replacements that each effect is the mean of; may be 0."""
        return (~self._used.isnan()).sum(-1)

    @cached_property
    def mean_effect(self) -> Tensor:
        """`effect` before values below the tolerance are set to 0."""
        loss = self._means[0] - self.baseline[..., None, None]
        loss = loss if METRICS[self.metric][1] else -loss
        nothing = torch.where(self.own, torch.nan, 0.0)  # blocks out of reach: exactly 0
        return torch.where(self.samples > 0, loss, nothing.double())

    @cached_property
    def effect(self) -> Tensor:
        """(B,rows,columns): the window's mean loss when a block is replaced, in dB for "psnr".

        Positive: the block helps. Negative: it harms. Effects smaller than the tolerance are 0.
        NaN for the window's own blocks, unless `include_window` was set.
        """
        small = self.mean_effect.abs() < self.tolerance
        return self.mean_effect.masked_fill(small, 0.0)

    @cached_property
    def standard_error(self) -> Tensor:
        """(B,rows,columns) standard error of `mean_effect`.

        0 for blocks out of reach; NaN for the own blocks, and for blocks with a single sample.
        """
        error = self._means[1]
        return torch.where(self.samples > 0, error, torch.where(self.own, torch.nan, 0.0).double())

    @cached_property
    def _means(self) -> tuple[Tensor, Tensor]:
        """(B,rows,columns): mean of the metric over the replacements, and its standard error."""
        n = self.samples
        middle = self._used.nanmean(-1, keepdim=True)
        variance = (self._used - middle).square().nansum(-1) / (n - 1).clamp(min=0)
        means, errors = middle[..., 0].clone(), (variance / n).sqrt()
        if self.regression:
            images, pairs = self.images.flatten(0, -4), self.baseline.shape
            for image, pair in zip(images, np.ndindex(*pairs), strict=True):
                self._regress(image, pair, means[pair], errors[pair])
        return means, errors

    def _regress(self, image: Tensor, pair: tuple[int, ...], mean: Tensor, error: Tensor) -> None:
        """Put the regression estimates of one pair's blocks into `mean` and `error`."""
        given, used = self.interventions, self._used[pair].numpy()
        regression = Regression.of(image, given.coarse)
        for index, fine in zip(given.fine_index.tolist(), given.fine, strict=True):
            place = index[0], index[1]
            drawn = ~np.isnan(used[place])
            if self.affected[pair][place] and drawn.sum() >= LEAST:
                both = np.concatenate([given.coarse[place], fine])
                found = regression.mean(place, both[drawn], used[place][drawn])
                mean[place], error[place] = found

    @property
    def decided(self) -> Tensor:
        """(B,rows,columns): whether the effect is more than two standard errors from 0."""
        return self.effect.abs() > 2 * self.standard_error

    def difference(self, other: "CausalEffectResult") -> Tensor:
        """(B,rows,columns): effect here minus effect in `other`, by paired replacements.

        The mean difference of the losses over the replacements that were measured in both, so that
        the spread of the draws cancels. It compares two networks, or RCAN with all paths and with
        direct paths. NaN for the window's own blocks.

        Raises InvalidArgument for maps of other images, windows, metrics or interventions. Fine
        interventions must agree only for blocks that have some in both.
        """
        self._check_comparable(other)
        losses = self._losses() - other._losses()
        return losses.nanmean(-1).masked_fill(self.own, torch.nan)

    def _check_comparable(self, other: "CausalEffectResult") -> None:
        if not isinstance(other, CausalEffectResult):
            raise InvalidArgument("other", type(other).__name__, "a fastbg.CausalEffectResult")
        counts = self.fine_values.shape[-1], other.fine_values.shape[-1]
        differ = {
            f"metric {other.metric}": self.metric != other.metric,
            f"scale {other.scale}": self.scale != other.scale,
            "other windows": self.windows.tolist() != other.windows.tolist(),
            "other images": self._digests() != other._digests(),
            f"{counts[1]} fine replacements": counts[0] != counts[1],
        }
        found = [what for what, differs in differ.items() if differs]
        if not found and not self.interventions.agrees(other.interventions):
            found = ["other interventions"]
        if found:
            expected = (
                f"one of metric {self.metric}, scale {self.scale} and {counts[0]} fine "
                f"replacements, of the same images, windows and interventions"
            )
            raise InvalidArgument("other", f"a map of {', '.join(found)}", expected)

    def _digests(self) -> list[str]:
        return [image_digest(image) for image in self.images.flatten(0, -4)]

    def _losses(self) -> Tensor:
        """Loss (B,rows,columns,C+F) under every replacement; 0 out of reach, NaN: not measured."""
        values = torch.cat([self.coarse_values, self.fine_values], -1)
        losses = values - self.baseline[..., None, None, None]
        losses = losses if METRICS[self.metric][1] else -losses
        out_of_reach = self.coarse_values.isnan().all(-1) & ~self.own
        return losses.masked_fill(out_of_reach[..., None], 0.0)

    @property
    def unit(self) -> str:
        """Unit of the effects."""
        return METRICS[self.metric][0]

    def counts(self, public: bool = False) -> Counts:
        """Numbers of blocks that harm, help or do neither, without the window's own blocks.

        With `public` as in the published pie charts: the own blocks, as `as_published` defines
        them, count as helping. Raises InvalidArgument as `as_published` does.
        """
        result = self.as_published() if public else self
        values = result._without_own
        others = torch.ones_like(self.own) if public else ~self.own
        helps = (values > 0) | (result.own & others)
        kinds = (values < 0, helps, others & (values == 0) & ~helps)
        return Counts(*(kind.sum((-2, -1)) for kind in kinds))

    def as_published(self) -> "CausalEffectResult":
        """The same result with the window's own blocks as the public code defines them.

        It rounds both ends of the window down to whole blocks, so that a block in which the window
        ends is not an own block. Raises InvalidArgument if such a block was not measured; measure
        with ``include_window=True`` then.
        """
        unit = self.scale * self.block
        own = torch.zeros_like(self.own)
        windows = self.windows.flatten(0, -2).tolist()
        for mask, window in zip(own.view(-1, *self.grid.shape), windows, strict=True):
            y0, x0, y1, x1 = (v // unit for v in as_box(window))
            mask[y0:y1, x0:x1] = True
        if bool((~own & self.effect.isnan()).any()):
            got = f"windows that do not end where blocks of {unit} SR pixels do"
            raise InvalidArgument("public", got, "a map with include_window=True")
        return replace(self, own=own)

    @cached_property
    def _without_own(self) -> Tensor:
        return self.effect.masked_fill(self.own, 0.0)

    @property
    def range(self) -> Extremes:
        """Lowest (at most 0) and highest (at least 0) effect, as published."""
        flat = self._without_own.flatten(-2)
        low, high = flat.min(-1), flat.max(-1)
        columns = self.effect.shape[-1]

        def places(index: Tensor) -> Tensor:
            return torch.stack([index // columns, index % columns], -1)

        return Extremes(low.values, high.values, places(low.indices), places(high.indices))

    def share(self, boxes: Tensor | Sequence[int]) -> Tensor:
        """Share of |effect| inside boxes y0, x0, y1, x1 in SR pixels: (B), or (B,N) for (N,4).

        The window's own blocks count as 0. A block's effect is spread evenly over its pixels.
        """
        density = self._without_own.abs() / torch.from_numpy(self.grid.areas())
        pixels = self.grid.on_pixels(density.numpy())
        return statistics.box_share(torch.from_numpy(pixels), boxes, self.scale)

    @property
    def grid(self) -> BlockGrid:
        """The grid of blocks."""
        return BlockGrid(self.block, *self.images.shape[-2:])

    def colours(self, bound: float | None = None) -> NDArray[np.uint8]:
        """The map in the published colours (B,s*h,s*w,3): red helps, blue harms.

        The window's own blocks have the colour of `bound`, the effect at which the colour scale
        ends: by default the published 2.5 dB, for other metrics the largest effect.
        """
        from fastbg.attribution.effect_picture import colours

        if bound is not None and not bound > 0:
            raise InvalidArgument("bound", bound, "a number above 0")
        values = self.effect.masked_fill(self.own, torch.inf).numpy()
        large = self.grid.on_pixels(values).repeat(self.scale, -2).repeat(self.scale, -1)
        return colours(large, self.bound if bound is None else bound)

    @property
    def bound(self) -> float:
        """Default end of the colour scale, in the metric's unit."""
        if self.metric == "psnr":
            return PUBLISHED_BOUND
        return float(self._without_own.abs().max()) or 1.0

    def plot(self, index: int | tuple[int, ...] = 0) -> "Figure":
        """Figure of pair `index`: the input with its window, the map over it, and the counts.

        With (B,N) pairs, `index` is (b,n), or a number that counts the pairs of the first image
        first. Raises InvalidArgument if there is no such pair.
        """
        from fastbg.attribution.effect_picture import result_figure

        return result_figure(self, index)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all fields to a file in .npz format, whatever its suffix; `load` reads it."""
        arrays: dict[str, Any] = self.interventions.arrays(_PREFIX)
        arrays |= {name: np.asarray(getattr(self, name)) for name in (*_OTHERS, *_LATER)}
        arrays |= {name: getattr(self, name).numpy() for name in _TABLES}
        arrays["images"] = self.images.float().cpu().numpy()
        with replacing(file_to_write("path", path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "CausalEffectResult":
        """Read a file that `save` wrote. Raises DataError, naming the field, for any other file."""
        arrays = read_arrays(path)
        try:
            interventions = Interventions.from_arrays(arrays, _PREFIX)
            check_map(arrays, interventions)
            values: dict[str, Any] = {name: arrays[name].item() for name in _OTHERS}
            values["precision"] = recorded_precision(arrays)
            values["regression"] = recorded_regression(arrays)
            values |= {name: torch.from_numpy(arrays[name]) for name in ("images", *_TABLES)}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{printable(path)}: holds no causal effect map ({error})") from error
        return cls(**values, interventions=interventions)


# Names in the file, beside "images"; those of the interventions start with the prefix.
_TABLES = ("baseline", "coarse_values", "fine_values", "own", "windows")
_OTHERS = ("scale", "block", "metric", "tolerance", "reuse_coarse")
_LATER = ("precision", "regression")  # which files from before lack
_PREFIX = "interventions_"


def affected_blocks(
    baseline: NDArray[np.float64], coarse: NDArray[np.float64], tolerance: float
) -> NDArray[np.bool_]:
    """Whether a coarse value (...,rows,columns,C) differs from the baseline by the tolerance.

    Returns (...,rows,columns). NaN (not measured) counts as no difference.
    """
    difference = np.abs(np.asarray(baseline)[..., None, None, None] - coarse)
    return np.asarray((difference >= tolerance).any(-1))
