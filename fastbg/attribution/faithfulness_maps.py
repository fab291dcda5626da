"""Converts explanations of any kind to maps of LR pixels, which `faithfulness` ranks."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution.effect_result import CausalEffectResult
from fastbg.attribution.occlusion import OcclusionResult
from fastbg.attribution.result import AttributionResult
from fastbg.errors import InvalidArgument

Explanation: TypeAlias = (
    Tensor | NDArray[Any] | AttributionResult | CausalEffectResult | OcclusionResult
)
Floats: TypeAlias = NDArray[np.float64]

EXPECTED = "a tensor, an array, or a result of LocalAttribution, CausalEffectMap or Occlusion"


def lr_maps(
    maps: Explanation | Mapping[str, Explanation], images: Tensor
) -> dict[str, list[Floats]]:
    """The maps (h,w) of each explanation, by its name, one for each of `images` (B,C,h,w).

    NaN marks pixels without a value: the window's own blocks in a causal effect map. Raises
    InvalidArgument for other values that are not finite, and for other shapes and types.
    """
    several = isinstance(maps, Mapping)
    named = dict(maps) if isinstance(maps, Mapping) else {"map": maps}
    if not named:
        raise InvalidArgument("maps", "none", "at least one")
    shape = (len(images), *images.shape[-2:])
    found = {}
    for name, given in named.items():
        label = f"maps[{name!r}]" if several else "maps"
        values, left_out = _values(label, given)
        if len(images) == 1 and values.dim() == 2:
            values = values[None]
        if values.shape != shape:
            raise InvalidArgument(label, f"shape {tuple(values.shape)}", f"{shape}: an LR map each")
        unknown = ~values.isfinite() if left_out is None else ~values.isfinite() & ~left_out
        if values.is_complex() or bool(unknown.any()):
            raise InvalidArgument(label, "values that are not finite numbers", "real numbers")
        found[name] = [value.cpu().double().numpy() for value in values]
    return found


def _values(label: str, given: Explanation) -> tuple[Tensor, Tensor | None]:
    """The map (B,h,w), and a mask of its pixels without a value; None if all have one.

    Positive effects help and negative ones harm; the map has their absolute values.
    """
    if isinstance(given, AttributionResult):
        return given.map, None
    if isinstance(given, CausalEffectResult):
        values, own = (
            torch.from_numpy(given.grid.on_pixels(blocks.numpy()))
            for blocks in (given.effect.abs(), given.own)
        )
        return values, own & values.isnan()
    if isinstance(given, OcclusionResult):
        if bool(given.map.isnan().any()):
            raise InvalidArgument(label, "boxes that leave LR pixels uncovered", "boxes over all")
        return given.map.abs(), None
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        return torch.from_numpy(np.ascontiguousarray(given, np.float64)), None
    if isinstance(given, Tensor):
        return given, None
    got = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
    raise InvalidArgument(label, got, EXPECTED)
