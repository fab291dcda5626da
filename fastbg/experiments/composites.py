"""Section 4.1 and Fig. 3: foregrounds in foreign backgrounds, of photographs and of textures."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastbg.errors import RunStoreError
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.groups import (
    GroupOptions,
    by_set,
    first_in_each,
    lr_composites,
    plan_groups,
    source_readings,
    sources,
)
from fastbg.experiments.options import option
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study, as_image
from fastbg.geometry import centre
from fastbg.measures.quality import grey_levels
from fastbg.models.network import Network
from fastbg.ops.composite import composite
from fastbg.printable import printable

SHOWN = 3  # groups of each set in the contact sheet
FOREIGN = 5  # foreign backgrounds shown for each group


@dataclass(frozen=True)
class CompositesOptions(GroupOptions):
    """The groups of `swap`, and the number of groups that are written to disk.

    The default is 960 composites: 24 foregrounds of each set, all from different photographs, in 20
    backgrounds. More would not change the conclusions.
    """

    sources: int = 24
    groups: int = 24
    backgrounds: int = 20
    exported: int = option(
        1, "groups of each set, as PNG and CSV in the run folder's composites/", low=0
    )


class Composites(Experiment):
    """Composites, and how much the foreign background changes the foreground's LR pixels."""

    name = "composites"
    title = "How are foregrounds and backgrounds put together?"
    paper = "Sections 3.3 and 4.1, Fig. 3"
    question = (
        "The centre of one image, the foreground, is put into the middle of other images, its "
        "foreign backgrounds. What do these composites look like, and what do they change?"
    )
    method = (
        "Sub-images are drawn by a seed, one half for foregrounds, the other for backgrounds. "
        "Composites are made in high resolution (HR) and then reduced to the network's "
        "low-resolution (LR) input, so that LR pixels at the foreground's rim mix both."
    )
    options_type: ClassVar[type[GroupOptions]] = CompositesOptions
    cost: ClassVar[float] = 0.2
    networks: ClassVar[bool] = False
    chunk: ClassVar[int] = 1  # a group of composites
    curves = ("step", "mixed", "touched")
    shown = ("own", *(f"foreign_{k + 1}" for k in range(FOREIGN)))

    def plan(self, study: Study) -> list[Item]:
        """Groups of both sets, drawn by the seed."""
        return plan_groups(study, self.options, self.name)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """The columns of `compare` (n,K), own background first; exports the first groups."""
        rows = []
        for item in items:
            hr, lr = self.composites(item, sources(item, study), study)
            rows.append(self.compare(hr, lr))
            if study.folder is not None and item.number < self.options.exported:
                export(item, hr, lr, study.folder / "composites")
        return {name: torch.stack([row[name] for row in rows]) for name in self.curves}

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """Each group's sub-images."""
        return source_readings(items, study, self.options.lr)

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Composites only."""
        return Work(forwards=0, composites=sum(1 + len(item.partners) for item in items))

    def composites(self, item: Item, images: Tensor, study: Study) -> tuple[Tensor, Tensor]:
        """HR (K,3,S,S) and LR composites in [0,1] of one group's sources (K,3,S,S) uint8."""
        o = self.options
        inner = centre(o.region, o.size, o.size)
        hr = composite(images[:1], images, first_in_each(images), inner, backend=study.backend)
        return hr, lr_composites(item, images, study, o)

    def compare(self, hr: Tensor, lr: Tensor) -> dict[str, Tensor]:
        """Columns (K) of one group's composites `hr` (K,3,S,S) and `lr`; nothing leaves the device.

        step: mean absolute difference (grey levels) between HR pixels on both sides of the rim;
        mixed: mean change (grey levels) of the foreground's LR pixels by the foreign background;
        touched: share of those pixels that change at all.
        """
        o, scale = self.options, hr.shape[-1] // lr.shape[-1]
        y0, x0, y1, x1 = centre(o.region, o.size, o.size)
        levels = grey_levels(hr)
        inside = levels[..., y0:y1, x0:x1]
        rim = [
            inside[..., 0, :] - levels[..., y0 - 1, x0:x1],
            inside[..., -1, :] - levels[..., y1, x0:x1],
            inside[..., :, 0] - levels[..., y0:y1, x0 - 1],
            inside[..., :, -1] - levels[..., y0:y1, x1],
        ]
        y0, x0, y1, x1 = (v // scale for v in (y0, x0, y1, x1))
        foreground = grey_levels(lr)[..., y0:y1, x0:x1]
        change = (foreground - foreground[:1]).abs()
        return {
            "step": torch.cat(rim, dim=-1).abs().mean((1, 2)),
            "mixed": change.mean((1, 2, 3)),
            "touched": (change.amax(1) > 0).double().mean((1, 2)),
        }

    def cases(self, measured: Measured) -> list[int]:
        """The first groups of each set."""
        return [int(i) for rows in by_set(measured).values() for i in rows[:SHOWN]]

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The own background, and foreign ones spread over the group."""
        last = len(item.partners) - 1
        chosen = np.linspace(0, last, min(FOREIGN, last + 1)).round().astype(int)
        some = replace(item, partners=tuple(item.partners[k] for k in chosen))
        hr, _ = self.composites(some, sources(some, study), study)
        return {name: as_image(image) for name, image in zip(self.shown, hr, strict=False)}


def export(item: Item, hr: Tensor, lr: Tensor, folder: Path) -> None:
    """Write a group's composites (PNG) and their sources (CSV) into a subfolder of `folder`.

    Raises RunStoreError if the folder cannot be written.
    """
    place = folder / item.set / f"{item.number:03}"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["composite", "foreground", "y", "x", "background", "y", "x", "size"])
    y, x, bottom, _ = item.box
    try:
        place.mkdir(parents=True, exist_ok=True)
        for k, back in enumerate((item, *item.partners)):
            row = [item.image, y, x, back.image, *back.box[:2], bottom - y]
            table.writerow([f"{k:03}", *row])
            for kind, image in (("hr", hr[k]), ("lr", lr[k])):
                Image.fromarray(as_image(image)).save(place / f"{k:03}_{kind}.png")
        (place / "group.csv").write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise RunStoreError(
            f"{printable(place)}: composites cannot be written: {error}; expected a folder with "
            "free space that can be written, or composites.exported=0"
        ) from error
