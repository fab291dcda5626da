"""Measures of how similar two image regions are (paper, sections 4.3 and 6.1), in one registry.

A measure describes two regions of each image: the foreground, a central box, and the surroundings,
everything else. A distance compares the description of one image's foreground with those of other
images' surroundings. To add a measure, write the describing function and add a line to
`SIMILARITIES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, unfold

from fastbg.errors import CheckpointError
from fastbg.filters.bicubic import bicubic_matrix
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box
from fastbg.measures.texture import gram_distance, texture_gram
from fastbg.models.bicubic import Bicubic
from fastbg.models.network import Network
from fastbg.models.vgg import conv1_1, imagenet_normalised
from fastbg.ops.gram import gram

PATCH = 3  # LR pixels
PYRAMID = 3  # scales: 1, 1/2, 1/4
NEIGHBOURS = 0.95  # correlation of neighbouring pixels, the textbook's; 0.9 or 0.995 do as well
GREY_COUNTS = 0.5  # of a squared error at the rim, against one of colour
GREY_LEVEL = 1 / 255

Described = tuple[Tensor, Tensor]  # of the foregrounds and of the surroundings: (B, ...) each


@dataclass(frozen=True)
class Images:
    """Square images of one size, with the same foreground box in the middle of each.

    Attributes:
        hr: (B,3,S,S) uint8.
        lr: (B,3,S/s,S/s) in [0,1], s the network's scale.
        box: the foreground, in HR pixels; its edges lie on the LR grid.
        net: the network that restores the images.
        backend: of fastbg's operators.
    """

    hr: Tensor
    lr: Tensor
    box: Box
    net: Network
    backend: str = "auto"

    @cached_property
    def levels(self) -> Tensor:
        """`hr` as floats in [0,1]."""
        return as_float(self.hr)

    @property
    def lr_box(self) -> Box:
        """The foreground in LR pixels."""
        return self.box.coarsen(self.net.scale)


def masks(box: Box, like: Tensor) -> Tensor:
    """Weights (1,2,H,W) of the foreground and of the surroundings of images `like` (B,C,H,W)."""
    inside = like.new_zeros(like.shape[-2:], dtype=torch.float32)
    inside[box.y0 : box.y1, box.x0 : box.x1] = 1
    return torch.stack([inside, 1 - inside])[None]


# Measures ----------------------------------------------------------------------------------------


def vgg_gram(images: Images) -> Described:
    """Gram matrices of VGG16's conv1_1: the paper's measure."""
    both = texture_gram(images.hr, masks(images.box, images.hr), backend=images.backend)
    return both[:, 0], both[:, 1]


def vgg_covariance(images: Images) -> Described:
    """Covariances of VGG16's conv1_1, which depend less on brightness and colour."""
    weight, bias = conv1_1(images.hr.device, torch.float32)
    features = conv2d(imagenet_normalised(images.levels), weight, bias, padding=1).relu()
    # With a constant feature, the last row contains the sums of the other features.
    ones = torch.ones_like(features[:, :1])
    region = masks(images.box, features)
    total = gram(torch.cat([features, ones], dim=1), region, backend=images.backend)
    count = total[..., -1:, -1:]
    mean = total[..., :-1, -1:] / count
    both = total[..., :-1, :-1] / count - mean @ mean.mT
    return both[:, 0], both[:, 1]


def vgg_pyramid(images: Images) -> Described:
    """Gram matrices of VGG16's conv1_1 on the image and on copies down-sampled by 2 and 4."""
    small, scales = images.levels, []
    for level in range(PYRAMID):
        if level:
            small = avg_pool2d(small, 2)
        box = images.box.coarsen(2**level)
        scales.append(texture_gram(small, masks(box, small), backend=images.backend))
    both = torch.stack(scales, dim=2).flatten(2)
    return both[:, 0], both[:, 1]


def first_features(images: Images) -> Described:
    """Gram matrices of the network's first layer."""
    return _feature_grams(images, layer_outputs(images.net, images.lr)[0])


def deep_features(images: Images) -> Described:
    """Gram matrices of the network's last layer before the upsampler."""
    return _feature_grams(images, layer_outputs(images.net, images.lr)[1])


def colour_moments(images: Images) -> Described:
    """Mean, standard deviation and skewness (its cube root) of R, G and B."""
    region = masks(images.box, images.hr)[:, :, None]  # [1,2,1,H,W]
    region = region / region.sum((-2, -1), keepdim=True)
    values = images.levels[:, None]  # [B,1,3,H,W]
    mean = (values * region).sum((-2, -1), keepdim=True)
    deviation = values - mean
    variance = (deviation.square() * region).sum((-2, -1))
    third = (deviation.pow(3) * region).sum((-2, -1))
    cubic = third.sign() * third.abs().pow(1 / 3)
    both = torch.stack([mean[..., 0, 0], variance.sqrt(), cubic], dim=-1).flatten(2)
    return both[:, 0], both[:, 1]


def power_spectrum(images: Images) -> Described:
    """Logarithm of the mean power spectrum of grey square tiles under a Hann window.

    Tiles have the size of the foreground, or of its distance to the border if that is smaller.
    """
    grey, box = images.levels.mean(1, keepdim=True), images.box
    side = min(box.y1 - box.y0, box.y0)
    inside = grey[..., box.y0 : box.y1, box.x0 : box.x1]
    strips = [grey[..., : box.y0, :], grey[..., box.y1 :, :]]
    middle = grey[..., box.y0 : box.y1, :]
    strips += [middle[..., : box.x0], middle[..., box.x1 :]]

    def spectrum(parts: Sequence[Tensor]) -> Tensor:
        tiles = torch.cat([unfold(part, side, stride=side) for part in parts], dim=2)
        tiles = tiles.mT.unflatten(2, (side, side))  # [B,T,side,side]
        hann = torch.hann_window(side, periodic=False, device=tiles.device)
        tiles = (tiles - tiles.mean((-2, -1), keepdim=True)) * hann * hann[:, None]
        power = torch.fft.rfft2(tiles).abs().square().mean(1)
        return (power + 1e-6).log()  # less than the quantisation noise of 8 bits

    return spectrum([inside]), spectrum(strips)


def patches(images: Images) -> Described:
    """All LR patches of 3x3 pixels (smaller if the region is) inside each region."""
    box = images.lr_box
    side = min(PATCH, box.y1 - box.y0, box.y0)
    across = images.lr.shape[-1] - side + 1
    corner = torch.arange(across, device=images.lr.device)

    def inside(low: int, high: int) -> Tensor:
        return (corner >= low) & (corner <= high - side)

    def apart(low: int, high: int) -> Tensor:
        return (corner <= low - side) | (corner >= high)

    within = inside(box.y0, box.y1)[:, None] & inside(box.x0, box.x1)
    outside = apart(box.y0, box.y1)[:, None] | apart(box.x0, box.x1)
    every = unfold(images.lr.float(), side).mT  # [B,P,27]
    return every[:, within.flatten()], every[:, outside.flatten()]


def rim_step(images: Images, width: int = 1, *, lr: bool = False) -> Described:
    """Colours on both sides of the rim: means (B,3,4n) over `width` pixels at each position.

    n is the side of the foreground in HR pixels, or with `lr` in LR pixels. At the image's border
    fewer pixels are averaged; there must be at least one on each side.
    """
    values, box = (images.lr.float(), images.lr_box) if lr else (images.levels, images.box)
    inside, outside = _across(values, box)
    return inside[..., :width].mean(-1), outside[..., :width].mean(-1)


def rim_slope(images: Images) -> Described:
    """Slopes (B,3,4n) across the rim, outwards: last of the foreground, first of the surroundings.

    The slope of a side that is one pixel deep is 0.
    """
    inside, outside = _across(images.levels, images.box)
    further_in, further_out = (side[..., min(1, side.shape[-1] - 1)] for side in (inside, outside))
    return inside[..., 0] - further_in, further_out - outside[..., 0]


def bicubic_error(images: Images) -> Described:
    """Foreground minus its own part of the bicubic restoration; surroundings' part: (B,3,n,n).

    Down- and up-sampling are linear, so the restored foreground of a composite is a sum of two
    parts: one from the foreground's pixels, one from the background's. The mean squared difference
    of both descriptions is therefore the squared error of bicubic restoration, which needs no
    network. MATLAB's kernels; nothing is rounded or clipped.
    """
    scale, (y0, x0, y1, x1) = images.net.scale, images.box
    size = images.hr.shape[-1]
    down = torch.from_numpy(bicubic_matrix(size, scale).copy())
    restored = Bicubic(scale).matrix(size // scale) @ down  # [S,S], an axis' rows or columns
    seen = restored[y0:y1].to(images.levels)  # the box lies in the middle: rows are like columns
    inside = images.levels[..., y0:y1, x0:x1]
    own = seen[:, y0:y1] @ inside @ seen[:, x0:x1].mT
    return inside - own, seen @ images.levels @ seen.mT - own


def seam_error(images: Images) -> Described:
    """What a linear restoration lacks along the rim, as much as networks do: (B,4,4n).

    As `bicubic_error`, but of the outermost pixels, and restored by the linear estimate of least
    mean squared error for images whose neighbouring pixels correlate by `NEIGHBOURS`. Networks
    differ from it in two ways (`bench/NOTES.md`), which the errors follow: they restore a jump of
    grey with about half of its squared error, one of colour with nearly all of it (so the grey part
    counts half); and the smoother the foreground is, the sharper its rim (so the fourth row, the
    weight of the squares, is the root of the root mean square difference between neighbours along
    the rim, within one LR pixel).
    """
    scale, (y0, x0, y1, x1) = images.net.scale, images.box
    size = images.hr.shape[-1]
    restored = torch.from_numpy(linear_restoration(size, scale) @ bicubic_matrix(size, scale))
    seen = restored[y0:y1].to(images.levels)  # the box lies in the middle: rows are like columns
    inside = images.levels[..., y0:y1, x0:x1]
    own = seen[:, y0:y1] @ inside @ seen[:, x0:x1].mT
    added = seen @ images.levels @ seen.mT - own
    sides = torch.stack([inside.rot90(turns, (-2, -1))[..., :scale, :] for turns in range(4)])
    slopes = sides.diff(dim=-1)
    squares = torch.cat([slopes, slopes[..., -1:]], dim=-1).square().mean((2, 3))  # [4,B,n]
    roughness = squares.unflatten(-1, (-1, scale)).mean(-1) + GREY_LEVEL**2
    weight = roughness.pow(1 / 4).repeat_interleave(scale, dim=-1)
    weight = weight.transpose(0, 1).flatten(1)[:, None]  # [B,1,4n]
    return (
        torch.cat([_rim(inside - own), weight], dim=1),
        torch.cat([_rim(added), weight], dim=1),
    )


def _rim(values: Tensor) -> Tensor:
    """The outermost pixels (B,3,4n) of squares (B,3,n,n), side by side; squares of grey halved."""
    outermost = [values.rot90(turns, (-2, -1))[..., 0, :] for turns in range(4)]
    rim = torch.cat(outermost, dim=-1)
    return rim - (1 - GREY_COUNTS**0.5) * rim.mean(1, keepdim=True)


@lru_cache(maxsize=8)
def linear_restoration(size: int, scale: int) -> NDArray[np.float64]:
    """Weights (size, size/scale) of the estimate of an axis with least mean squared error.

    From what MATLAB's bicubic kernel left of it, if pixels d apart correlate by `NEIGHBOURS` ** d.
    Each row sums to 1, so that a flat image stays as it is.
    """
    down, place = bicubic_matrix(size, scale), np.arange(size)
    covariance = NEIGHBOURS ** np.abs(place[:, None] - place)
    seen = down @ covariance
    restoring = np.linalg.solve(seen @ down.T, seen).T
    return np.asarray(restoring / restoring.sum(axis=1, keepdims=True))


def _across(values: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Pixels inwards and outwards from each position of the rim: (B,3,4n,depth) each.

    `box` must be a central square in square images, as in `Images`.
    """
    inside, outside = [], []
    for turns in range(4):  # take the upper side, then turn the image
        turned = values.rot90(turns, (-2, -1))
        columns = turned[..., box.x0 : box.x1]
        inside.append(columns[..., box.y0 : box.y1, :].mT)
        outside.append(columns[..., : box.y0, :].flip(-2).mT)
    return torch.cat(inside, dim=-2), torch.cat(outside, dim=-2)


# Distances ---------------------------------------------------------------------------------------


def matrix_distance(foreground: Tensor, surroundings: Tensor) -> Tensor:
    """Squared Frobenius distance between matrices (1,C,C) and (K,C,C): (K)."""
    return gram_distance(foreground, surroundings)[0]


def vector_distance(foreground: Tensor, surroundings: Tensor) -> Tensor:
    """Mean squared difference between (1,...) and (K,...): (K)."""
    return (foreground - surroundings).square().flatten(1).mean(1)


def absolute_distance(foreground: Tensor, surroundings: Tensor) -> Tensor:
    """Mean absolute difference between (1,...) and (K,...): (K)."""
    return (foreground - surroundings).abs().flatten(1).mean(1)


def weighted_distance(foreground: Tensor, surroundings: Tensor) -> Tensor:
    """Mean squared difference between (1,C+1,...) and (K,C+1,...), weighted by the former's last.

    The last channel holds weights and is not compared: (K).
    """
    apart = (foreground[:, :-1] - surroundings[:, :-1]).square() * foreground[:, -1:]
    return apart.flatten(1).mean(1)


def nearest_patch(foreground: Tensor, surroundings: Tensor) -> Tensor:
    """Mean distance (K) of the foreground's patches (1,P,D) to the nearest of (K,Q,D)."""
    apart = torch.cdist(foreground.expand(len(surroundings), -1, -1), surroundings)
    return apart.amin(2).square().mean(1)


# Registry ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Similarity:
    """A measure of similarity.

    Attributes:
        title: its name in reports.
        describe: `Images` -> descriptions (B, ...) of the foregrounds and of the surroundings.
        distance: descriptions (1, ...) of a foreground and (K, ...) of surroundings -> (K).
        any_net: descriptions depend on the images and on the network's scale only, so that networks
            of one scale share them.
    """

    title: str
    describe: Callable[[Images], Described]
    distance: Callable[[Tensor, Tensor], Tensor] = matrix_distance
    any_net: bool = True


SIMILARITIES: dict[str, Similarity] = {
    "vgg_gram": Similarity("VGG16 Gram (the paper's)", vgg_gram),
    "vgg_covariance": Similarity("VGG16 covariance", vgg_covariance),
    "vgg_pyramid": Similarity("VGG16 Gram, 3 scales", vgg_pyramid, vector_distance),
    "first_features": Similarity("the net's first layer, Gram", first_features, any_net=False),
    "deep_features": Similarity("the net's last layer, Gram", deep_features, any_net=False),
    "colour_moments": Similarity("colour moments", colour_moments, vector_distance),
    "power_spectrum": Similarity("power spectrum", power_spectrum, vector_distance),
    "nearest_patch": Similarity("nearest patch in the input", patches, nearest_patch),
    "rim_step": Similarity("step across the rim", rim_step, absolute_distance),
    "rim_step_2": Similarity(
        "step across the rim, 2 pixels wide", partial(rim_step, width=2), absolute_distance
    ),
    "rim_step_4": Similarity(
        "step across the rim, 4 pixels wide", partial(rim_step, width=4), absolute_distance
    ),
    "rim_step_lr": Similarity(
        "step across the rim, in the input", partial(rim_step, lr=True), absolute_distance
    ),
    "bicubic_error": Similarity("error of bicubic restoration", bicubic_error, vector_distance),
    "rim_slope": Similarity("change of slope across the rim", rim_slope, absolute_distance),
    "seam_error": Similarity("error of linear restoration, rim", seam_error, weighted_distance),
}
PAPER = "vgg_gram"
STEP = "rim_step"


# The network's own features ----------------------------------------------------------------------


def layer_outputs(net: Network, lr: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B,C,h,w) of the first convolution, and of the last of its size and width.

    In EDSR, RCAN and SwinIR these are `conv_first` and `conv_after_body`. Raises CheckpointError
    for a network without convolutions.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, given: object, output: Tensor) -> None:
        if not found:
            found.append(output)
        elif output.shape == found[0].shape:
            found[1:] = [output]

    handles = [m.register_forward_hook(keep) for m in net.modules() if isinstance(m, nn.Conv2d)]
    try:
        net(lr)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise CheckpointError(
            f"{net.name}: has no convolution whose features can be compared; leave `gram` out"
        )
    height, width = lr.shape[-2:]  # a network may have padded its input
    first, last = (features[..., :height, :width] for features in (found[0], found[-1]))
    return first, last


def _feature_grams(images: Images, features: Tensor) -> Described:
    region = masks(images.lr_box, features)
    total = gram(features.float(), region, backend=images.backend)
    both = total / (features.shape[1] * region.sum((-2, -1))[..., None, None])
    return both[:, 0], both[:, 1]
