"""What a causal effect map returns: the metric under every replacement, and what follows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution import diffusion as statistics
from fastbg.attribution.archive import read_arrays
from fastbg.attribution.blocks import BlockGrid
from fastbg.attribution.effect_file import check_map
from fastbg.attribution.interventions import Interventions, image_digest
from fastbg.attribution.passes import as_box
from fastbg.attribution.window_measure import METRICS
from fastbg.errors import DataError, InvalidArgument
from fastbg.writing import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED_BOUND = 2.5  # dB at which the published colours of SR end


class Counts(NamedTuple):
    """How many blocks of each map (B) harm, help, or do neither."""

    harm: Tensor
    help: Tensor
    idle: Tensor


class Extremes(NamedTuple):
    """Lowest and highest effect (B), the window's own blocks as 0; row and column of each (B,2)."""

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
        metric, tolerance, reuse_coarse: as `CausalEffectMap` has them.
        interventions: what the blocks were replaced by.
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

    @cached_property
    def affected(self) -> Tensor:
        """(B,rows,columns): whether a coarse replacement changed the metric by the tolerance."""
        values = self.baseline.numpy(), self.coarse_values.numpy(), self.tolerance
        return torch.from_numpy(affected_blocks(*values))

    @cached_property
    def _used(self) -> Tensor:
        """The values (B,rows,columns,k) whose mean counts, NaN elsewhere."""
        keep_coarse = ~self.affected | self.reuse_coarse
        coarse = self.coarse_values.where(keep_coarse[..., None], torch.nan)
        return torch.cat([coarse, self.fine_values], -1)

    @cached_property
    def samples(self) -> Tensor:
        """(B,rows,columns): how many replacements each effect is the mean of; 0: none needed."""
        return (~self._used.isnan()).sum(-1)

    @cached_property
    def mean_effect(self) -> Tensor:
        """`effect` before the tolerance makes small ones 0."""
        loss = self._used.nanmean(-1) - self.baseline[..., None, None]
        loss = loss if METRICS[self.metric][1] else -loss
        nothing = torch.where(self.own, torch.nan, 0.0)  # out of reach is exactly 0
        return torch.where(self.samples > 0, loss, nothing.double())

    @cached_property
    def effect(self) -> Tensor:
        """(B,rows,columns): what replacing a block takes from the window, in dB for "psnr".

        Above 0 the block helps, below it harms; 0 where it is less than the tolerance. NaN on the
        window's own blocks, unless `include_window`.
        """
        small = self.mean_effect.abs() < self.tolerance
        return self.mean_effect.masked_fill(small, 0.0)

    @cached_property
    def standard_error(self) -> Tensor:
        """(B,rows,columns) of `mean_effect`: 0 out of reach, NaN for one sample and own blocks."""
        n = self.samples
        middle = self._used.nanmean(-1, keepdim=True)
        variance = (self._used - middle).square().nansum(-1) / (n - 1).clamp(min=0)
        error = (variance / n).sqrt()
        return torch.where(n > 0, error, torch.where(self.own, torch.nan, 0.0).double())

    @property
    def decided(self) -> Tensor:
        """(B,rows,columns): whether the effect is more than two standard errors from 0."""
        return self.effect.abs() > 2 * self.standard_error

    def difference(self, other: "CausalEffectResult") -> Tensor:
        """(B,rows,columns): how much more a block does here than in `other`, pair by pair.

        The mean, over the replacements that were measured in both, of the loss here less the loss
        there; the draws' own spread cancels. Between two networks, or between all of RCAN's paths
        and the direct ones. NaN on the window's own blocks.

        Raises InvalidArgument for maps of other images, windows, metrics or interventions; the
        fine ones need be the same only for blocks that have some in both.
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
        """(B,rows,columns,C+F) of every replacement; 0 out of reach, NaN if not measured."""
        values = torch.cat([self.coarse_values, self.fine_values], -1)
        losses = values - self.baseline[..., None, None, None]
        losses = losses if METRICS[self.metric][1] else -losses
        out_of_reach = self.coarse_values.isnan().all(-1) & ~self.own
        return losses.masked_fill(out_of_reach[..., None], 0.0)

    @property
    def unit(self) -> str:
        """Of the effects."""
        return METRICS[self.metric][0]

    def counts(self, public: bool = False) -> Counts:
        """Blocks that harm, help or do neither, without the window's own.

        With `public` as in the published pie charts: the own ones, which `as_published` tells,
        count as helping. InvalidArgument where those are not known.
        """
        result = self.as_published() if public else self
        values = result._without_own
        others = torch.ones_like(self.own) if public else ~self.own
        helps = (values > 0) | (result.own & others)
        kinds = (values < 0, helps, others & (values == 0) & ~helps)
        return Counts(*(kind.sum((-2, -1)) for kind in kinds))

    def as_published(self) -> "CausalEffectResult":
        """The same with the window's own blocks as the public code takes them.

        It rounds both ends of the window down to whole blocks: a block in which the window ends
        does not count as its own. Raises InvalidArgument if such a block was not measured;
        ``include_window=True`` measures it.
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
        """Lowest and highest effect; as published they are at most and at least 0."""
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
        """Where the blocks are."""
        return BlockGrid(self.block, *self.images.shape[-2:])

    def colours(self, bound: float | None = None) -> NDArray[np.uint8]:
        """The published colours (B,s*h,s*w,3): red helps, blue harms, the window as the bound.

        `bound`: the effect at which they end; by default the published 2.5 dB, for other metrics
        the largest effect.
        """
        from fastbg.attribution.effect_picture import colours

        if bound is not None and not bound > 0:
            raise InvalidArgument("bound", bound, "a number above 0")
        values = self.effect.masked_fill(self.own, torch.inf).numpy()
        large = self.grid.on_pixels(values).repeat(self.scale, -2).repeat(self.scale, -1)
        return colours(large, self.bound if bound is None else bound)

    @property
    def bound(self) -> float:
        """Where the colours end unless told otherwise."""
        if self.metric == "psnr":
            return PUBLISHED_BOUND
        return float(self._without_own.abs().max()) or 1.0

    def plot(self, index: int | tuple[int, ...] = 0) -> "Figure":
        """Figure of pair `index`: the input with its window, the map over it, and the counts.

        Of (B,N) pairs a number counts all, those of the first image first; (b,n) names one.
        Raises InvalidArgument if there is no such pair.
        """
        from fastbg.attribution.effect_picture import result_figure

        return result_figure(self, index)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a file, .npz whatever it is called; `load` reads it."""
        arrays: dict[str, Any] = self.interventions.arrays(_PREFIX)
        arrays |= {name: np.asarray(getattr(self, name)) for name in _OTHERS}
        arrays |= {name: getattr(self, name).numpy() for name in _TABLES}
        arrays["images"] = self.images.float().cpu().numpy()
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "CausalEffectResult":
        """What `save` wrote. Raises DataError, naming the field, for a file that is none."""
        arrays = read_arrays(path)
        try:
            interventions = Interventions.from_arrays(arrays, _PREFIX)
            check_map(arrays, interventions)
            values: dict[str, Any] = {name: arrays[name].item() for name in _OTHERS}
            values |= {name: torch.from_numpy(arrays[name]) for name in ("images", *_TABLES)}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{os.fspath(path)}: holds no causal effect map ({error})") from error
        return cls(**values, interventions=interventions)


# Fields as they lie in a file, beside the images; behind the prefix those of the interventions.
_TABLES = ("baseline", "coarse_values", "fine_values", "own", "windows")
_OTHERS = ("scale", "block", "metric", "tolerance", "reuse_coarse")
_PREFIX = "interventions_"


def affected_blocks(
    baseline: NDArray[np.float64], coarse: NDArray[np.float64], tolerance: float
) -> NDArray[np.bool_]:
    """Blocks (...,rows,columns) one of whose coarse values (...,rows,columns,C) is far enough off.

    NaN, for what was not measured, is none.
    """
    difference = np.abs(np.asarray(baseline)[..., None, None, None] - coarse)
    return np.asarray((difference >= tolerance).any(-1))
