"""`fastbg diffusion`: the experiment `diffusion` on every image of a folder.

It measures, resumes, uses Ray and reports as `fastbg run` does. Tables, arrays and pictures are
written from the run folder at the end of every call.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastbg.attribution import AttributionResult
from fastbg.attribution.picture import WINDOW_COLOUR, heat
from fastbg.cli import run
from fastbg.cli.files import check_apart, file_name
from fastbg.data.windows import COLUMNS as WINDOW_COLUMNS
from fastbg.errors import InvalidArgument
from fastbg.experiments.diffusion import Diffusion
from fastbg.experiments.experiment import Measured
from fastbg.experiments.study import Study, as_image
from fastbg.geometry import Box
from fastbg.printable import printable
from fastbg.runs.records import read_run, results, stored_experiments, stored_plan
from fastbg.runs.reporting import tables_as_text
from fastbg.runs.store import RunStore
from fastbg.writing import replacing

NAME = Diffusion.name
OWN = ("windows", "window", "size", "nodes")  # options of the experiment that are arguments here
COLUMNS = (
    *WINDOW_COLUMNS,
    "input_y0",
    "input_x0",
    "network",
    "diffusion_index",
    "gini",
    "area_lr_pixels",
    "area_percent",
)


def main(arguments: argparse.Namespace) -> int:
    """Measure, and write all files; 1 if images were left out."""
    if arguments.data is not None:
        check_apart("--out", arguments.out, arguments.data)
    if arguments.windows == "center":  # as `fastbg attribute --window` has it
        arguments.windows = "centre"
    settings = {name: getattr(arguments, name) for name in OWN} | {"images": "each", "maps": "kept"}
    arguments.experiments = [NAME]
    arguments.option = [f"{NAME}.{name}={value}" for name, value in settings.items()]
    arguments.domain = arguments.seam = arguments.pooling = None
    arguments.quick = False
    images = run.images_of(arguments)
    with in_arguments():
        run.carry_out(arguments, run.experiments(arguments), images)
    if arguments.dry_run:
        return 0
    console = Console(highlight=False)
    with read_run(arguments.out) as store:
        (experiment,) = (each for each in stored_experiments(store) if each.name == NAME)
        if not arguments.quiet:
            print_tables(store, experiment, console)
        study = Study(images, scale=store.config["scale"], seed=arguments.seed)
        for path in Files(store, experiment, study, arguments.out).write():
            print(printable(path))
        planned = {item.image for item in stored_plan(store, experiment)}
    left_out = [item.key for item in images.items if item.key not in planned]
    for key in left_out:
        Console(stderr=True).print(f"left out, as its window has no detail: {key}", markup=False)
    return 1 if left_out else 0


@contextmanager
def in_arguments() -> Iterator[None]:
    """Context that replaces option names in errors of the experiment by those of arguments."""
    try:
        yield
    except InvalidArgument as error:
        name, got, expected = error.parts
        owner, _, option = name.partition(".")
        if owner != NAME or option not in OWN:
            raise
        expected = expected.replace(f"{NAME}.", "--")
        raise InvalidArgument(f"--{option}", got, expected) from error


def print_tables(store: RunStore, experiment: Any, console: Console) -> None:
    """Print the means of every network, and their paired differences."""
    for text in tables_as_text(store, experiment):
        table = Table(title=text.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for number, heading in enumerate(text.headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in text.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        console.print(text.note, markup=False)


class Files:
    """Writes the files of a run folder: tables, and arrays and pictures of each network."""

    def __init__(self, store: RunStore, experiment: Any, study: Study, out: Path) -> None:
        self.store, self.experiment, self.study, self.out = store, experiment, study, out
        self.results = results(store, experiment)
        self.items = self.results[0].items
        self.names = names([item.image for item in self.items])

    def write(self) -> Iterator[Path]:
        """Write the files, and yield the path of each."""
        yield self.table(self.out / "windows.csv", WINDOW_COLUMNS, self.windows())
        psnr = f"psnr_{self.experiment.options.channel}_db"
        yield self.table(self.out / "diffusion.csv", (*COLUMNS, psnr), self.rows())
        for number, item in enumerate(self.items):
            hr, lr, window = self.experiment.inputs(item, self.study)
            for result in self.results:
                found = self.attribution(result, number, lr, window)
                folder = file_name(result.net.label)
                found.save(self.out / "arrays" / folder / f"{self.names[item.image]}.npz")
                picture = np.hstack(
                    [
                        framed(as_image(hr[0]), window),
                        framed(heat(found.map[0].numpy(), self.study.scale), window),
                    ]
                )
                path = self.out / "pictures" / folder / f"{self.names[item.image]}.png"
                with replacing(path) as partial:
                    Image.fromarray(picture).save(partial, "PNG")
        yield self.out / "arrays"
        yield self.out / "pictures"

    def attribution(
        self, result: Measured, number: int, lr: torch.Tensor, window: Box
    ) -> AttributionResult:
        """An item's stored result with its input, and the window in SR pixels of that input."""
        key = result.items[number].key
        values = self.store.array(NAME, result.net.label, key, "attribution")
        return AttributionResult(
            attribution=torch.from_numpy(values.astype(np.float32))[None],
            images=lr,
            windows=torch.tensor([tuple(window)], device="cpu"),
            scale=self.study.scale,
            passes=int(result.columns["passes"][number]),
        )

    def windows(self) -> Iterator[Sequence[object]]:
        """The windows that were used, as rows of a CSV file that --windows reads."""
        for item in self.items:
            yield item.image, *item.partners[0].box

    def rows(self) -> Iterator[Sequence[object]]:
        """The table's rows, one for each image and network."""
        pixels = (self.experiment.options.size // self.study.scale) ** 2
        for number, item in enumerate(self.items):
            place = (item.image, *item.partners[0].box, *item.box[:2])
            for result in self.results:
                di, gini, area, psnr = (
                    float(result.columns[name][number]) for name in ("di", "gini", "area", "psnr")
                )
                yield *place, result.net.label, di, gini, int(area), 100 * area / pixels, psnr

    @staticmethod
    def table(path: Path, titles: Sequence[str], rows: Iterator[Sequence[object]]) -> Path:
        """Write a CSV file."""
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(titles)
            writer.writerows(rows)
        return path


def names(keys: Sequence[str]) -> dict[str, str]:
    """A distinct file name for each image."""
    short = {key: file_name(Path(key).with_suffix("").as_posix()) for key in keys}
    counts: dict[str, int] = {}
    for name in short.values():
        counts[name.lower()] = counts.get(name.lower(), 0) + 1
    found = {}
    for number, (key, name) in enumerate(short.items()):
        found[key] = name if counts[name.lower()] == 1 else f"{file_name(key)}_{number}"
    return found


def framed(picture: NDArray[np.uint8], window: Box) -> NDArray[np.uint8]:
    """A picture (h,w,3) with a frame around the window."""
    drawn = Image.fromarray(picture)
    y0, x0, y1, x1 = window
    ImageDraw.Draw(drawn).rectangle((x0 - 1, y0 - 1, x1, y1), outline=WINDOW_COLOUR)
    return np.asarray(drawn)
