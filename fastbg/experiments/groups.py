"""Groups of composites (section 4.1): each foreground with the backgrounds it is pasted into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.data.digests import file_state
from fastbg.data.images import ImageItem, ImageSet
from fastbg.data.manifests import SubImage, composite_groups, in_turn, load_sub_image, sub_images
from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.experiment import Measured
from fastbg.experiments.options import Options, option
from fastbg.experiments.reading import Reading
from fastbg.experiments.seams import HARD, Seam, pixels
from fastbg.experiments.study import Item, Study, as_item
from fastbg.geometry import Box, centre
from fastbg.measures.descriptions import Descriptions, own_rows
from fastbg.measures.likeness import Images
from fastbg.models.network import Network, images_per_call
from fastbg.ops.composite import composite, composite_lr

SETS = {"natural": "photographs", "OSSCD": "textures (OSSCD)"}
LEAST = 3  # fewest backgrounds of a foreground: its own, and two foreign ones to compare
ROOM = 2  # sub-images may cover the images at most this many times


@dataclass(frozen=True)
class GroupOptions(Options):
    """Sizes in HR pixels. Counts as in the paper; with too few images fewer are drawn."""

    size: int = option(128, "side of a composite, HR pixels", low=1)
    region: int = option(32, "side of the foreground in its middle, HR pixels", low=1)
    sources: int = option(150, "sub-images for foregrounds, and as many for backgrounds", low=1)
    groups: int = option(100, "foregrounds kept; the paper: 100", low=1)
    backgrounds: int = option(
        100, "backgrounds of each foreground, its own included; the paper: 100", low=LEAST
    )
    domain: Literal["hr", "lr"] = option(
        "hr",
        "images that are composed",
        hr="the HR images; the composite is then down-sampled",
        lr="the LR images, so that the foreground's LR pixels never change",
    )


def plan_groups(study: Study, o: GroupOptions, owner: str) -> list[Item]:
    """Foregrounds of both sets in turn, each with its foreign backgrounds.

    The natural set consists of images without a texture class, OSSCD of images with one. A set
    needs at least two photographs, as foreign backgrounds come from other photographs. All groups
    of a run have the same size. Raises InvalidArgument naming `owner`.option, and DataError if
    there are too few backgrounds.
    """
    check_options(study, o, owner)
    drawn: dict[str, tuple[list[Item], list[Item]]] = {}
    for name, images in image_sets(study.images).items():
        count = 2 * min(o.sources, ROOM * capacity(images, o.size) // 2)
        if len({images.source(item.key) for item in images.items}) > 1 and count > 1:
            subs = sub_images(images, count, o.size, study.seed, multiple=study.scale)
            items = [as_item(images, sub) for sub in subs]
            drawn[name] = items[: count // 2], items[count // 2 :]
    foreign = {
        name: [[k for k, b in enumerate(backs) if b.source != f.source] for f in fronts]
        for name, (fronts, backs) in drawn.items()
    }
    per_group = min([o.backgrounds, *(1 + len(c) for choice in foreign.values() for c in choice)])
    if not drawn or per_group < LEAST:
        raise DataError(
            f"image set {study.images.name}: a foreground has less than {LEAST - 1} foreign "
            f"backgrounds; expected two or more photographs, or two or more textures, that contain "
            f"several squares of {o.size}x{o.size} pixels"
        )
    plans = []
    for name, (fronts, backs) in drawn.items():
        count = min(o.groups, len(fronts))
        groups = composite_groups(
            len(fronts), len(backs), count, per_group, study.seed, foreign[name]
        )
        plans.append(
            [
                replace(
                    fronts[group.foreground],
                    key=f"{name}/{number:03}/{fronts[group.foreground].key}",
                    partners=tuple(backs[k] for k in group.backgrounds),
                    set=name,
                    number=number,
                )
                for number, group in enumerate(groups)
            ]
        )
    return list(in_turn(plans))


def check_options(study: Study, o: GroupOptions, owner: str) -> None:
    """InvalidArgument for sizes that do not fit the LR grid."""
    scale = study.scale
    o.check_pairing(owner)
    o.check(owner)
    for name in ("size", "region"):
        if getattr(o, name) % scale:
            expected = f"a positive multiple of the scale {scale}"
            raise InvalidArgument(f"{owner}.{name}", getattr(o, name), expected)
    if o.region >= o.size or (o.size - o.region) % (2 * scale):
        expected = f"less than {o.size}, and centred on the LR grid of scale {scale}"
        raise InvalidArgument(f"{owner}.region", o.region, expected)


def image_sets(images: ImageSet) -> dict[str, ImageSet]:
    """The images without a texture class and those with one, by the names in `SETS`."""
    plain = tuple(i for i in images.items if i.key not in images.classes)
    textures = tuple(i for i in images.items if i.key in images.classes)
    return {
        name: ImageSet(images.name, items, origins=images.origins)
        for name, items in (("natural", plain), ("OSSCD", textures))
    }


def capacity(images: ImageSet, size: int) -> int:
    """Number of squares of `size` HR pixels that fit into the images without overlap."""
    sides = (item.size() for item in images.items)
    return sum((height // size) * (width // size) for height, width in sides)


def by_set(result: Measured) -> dict[str, NDArray[np.intp]]:
    """Indices of the items of each set; sets without items are left out."""
    names = np.array([item.set for item in result.items])
    return {name: np.flatnonzero(names == name) for name in SETS if (names == name).any()}


def _cut(image: ImageItem, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    return _cut_once(image, box, file_state(image.path))


@lru_cache(maxsize=768)  # a sub-image of 128 x 128 takes 48 KiB
def _cut_once(
    image: ImageItem, box: tuple[int, int, int, int], state: tuple[int, ...]
) -> NDArray[np.uint8]:
    y0, x0, y1, _ = box
    return load_sub_image(ImageSet("", (image,)), SubImage(image.key, y0, x0, y1 - y0))


def sources(item: Item, study: Study) -> Tensor:
    """HR sub-images (K,3,S,S) uint8 of an item and its partners, on the device."""
    return study.upload(study.ready_or_read(members(item), _cut))


def members(item: Item) -> tuple[Item, ...]:
    """The sub-images of a group: the foreground's, then those of its partners."""
    return (item, *item.partners)


def source_readings(items: Sequence[Item], study: Study, lr: str) -> list[Reading]:
    """What `sources`, and `Study.inputs` of the same images, read for each of `items`."""
    return [each for item in items for each in study.readings(members(item), lr, _cut)]


@dataclass(frozen=True)
class Groups:
    """G groups with N composites in all that pass through the network together.

    Attributes:
        members: the U different sub-images; one that several groups share is stored once.
        images: their HR pixels (U,3,S,S) uint8 on the device.
        pairs: (N,2) int64 on the device: number of the group and row of `images`, for each
            composite in turn; a group's own sub-image is its first.
        sizes: number of composites of each group.
    """

    members: Sequence[Item]
    images: Tensor
    pairs: Tensor
    sizes: Sequence[int]

    @staticmethod
    def of(item: Item, images: Tensor) -> "Groups":
        """One group: that of `item`, with its sub-images `images` (K,3,S,S)."""
        return Groups(members(item), images, first_in_each(images), [len(images)])

    def foregrounds(self, images: Tensor) -> Tensor:
        """The foregrounds' rows (G,...) of `images` (U,...)."""
        if len(self.sizes) == 1:
            return images[:1]
        return images.index_select(0, own_rows(self.pairs, self.sizes))

    def repeated(self, fronts: Tensor) -> Tensor:
        """Values of foregrounds (G,...), repeated for each of their composites: (N,...)."""
        if len(self.sizes) == 1:
            return fronts.expand(self.sizes[0], *fronts.shape[1:])
        return fronts.index_select(0, self.pairs[:, 0])


def distinct(items: Sequence[Item]) -> list[Item]:
    """The different sub-images of some groups, the first group's foreground first."""
    found = {(each.image, each.box): each for item in items for each in members(item)}
    return [*found.values()]


def group_readings(items: Sequence[Item], study: Study, lr: str) -> list[Reading]:
    """What `read_groups`, and `Study.inputs` of the same images, read."""
    return study.readings(distinct(items), lr, _cut)


def read_groups(items: Sequence[Item], study: Study) -> Groups:
    """The groups of `items` with their pixels on the device."""
    unique = distinct(items)
    rows = {(each.image, each.box): row for row, each in enumerate(unique)}
    images = study.upload(study.ready_or_read(unique, _cut))
    places = [
        place
        for number, item in enumerate(items)
        for each in members(item)
        for place in (number, rows[each.image, each.box])
    ]
    sizes = [1 + len(item.partners) for item in items]
    return Groups(unique, images, study.index(places).view(-1, 2), sizes)


def together(study: Study, o: GroupOptions, size: int) -> int:
    """Number of groups of `size` composites that one pass takes: on CPUs 1."""
    if study.device.type == "cpu":
        return 1
    side = o.size // study.scale
    lr = torch.empty((1, 3, side, side), dtype=study.dtype, device="meta")
    window = centre(o.region, o.size, o.size)
    return max(1, images_per_call(lr, study.scale, window) // size)


def lr_composites(
    item: Item, hr: Tensor, study: Study, o: GroupOptions, seam: Seam = HARD
) -> Tensor:
    """LR composites (K,3,S/s,S/s) in [0,1] of a group's sources `hr` (K,3,S,S) uint8.

    The first one, the foreground in its own background, is the unchanged image for every seam.
    """
    return compose(Groups.of(item, hr), study, o, seam)


def compose(groups: Groups, study: Study, o: GroupOptions, seam: Seam = HARD) -> Tensor:
    """LR composites (N,3,S/s,S/s) in [0,1] of all `groups` in turn, see `lr_composites`."""
    scale, images = study.scale, groups.images
    if o.domain == "lr":
        lr = study.inputs(groups.members, images, o.lr, o.kernel)
        inner = centre(o.region // scale, *lr.shape[-2:])
        return composite(
            groups.foregrounds(lr),
            lr,
            groups.pairs,
            inner,
            bridged_part(lr, inner, seam, groups.sizes),
            seam=pixels(seam, scale),
            backend=study.backend,
        )
    inner = centre(o.region, o.size, o.size)
    return composite_lr(
        groups.foregrounds(images),
        images,
        groups.pairs,
        inner,
        bridged_part(images, inner, seam, groups.sizes),
        scale=scale,
        kernel=o.kernel,
        quantize=True,
        seam=seam,
        backend=study.backend,
    ).to(study.dtype)


def bridged_part(images: Tensor, inner: Box, seam: Seam, sizes: Sequence[int]) -> Tensor | None:
    """Outer boxes (N,4) for bridged composites: the whole image, but empty for own backgrounds.

    None for hard seams, where an image pasted into itself does not change.
    """
    if seam == HARD:
        return None
    outer = torch.tensor([[0, 0, *images.shape[-2:]]], dtype=torch.int32, device="cpu").repeat(
        sum(sizes), 1
    )
    own = np.cumsum([0, *sizes[:-1]])  # where each group begins
    outer[own] = torch.tensor(inner, dtype=torch.int32, device="cpu")
    return outer


def texture_distances(
    caches: Sequence[Descriptions],
    net: Network,
    item: Item,
    hr: Tensor,
    study: Study,
    o: GroupOptions,
) -> dict[str, Tensor]:
    """For each measure the distances (K) of the foreground of `hr` (K,3,S,S) to its backgrounds.

    Images that several of the `caches` lack are made once.
    """
    groups = Groups.of(item, hr)
    made = lru_cache(maxsize=1)(_maker(net, groups, study, o))
    found = [_distances(each, net, groups, made) for each in caches]
    return {name: values for (one,) in found for name, values in one.items()}


def group_distances(
    descriptions: Descriptions, net: Network, groups: Groups, study: Study, o: GroupOptions
) -> list[dict[str, Tensor]]:
    """For each group and measure the distances (K) of the foreground to its backgrounds."""
    return _distances(descriptions, net, groups, _maker(net, groups, study, o))


Maker: TypeAlias = Callable[[tuple[int, ...]], Images]


def _maker(net: Network, groups: Groups, study: Study, o: GroupOptions) -> Maker:
    """Makes what measures read of some of the groups' images."""
    box = Box(*centre(o.region, o.size, o.size))

    def make(rows: tuple[int, ...]) -> Images:
        some = groups.images.index_select(0, study.index(rows))
        return Images(some, study.degrade(some, o.kernel), box, net, study.backend)

    return make


def _distances(
    descriptions: Descriptions, net: Network, groups: Groups, make: Maker
) -> list[dict[str, Tensor]]:
    keys = [(each.image, each.box) for each in groups.members]
    described = descriptions.of(net, keys, lambda rows: make(tuple(rows)))
    return descriptions.apart(described, groups.pairs, groups.sizes)


def first_in_each(hr: Tensor) -> Tensor:
    """Pairs (K,2) of image indices: the foreground is always 0, the background 0 to K-1."""
    each = torch.arange(len(hr), device=hr.device)
    return torch.stack([torch.zeros_like(each), each], dim=1)
