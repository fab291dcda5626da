"""Does a map show the pixels that matter? Deletion and insertion curves, with controls.

LR pixels are ranked by a map. *Deletion* replaces the first k of them by the baseline (the blurred
image of LAM's path) and measures which share of the objective is left in the window. *Insertion*
puts them into the baseline and measures how far the window still is from that of the whole image.
If a map ranks the pixels that matter first, both curves fall early and their areas are small.

Any map is better than random pixels, as the pixels near the window matter most. So each is compared
with three controls: random pixels, the pixels nearest to the window first, and the map itself
shuffled among pixels of equal distance. Only a map that beats them says more than "pixels near the
window matter".

Deletion and insertion: Petsiuk, Das and Saenko, BMVC 2018 (RISE), here for windows of SR images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastbg.attribution import memory
from fastbg.attribution.distance import rings, shuffled_in_rings, window_distance
from fastbg.attribution.faithfulness_maps import Explanation, Floats, lr_maps
from fastbg.attribution.objectives import Objective, as_objective
from fastbg.attribution.passes import WindowPasses, Windows, as_box, as_inputs, one_window_each
from fastbg.attribution.paths import GaussianBlurPath, Path
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.network import images_per_call
from fastbg.precision import in_precision
from fastbg.upload import sent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Order = NDArray[np.int64]  # LR pixels as flat indices, the first to be replaced first

POINTS, FEWEST, MOST = 13, 4, 1600  # numbers of pixels, equally spaced in their logarithm
RANDOM, NEAREST, SHUFFLED = "random", "nearest first", "{} shuffled at equal distance"


@dataclass(frozen=True)
class FaithfulnessResult:
    """Curves of B images, by the name of the map or control.

    Attributes:
        counts: (K) numbers of LR pixels that were replaced.
        deletion: by name (B,K), the share of the objective that is left. NaN if the objective of
            the whole image is 0, as in a flat window.
        insertion: by name (B,K), root mean square distance of the window from that of the whole
            image, divided by the baseline's distance. NaN if the baseline's distance is 0.
        controls: names of the controls of each map.
    """

    counts: Tensor
    deletion: dict[str, Tensor]
    insertion: dict[str, Tensor]
    controls: Mapping[str, tuple[str, ...]]

    @property
    def deletion_area(self) -> dict[str, Tensor]:
        """For each name (B): mean of the deletion curve over the logarithm of the count."""
        return {name: curve.mean(-1) for name, curve in self.deletion.items()}

    @property
    def insertion_area(self) -> dict[str, Tensor]:
        """For each name (B): mean of the insertion curve over the logarithm of the count."""
        return {name: curve.mean(-1) for name, curve in self.insertion.items()}

    def plot(self) -> "Figure":
        """Both curves, means over the images; controls are dashed."""
        from fastbg.attribution.faithfulness_picture import curves_figure

        return curves_figure(self)


@in_precision
@torch.inference_mode()
def faithfulness(
    model: nn.Module,
    maps: Explanation | Mapping[str, Explanation],
    images: Tensor,
    windows: Windows,
    *,
    objective: Objective | Callable[[Tensor], Tensor] | None = None,
    path: Path | None = None,
    counts: int | Tensor | list[int] = POINTS,
    draws: int = 3,
    seed: int = 0,
) -> FaithfulnessResult:
    """Deletion and insertion curves of maps and of controls to compare them with.

    Args:
        model: SR network, as for `LocalAttribution`.
        maps: tensor or array (B,h,w), or (h,w) for a single image; larger values are more
            important. Or a result of `LocalAttribution`, `CausalEffectMap` or `Occlusion` for these
            images and one window each. Or several of these, by name, which share their controls.
            Effects are ranked by absolute value; all pixels of a block have the block's effect.
            Pixels of equal value are put in random order. A causal effect map has no values (NaN)
            for the window's own blocks. Their pixels come first, ordered by distance from the
            window's middle, as in the control "nearest first".
        images: (B,3,h,w) LR in [0,1].
        windows: ``(y, x, size)`` in SR pixels for all images, or (B,3).
        objective: of deletion, as for `LocalAttribution`; default LAM's `GradientDetector()`.
        path: its baseline replaces deleted pixels; default LAM's `GaussianBlurPath()`.
        counts: ascending numbers of pixels; or how many such numbers to take, logarithmically
            spaced from 4 to 1,600 (or to all pixels, if there are fewer).
        draws: number of random orders that the random and the shuffled control are averaged over.
        seed: of those orders and of the order of equal values; the same for every image.

    Each map and each random order takes two passes per count.

    Raises:
        InvalidArgument: an argument's shape, value, dtype or device, as `LocalAttribution` does.
    """
    images = as_inputs(images, model)
    named = _named(maps, images)
    corners = one_window_each(windows, len(images))
    if draws < 1:
        raise InvalidArgument("draws", draws, "at least 1")
    pixels = images.shape[-2] * images.shape[-1]
    steps = _counts(counts, pixels)
    curves = _Curves(model, path or GaussianBlurPath(), as_objective(objective), steps)
    controls = {name: (RANDOM, NEAREST, SHUFFLED.format(name)) for name in named}
    names = dict.fromkeys([*named, *(own for three in controls.values() for own in three)])
    size = len(images), 2, len(steps)
    found = {name: images.new_zeros(size, dtype=torch.float64) for name in names}
    with memory.frozen(model):
        for i in range(len(images)):
            curves.start(images[i : i + 1], as_box(corners[i].tolist()))
            maps_of_image = {name: value[i] for name, value in named.items()}
            for name, orders in _orders(maps_of_image, curves.distance, draws, seed).items():
                found[name][i] = curves.mean(orders)
    found = {name: both.cpu() for name, both in found.items()}  # a GPU is waited for only here
    return FaithfulnessResult(
        counts=torch.from_numpy(steps),
        deletion={name: both[:, 0] for name, both in found.items()},
        insertion={name: both[:, 1] for name, both in found.items()},
        controls=controls,
    )


class _Curves:
    """Computes both curves of one image for any order of its pixels."""

    def __init__(self, model: nn.Module, path: Path, objective: Objective, counts: Order) -> None:
        self.passes, self.path = WindowPasses(model), path
        self.objective, self.counts = objective, counts

    def start(self, image: Tensor, box: Box) -> None:
        """Set the image (1,C,h,w) and compute its baseline, and the SR windows of both."""
        self.image, self.box = image, box
        self.baseline = self.path.nodes(image, np.zeros(1))[:, 0]
        values, patches = self._run(torch.cat([image, self.baseline]))
        self.whole, self.target = values[0], patches[:1]
        self.farthest = self._away(patches[1:])[0]
        self.distance = window_distance(box, self.passes.scale, *image.shape[-2:])

    def mean(self, orders: list[Order]) -> Tensor:
        """Deletion and insertion (2,K), float64, averaged over orders of the pixels."""
        return torch.stack([self._curves(order) for order in orders]).mean(0)

    def _curves(self, order: Order) -> Tensor:
        rank = torch.empty(len(order), dtype=torch.int64, device="cpu")
        rank[torch.from_numpy(order)] = torch.arange(len(order), device="cpu")
        first = rank[None] < torch.from_numpy(self.counts)[:, None]  # [K,h*w]
        first = sent(first.reshape(-1, 1, *self.image.shape[-2:]), self.image.device)
        left, _ = self._run(torch.where(first, self.baseline, self.image))
        _, patches = self._run(torch.where(first, self.image, self.baseline))
        return torch.stack([left / self.whole, self._away(patches) / self.farthest])

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (N), float64, and SR window (N,C,size,size) of `inputs` (N,C,h,w)."""
        height, width = self.box.y1 - self.box.y0, self.box.x1 - self.box.x0
        values, patches = [], []
        for some in inputs.split(images_per_call(inputs)):
            (patch,) = self.passes.patches(some, [self.box], self.objective.margin)
            values.append(self.objective(patch, height, width).double())
            patches.append(patch[..., :height, :width].double())
        return torch.cat(values), torch.cat(patches)

    def _away(self, patches: Tensor) -> Tensor:
        """Root mean square distance (N) of SR windows from that of the whole image."""
        return (patches - self.target).square().mean((1, 2, 3)).sqrt()


def _named(
    maps: Explanation | Mapping[str, Explanation], images: Tensor
) -> dict[str, list[Floats]]:
    """The maps of each image by name; InvalidArgument for the name of a control."""
    named = lr_maps(maps, images)
    taken = {RANDOM, NEAREST, *map(SHUFFLED.format, named)}
    for name in named:
        if name in taken:
            raise InvalidArgument("maps", f"the name {name!r}", "another: a control is called so")
    return named


def _counts(counts: int | Tensor | list[int], pixels: int) -> Order:
    """Ascending numbers of pixels, none above `pixels`."""
    if isinstance(counts, int):
        if counts < 2:
            raise InvalidArgument("counts", counts, "at least 2 numbers of pixels")
        most = min(MOST, pixels)
        spaced = np.geomspace(min(FEWEST, most), most, counts).round().astype(np.int64)
        return np.unique(spaced)
    given = torch.as_tensor(counts, device="cpu")
    wanted = f"ascending whole numbers from 1 to {pixels}, the number of LR pixels"
    if given.dim() != 1 or not given.numel() or given.is_floating_point() or given.is_complex():
        raise InvalidArgument("counts", counts, wanted)
    found: Order = given.cpu().numpy().astype(np.int64)
    if found[0] < 1 or found[-1] > pixels or (np.diff(found) < 1).any():
        raise InvalidArgument("counts", found.tolist(), wanted)
    return found


def _orders(
    maps: Mapping[str, Floats], distance: Floats, draws: int, seed: int
) -> dict[str, list[Order]]:
    """The orders of the pixels by each map (h,w) and by its controls."""
    generator = np.random.default_rng(seed)
    ties = generator.random(distance.size)
    near = -distance.ravel()
    by_name = {name: [_by_map(value.ravel(), near, ties)] for name, value in maps.items()}
    by_name[RANDOM] = [generator.permutation(distance.size) for _ in range(draws)]
    by_name[NEAREST] = [_by_map(near, near, ties)]
    ring = rings(distance).ravel()
    mixers = [generator.random(distance.size) for _ in range(draws)]
    for name, value in maps.items():
        flat = value.ravel()
        own = np.where(np.isnan(flat), -1, ring)  # pixels without a value (NaN) are not shuffled
        shuffled = [shuffled_in_rings(flat, own, mixer) for mixer in mixers]
        by_name[SHUFFLED.format(name)] = [_by_map(values, near, ties) for values in shuffled]
    return by_name


def _by_map(values: Floats, near: Floats, ties: Floats) -> Order:
    """Indices (n) of the pixels: first NaN ones, nearest first; then by falling `values`."""
    left_out = np.isnan(values)
    return np.lexsort((ties, np.where(left_out, -near, 0.0), -np.where(left_out, np.inf, values)))
