"""The base of `ring` and `inward` (section 5, methods 1 and 2): foreign content around a window.

Foreign content lies between two nested squares of an image, in several sizes; PSNR and attribution
are measured in the central window. `ring` and `inward` define the squares.
"""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution import (
    AttributionResult,
    GaussianBlurPath,
    GradientDetector,
    LocalAttribution,
)
from fastbg.attribution.picture import heat
from fastbg.data.manifests import in_turn
from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.experiment import (
    Experiment,
    Measured,
    Picture,
    Work,
    decibels,
)
from fastbg.experiments.options import Options, integers, option
from fastbg.experiments.reading import Reading
from fastbg.experiments.seams import HARD, Seam, SeamedOptions, column, pixels, select_seam
from fastbg.experiments.study import Item, Study, as_image, detailed, restore
from fastbg.experiments.windows import NODES, nodes_option
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box, centre
from fastbg.measures.quality import psnr
from fastbg.measures.texture import gram_distance, texture_gram
from fastbg.models.network import Network
from fastbg.ops.composite import composite, composite_lr

GRAM_CHUNK = 16  # images per batch of Gram matrices
GAP, SEPARATOR = 4, (104, 112, 124)  # pixels; a grey that is visible on light and dark pages


@dataclass(frozen=True)
class NestedOptions(SeamedOptions):
    """Sizes in HR pixels; those of nested squares are separated by commas."""

    count: int = option(20, "pairs of photographs, and as many pairs of textures", low=1)
    candidates: int = option(80, "sub-images that the pairs are chosen from", low=2)
    size: int = option(128, "side of an image, HR pixels", low=1)
    window: int = option(16, "side of the central window that is measured, HR pixels", low=1)
    sizes: str = option("", "sides of the nested squares, HR pixels")
    domain: Literal["hr", "lr"] = option(
        "hr",
        "resolution in which the images are composed",
        hr="high, then down-sampled",
        lr="low, so that LR pixels of the first image never change",
    )
    nodes: Literal["few", "many", "published"] = nodes_option("few")
    null: Literal["off", "on"] = option("off", "also attribute with random weights")
    noticed: float = option(
        0.05, "C6: pixels are used if they have a larger share of the attribution", low=0, high=1
    )


class Nested(Experiment):
    """PSNR and attribution of the central window, by the size of a nested square.

    Columns for each size `s`: `psnr_s` (dB); `di_s`, the diffusion index; and the shares of the
    attribution: `window_s` on the window, `own_s` on the first image's other pixels, `foreign_s` on
    foreign pixels, and `before_s` on the same pixels in the unchanged image. With the null model
    there are also `null_di_s` to `null_before_s`. There is a column for each seam, see `column`;
    the unchanged image has none.
    """

    options_type: ClassVar[type[Options]] = NestedOptions
    chunk: ClassVar[int] = 2
    shown = ("grid",)
    # Names in figures of `sizes`, of the foreign pixels, and of the first image's other pixels.
    axis: ClassVar[str]
    foreign_name: ClassVar[str]
    own_name: ClassVar[str]
    # Sizes that are attributed with every seam, besides those of `attributed`. An attribution takes
    # as long as about fifteen restorations.
    looked: ClassVar[tuple[int, ...]] = ()

    @property
    @abstractmethod
    def untouched(self) -> int:
        """The size without foreign content."""

    @abstractmethod
    def boxes(self, size: int) -> tuple[Box, Box]:
        """Inner and outer box, in HR pixels; the foreign image fills the area between them."""

    @abstractmethod
    def border(self, size: int) -> Box:
        """For figures: the box whose border separates own and foreign pixels at `size`."""

    @abstractmethod
    def label(self, size: int) -> str:
        """Name of a size in figures."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes, in the order of growing foreign content."""
        sizes = integers(f"{self.name}.sizes", self.options.sizes, among=self.untouched)
        return tuple(sizes[::-1] if sizes[-1] == self.untouched else sizes)

    @property
    def changed(self) -> tuple[int, ...]:
        """The sizes with foreign content."""
        return tuple(size for size in self.sizes if size != self.untouched)

    @property
    def attributed(self) -> tuple[int, ...]:
        """The sizes that are attributed with the first seam."""
        return self.sizes

    def attributed_with(self, seam: Seam) -> tuple[int, ...]:
        """The sizes that are attributed with a seam."""
        if seam == self.seams[0]:
            return self.attributed
        return tuple(size for size in self.changed if size in self.looked)

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The seams to measure."""
        found: tuple[Seam, ...] = self.options.seams(self.name)
        return found

    def view(self, measured: Measured, seam: Seam) -> Measured:
        """The records of one seam, with the seam left out of the column names."""

        def shared(name: str) -> bool:
            kind, _, size = name.rpartition("_")
            return int(size) == self.untouched or kind.endswith("before")

        return select_seam(measured, seam, shared)

    def plan(self, study: Study) -> list[Item]:
        """Pairs of images from different photographs, the most dissimilar first.

        The first image is a photograph in `count` pairs, and a texture in `count` more if the set
        has textures.
        """
        self.check(study.scale)
        drawn = study.sub_images(self.options.candidates, self.options.size)
        window = centre(self.options.window, self.options.size, self.options.size)
        good: list[bool] = []
        grams: list[Tensor] = []
        for first in range(0, len(drawn), GRAM_CHUNK):
            hr = study.ground_truth(drawn[first : first + GRAM_CHUNK])
            good += detailed(hr, window)
            grams.append(texture_gram(hr, backend=study.backend))
        textures = torch.cat(grams)
        distance = gram_distance(textures, textures).cpu().numpy()
        fitting = [i for i in range(len(drawn)) if good[i]]
        sets = [
            [i for i in fitting if (drawn[i].image in study.images.classes) == texture]
            for texture in (False, True)
        ]
        return self.pairs(drawn, [*in_turn(some[: self.options.count] for some in sets)], distance)

    def pairs(
        self, drawn: Sequence[Item], firsts: Sequence[int], distance: NDArray[np.floating]
    ) -> list[Item]:
        """Pairs each of `firsts` with the most distant unused image of another photograph."""
        taken: set[int] = set()
        found: list[tuple[float, Item]] = []
        for i in firsts:
            others = (j for j, item in enumerate(drawn) if item.source != drawn[i].source)
            free = [j for j in others if j not in taken]
            if not free:
                break
            j = max(free, key=lambda j: distance[i, j])
            taken.add(j)
            a, b = drawn[i], drawn[j]
            pair = replace(a, key=f"{a.key} + {b.key}", partners=(b,))
            found.append((float(distance[i, j]), pair))
        if len(found) < self.options.count:
            raise DataError(
                f"{self.name}: {len(drawn)} sub-images give {len(found)} pairs of different "
                f"photographs with detail in the window; expected {self.name}.count = "
                f"{self.options.count}: raise {self.name}.candidates, or add photographs"
            )
        return [item for _, item in sorted(found, key=lambda pair: -pair[0])]

    def check(self, scale: int) -> None:
        """InvalidArgument unless the sizes are nested squares on the LR grid."""
        o, step = self.options, 2 * scale
        o.check(self.name)
        for name in ("size", "window"):
            if getattr(o, name) < step or getattr(o, name) % step:
                expected = f"a positive multiple of {step}"
                raise InvalidArgument(f"{self.name}.{name}", getattr(o, name), expected)
        o.check_pairing(self.name)
        for size in self.changed:
            if size % step or not o.window < size < o.size:
                expected = f"multiples of {step} between {o.window} and {o.size}"
                raise InvalidArgument(f"{self.name}.sizes", size, expected)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB) and attribution of the window, by size and seam."""
        hr = study.ground_truth(items)
        columns: dict[str, Tensor] = {}
        for seam in self.seams:
            sizes = self.sizes if seam == self.seams[0] else self.changed
            looked = self.attributed_with(seam)
            columns |= self.with_seam(net, items, hr, study, seam, sizes, looked)
        return columns

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """The first images, and those of the foreign content."""
        both = items, partners(items)
        return [each for some in both for each in study.readings(some, self.options.lr)]

    def with_seam(
        self,
        net: Network,
        items: Sequence[Item],
        hr: Tensor,
        study: Study,
        seam: Seam,
        sizes: Sequence[int],
        looked: Sequence[int],
    ) -> dict[str, Tensor]:
        """Columns for one seam: PSNR for `sizes`, attribution for `looked`."""
        lr = self.inputs(items, hr, study, seam, sizes)
        found = {"psnr": self.compare(net, hr, lr)}
        if looked:
            some = lr.unflatten(0, (len(items), -1))[:, [sizes.index(size) for size in looked]]
            some = some.flatten(0, 1)
            shares = self.attribution(net, some, study, looked)
            if self.options.null == "on":
                null = self.attribution(randomised(net, self.seed), some, study, looked)
                shares |= {f"null_{name}": values for name, values in null.items()}
            found |= shares
        columns = {}
        for name, values in found.items():
            of = sizes if name == "psnr" else looked
            for size, each in zip(of, values.reshape(len(items), -1).unbind(1), strict=True):
                plain = size == self.untouched or name.endswith("before")
                columns[column(f"{name}_{size}", HARD if plain else seam)] = each
        return columns

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """One composite and one restoration per size, without the passes for attribution."""
        sizes = len(self.sizes) + (len(self.seams) - 1) * len(self.changed)
        return Work(forwards=sizes * len(items), composites=sizes * len(items))

    def inputs(
        self,
        items: Sequence[Item],
        hr: Tensor,
        study: Study,
        seam: Seam = HARD,
        sizes: Sequence[int] = (),
    ) -> Tensor:
        """LR composites (n*S,3,h,w) in [0,1] of the regions `hr` (n,3,H,W) uint8, item by item.

        For S `sizes`; all by default.
        """
        o, n, sizes = self.options, len(items), sizes or self.sizes
        foreign = study.ground_truth(partners(items))
        index = torch.arange(n, device=hr.device).repeat_interleave(len(sizes))
        pairs = torch.stack((index, index), dim=1)
        inner, outer = (
            torch.tensor(box, dtype=torch.int32, device="cpu").repeat(n, 1)
            for box in zip(*map(self.boxes, sizes), strict=True)
        )
        if o.domain == "hr":
            return composite_lr(
                hr,
                foreign,
                pairs,
                inner,
                outer,
                scale=study.scale,
                kernel=o.kernel,
                quantize=True,
                seam=seam,
                backend=study.backend,
            ).to(study.dtype)
        a = study.inputs(items, hr, o.lr, o.kernel)
        b = study.inputs(partners(items), foreign, o.lr, o.kernel)
        inner, outer = inner // study.scale, outer // study.scale
        joined = pixels(seam, study.scale)
        return composite(a, b, pairs, inner, outer, seam=joined, backend=study.backend)

    def compare(self, net: Network, hr: Tensor, lr: Tensor) -> Tensor:
        """PSNR (n*S), dB, of the window in each composite; nothing leaves the device."""
        y0, x0, y1, x1 = window = self.window_box
        truth = as_float(hr[..., y0:y1, x0:x1])
        truth = truth.repeat_interleave(len(lr) // len(hr), dim=0)
        return psnr(restore(net, lr, window), truth, channel=self.options.channel)

    def attribution(
        self, net: Network, lr: Tensor, study: Study, sizes: Sequence[int]
    ) -> dict[str, Tensor]:
        """Diffusion index and shares of the attribution (n*S) for composites `lr` of `sizes`."""
        result = self.attribute(net, lr, study)
        inner, outer = zip(*map(self.boxes, sizes), strict=True)
        count = len(sizes)
        share = result.share(
            torch.tensor([self.window_box, *inner, *outer], device="cpu")
        )  # [n*S, 1+2S]
        window, places = share[:, 0], share[:, 1 + count :] - share[:, 1 : 1 + count]
        places = places.reshape(-1, count, count)  # [n, image, place of the foreign pixels]
        foreign = places.diagonal(dim1=1, dim2=2).reshape(-1)
        found = {
            "di": result.diffusion_index,
            "window": window,
            "own": 1 - window - foreign,
            "foreign": foreign,
        }
        if self.untouched in sizes:
            found["before"] = places[:, sizes.index(self.untouched)].reshape(-1)
        return found

    def attribute(self, net: Network, lr: Tensor, study: Study) -> AttributionResult:
        """Attribution of the window in each of the composites `lr` (n*S,3,h,w)."""
        lam = LocalAttribution(
            net,
            GaussianBlurPath(backend=study.backend),
            GradientDetector(backend=study.backend),
        )
        y0, x0, _, _ = self.window_box
        with torch.inference_mode(False):  # gradients are needed here
            return lam.attribute(
                lr.clone(), (y0, x0, self.options.window), **NODES[self.options.nodes]
            )

    @property
    def window_box(self) -> Box:
        """The central window, in HR pixels."""
        return centre(self.options.window, self.options.size, self.options.size)

    def cases(self, measured: Measured) -> list[int]:
        """The most dissimilar pair."""
        return [0]

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """A picture for each size: SR image, map, and the null model's map, below one another."""
        lr = self.inputs([item], study.ground_truth([item]), study, self.seams[0])
        nets = [net]
        if self.options.null == "on":
            nets.append(randomised(net, self.seed))
        rows = [[as_image(sr) for sr in restore(net, lr)]]
        for each in nets:
            maps = self.attribute(each, lr, study).map.cpu().numpy()
            rows.append([heat(values, study.scale) for values in maps])
        return {"grid": np.vstack([part for row in rows for part in separated(row)][1:])}


def partners(items: Sequence[Item]) -> list[Item]:
    """The items that the foreign content is cut from."""
    return [item.partners[0] for item in items]


def separated(row: Sequence[Picture]) -> tuple[Picture, Picture]:
    """The pictures of `row` side by side, preceded by a separating line."""
    pictures = np.hstack(row)
    return np.full((GAP, *pictures.shape[1:]), SEPARATOR, np.uint8), pictures


def randomised(net: Network, seed: int) -> Network:
    """A copy of `net` with random weights, the null model of its attributions.

    Each tensor is drawn from a normal distribution with the tensor's mean and standard deviation,
    so that signals keep their magnitude.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    # Attributions need gradients, which tensors made in inference mode do not have.
    with torch.inference_mode(False), torch.no_grad():
        twin = copy.deepcopy(net)
        for parameter in twin.parameters():
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=torch.float32, device="cpu"
            ).to(parameter)
            parameter.copy_(parameter.mean() + parameter.std(correction=0) * noise)
    return twin


def change(result: Measured, size: int, reference: int) -> NDArray[np.float64]:
    """PSNR at `size` minus PSNR at `reference`, dB (n)."""
    return decibels(result, f"psnr_{size}") - decibels(result, f"psnr_{reference}")
