"""Sanity checks of an explanation: does it depend on the network, and on the window?

A map that stays the same when the network's weights are made random does not explain the network:
it draws the image's edges, or the window's neighbourhood (Adebayo et al., NeurIPS 2018).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastbg.attribution.distance import Floats, ranks_in_rings, rings, window_distance
from fastbg.attribution.passes import (
    WindowPasses,
    Windows,
    as_box,
    as_inputs,
    one_window_each,
)
from fastbg.errors import InvalidArgument
from fastbg.ops.checks import check_finite
from fastbg.stats.correlation import centred_correlation, spearman
from fastbg.upload import sent

# A model, images (B,C,h,w) and windows (B,3) to maps (B,h,w).
Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SanityResult:
    """Rank correlations of the original map with maps that should differ from it.

    Attributes:
        layers: names of the layers in the order in which they were made random, the last of the
            network first; each row has all those before it random too.
        cascade: (L,B) Spearman's rank correlation, over all LR pixels, of the map of each such
            network with the map of the unchanged network, as published. 1: the map did not change.
            It stays near 1 for SR networks, whose maps fall with the distance to the window even
            for random weights.
        cascade_at_distance: (L,B) the same with ranks among the pixels of equal distance only.
        other_window: (B) Spearman's rank correlation with the map for another window.
    """

    layers: tuple[str, ...]
    cascade: Tensor
    cascade_at_distance: Tensor
    other_window: Tensor


@torch.inference_mode(False)  # gradients need copies of the weights that are normal tensors
def sanity_checks(
    model: nn.Module,
    explain: Explain,
    images: Tensor,
    windows: Windows,
    other_windows: Windows,
    *,
    layers: int | None = None,
    seed: int = 0,
) -> SanityResult:
    """Rank correlations of maps that should not agree with the map itself.

    Args:
        model: SR network; it is copied, never changed.
        explain: makes the maps (B,h,w) of a model, images and windows (B,3), such as
            ``lambda m, x, w: fastbg.LocalAttribution(m).attribute(x, w).map``.
        images: (B,C,h,w) LR in [0,1].
        windows: ``(y, x, size)`` in SR pixels, or (B,3).
        other_windows: likewise, somewhere else.
        layers: how many steps the randomisation takes from the end to the start of the network; the
            layers are shared out evenly. Default one step for each layer.
        seed: of the random weights.

    Each layer's weights are exchanged among each other (so they keep their distribution), as are
    its biases; that is the published "independent shuffling", in cascade.

    Raises:
        InvalidArgument: an argument's shape, value or dtype; maps of another shape; a model without
            weights.
    """
    images = as_inputs(images, model)
    count = len(images)
    here, there = one_window_each(windows, count), one_window_each(other_windows, count)
    names = [name for name, module in model.named_modules() if _own_weights(module)]
    if not names:
        raise InvalidArgument("model", type(model).__name__, "a module with weights")
    if not count:
        raise InvalidArgument("images", f"shape {tuple(images.shape)}", "at least one image")
    if layers is not None and not 1 <= layers <= len(names):
        raise InvalidArgument("layers", layers, f"1 to {len(names)}, the layers with weights")

    scale = WindowPasses(model).scale_for(images)
    sizes = scale, *images.shape[-2:]
    ring = [rings(window_distance(as_box(corner), *sizes)).ravel() for corner in here.tolist()]
    original = _maps(explain, model, images, here)
    reached, overall, at_distance = [], [], []
    for name, network in _randomised(model, names[::-1], layers or len(names), seed):
        maps = _maps(explain, network, images, here)
        reached.append(name)
        overall.append(spearman(original, maps))
        in_rings = [
            np.stack([ranks_in_rings(*pair) for pair in zip(found, ring, strict=True)])
            for found in (original, maps)
        ]
        at_distance.append(centred_correlation(*in_rings))
    elsewhere = _maps(explain, model, images, there)
    return SanityResult(
        layers=tuple(reached),
        cascade=torch.from_numpy(np.stack(overall)),
        cascade_at_distance=torch.from_numpy(np.stack(at_distance)),
        other_window=torch.from_numpy(spearman(original, elsewhere)),
    )


def _own_weights(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters(recurse=False) if p.numel() > 1]


def _randomised(
    model: nn.Module, names: list[str], steps: int, seed: int
) -> Iterator[tuple[str, nn.Module]]:
    """A copy of the model after each step, and the last layer that was made random in it."""
    network = copy.deepcopy(model)
    modules = dict(network.named_modules())
    random = torch.Generator("cpu").manual_seed(seed)
    for some in np.array_split(np.array(names, dtype=object), steps):
        with torch.no_grad():
            for name in some:
                for weight in _own_weights(modules[name]):
                    order = torch.randperm(weight.numel(), generator=random, device="cpu")
                    weight.copy_(weight.flatten()[sent(order, weight.device)].reshape(weight.shape))
        yield str(some[-1]), network


def _maps(explain: Explain, model: nn.Module, images: Tensor, windows: Tensor) -> Floats:
    """The maps (B,h*w) that `explain` makes."""
    maps = explain(model, images, windows)
    shape = (len(images), *images.shape[-2:])
    if not isinstance(maps, Tensor) or maps.shape != shape:
        got = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise InvalidArgument("explain", f"a result of {got}", f"a map each: {shape}")
    check_finite("explain", maps, "a map")
    return maps.detach().double().cpu().flatten(1).numpy()
