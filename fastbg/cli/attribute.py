"""`fastbg attribute`: LAM of files and windows as pictures, arrays and a table."""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from fastbg.attribution.explain import explain
from fastbg.attribution.memory import needed_bytes
from fastbg.attribution.page import Steps, page
from fastbg.attribution.picture import STAR, STARRED, Panel, figure, spread
from fastbg.attribution.unexplained import REASON
from fastbg.cli.device import device_and_precision, pick_device
from fastbg.cli.files import (
    check_apart,
    check_ending,
    check_folder,
    check_writable,
    file_name,
    open_image,
)
from fastbg.cli.windows import Windows, parse_windows, window_text
from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.data.images import open_folder
from fastbg.errors import DataError, InvalidArgument
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box
from fastbg.models.network import Network
from fastbg.models.options import load_choices, one_scale
from fastbg.printable import named, printable
from fastbg.runs.forecast import Forecast
from fastbg.runs.progress import Display
from fastbg.vocabulary import METHOD, STEPS

FORMATS = (".png", ".pdf", ".svg")
PAGE_LIMIT = 1024  # LR pixels a side of an interactive page's image
ANNOUNCED = 3  # windows of a page after which the remaining time is printed
COLUMNS = (
    "image",
    "network",
    "y0",
    "x0",
    "y1",
    "x1",
    "diffusion_index",
    "gini",
    "area_lr_pixels",
    "area_percent",
    "psnr_rgb_db",
)


class Source(NamedTuple):
    """An image file."""

    path: Path
    key: str  # its name in tables and file names
    name: str = ""  # in file names, if another


class Subject(NamedTuple):
    """An image prepared for the networks."""

    source: Source
    lr: Tensor  # (3,h,w) in [0,1]
    hr: Tensor | None  # ground truth (3,s*h,s*w), with --hr
    windows: list[Box]


def main(arguments: argparse.Namespace) -> int:
    """Write the requested files, print their paths; 1 if some of several images were left out."""
    with device_and_precision(arguments.device, arguments.precision) as device:
        return attribute(arguments, device)


def attribute(arguments: argparse.Namespace, device: torch.device) -> int:
    """`main` in the requested precision."""
    sources, windows = sources_of(arguments), parse_windows(arguments.window)
    windows.refuse_strangers([source.path for source in sources])
    idle = [source.key for source in sources if not windows.count(source.path)]
    sources = [source for source in sources if windows.count(source.path)]
    count = sum(windows.count(source.path) for source in sources)
    check_outputs(arguments, [source.path for source in sources], count)
    if arguments.memory <= 0:
        raise InvalidArgument("--memory", arguments.memory, "a positive number of GiB")
    options = quadrature(arguments)
    say = partial(print, file=sys.stderr)  # standard output has paths only
    if idle:
        say(f"no window is listed for {', '.join(idle)}")
    models = load_choices(arguments.model, device, say)
    run = Run(arguments, options, models, windows)
    bad, starred = [], False
    with Display(Console(stderr=True, highlight=False)) as display, run.table() as write:
        display.forecast = Forecast({("attribution", ""): float(count)})
        done = display.follow(("attribution", ""), count * len(models), 0)
        for source in sources:
            try:
                subject = run.subject(source)
            except (DataError, InvalidArgument) as error:
                if len(sources) == 1:
                    raise
                bad.append(f"{source.key}: {error}")
                done.advance(len(models) * windows.count(source.path))
                continue
            for window in subject.windows:
                panels = run.explained(subject, window, done.advance)
                where = f" at {window_text(window)}" if len(subject.windows) > 1 else ""
                for panel in panels:
                    display.print(f"{source.key}{where}  {panel_text(panel)}")
                starred = starred or any(map(is_starred, panels))
                write(subject, window, panels)
        done.finish()
        if starred:
            display.print(STARRED)
        if arguments.html is not None:
            run.page(subject, display)
    for line in bad:
        say(f"left out: {line}")
    return 1 if bad else 0


class Run:
    """One call of the command."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        options: dict[str, Any],
        models: Sequence[Network],
        windows: Windows,
    ) -> None:
        self.arguments, self.windows = arguments, windows
        self.models = {model.name: model for model in models}
        self.scale = one_scale(models)
        self.options = options
        self.names: set[str] = set()  # of written files

    def subject(self, source: Source) -> Subject:
        """The image; DataError or InvalidArgument if it, or its window, cannot be used."""
        arguments = self.arguments
        image = open_image("IMAGE", str(source.path))
        hr = None
        if arguments.hr:
            hr = ground_truth(image, self.scale)
            image = downsample(hr, self.scale)
        height, width = image.shape[:2]
        boxes = self.windows.of(source.path, self.scale * height, self.scale * width)
        if arguments.html is not None:
            check_page(boxes[0], height, width)
        for model in self.models.values():
            check_memory(model, height, width, boxes, arguments)
        device = pick_device(arguments.device)
        lr, truth = (None if each is None else to_tensor(each) for each in (image, hr))
        return Subject(source, lr.to(device), truth, boxes)  # type: ignore[union-attr]

    def explained(
        self, subject: Subject, window: Box, advance: Callable[[int], None]
    ) -> list[Panel]:
        """The panel of each network."""
        panels = []
        for name, model in self.models.items():
            panels += explain(
                subject.lr, {name: model}, window, subject.hr, self.arguments.crop, **self.options
            )
            advance(1)
        return panels

    def table(self) -> "Table":
        """The writer of the results."""
        return Table(self)

    def stem(self, subject: Subject, window: Box) -> str:
        """Distinct stem of the names of a window's files."""
        source = subject.source
        key = Path(source.name or source.key).with_suffix("").as_posix().replace("/", "_")
        wanted = stem = f"{key}_{'_'.join(map(str, window))}"
        number = 2
        while stem in self.names:
            stem, number = f"{wanted}_{number}", number + 1
        self.names.add(stem)
        return named(stem)

    def page(self, subject: Subject, display: Display) -> None:
        """The interactive page of the only window."""
        (window,), path = subject.windows, self.arguments.html
        size = window.y1 - window.y0
        steps = Steps(subject.lr, self.models, size, self.arguments.grid, window[:2])
        words = f"interactive page: {len(steps.windows)} windows every {steps.step} SR pixels"
        display.forecast = Forecast({("page", name): 1.0 for name in self.models})
        followers = {}

        def advance(name: str, count: int) -> None:
            if name not in followers:
                followers[name] = display.follow(("page", name), len(steps.windows), 0)
            followers[name].advance(count)
            if len(followers) == 1 and followers[name].done == min(ANNOUNCED, len(steps.windows)):
                display.print(f"{words}; {display.summary()} (--grid N takes fewer)")

        html = page(
            steps,
            title=printable(subject.source.path.name),
            advance=advance,
            **self.options,
        )
        path.write_text(html, encoding="utf-8")
        print(printable(path))


class Table:
    """Writes a window's files: one picture, or a folder of pictures and arrays, and its table."""

    def __init__(self, run: Run) -> None:
        self.run, self.out = run, run.arguments.out
        self.file: Any = None

    def __enter__(self) -> "Table":
        return self

    def begin(self) -> None:
        """Create the folder and its table, when there is something to write."""
        self.out.mkdir(exist_ok=True)
        self.file = (self.out / "attribution.csv").open("w", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file)
        self.rows.writerow(COLUMNS)

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()
            print(printable(self.file.name))

    def __call__(self, subject: Subject, window: Box, panels: Sequence[Panel]) -> None:
        """Write the panels of one window."""
        drawn = figure(subject.lr, panels, window, self.run.scale, subject.hr)
        if is_picture(self.out):
            drawn.savefig(self.out, dpi=200)
            print(printable(self.out))
            return
        if self.file is None:
            self.begin()
        stem = self.run.stem(subject, window)
        path = self.out / f"{stem}.{self.run.arguments.format or 'png'}"
        drawn.savefig(path, dpi=200)
        print(printable(path))
        for panel in panels:
            name = file_name(panel.name)
            panel.result.save(self.out / f"{stem}_{name}.npz")
            self.rows.writerow([subject.source.key, panel.name, *window, *numbers(panel)])
        self.file.flush()


def numbers(panel: Panel) -> list[str]:
    """The last columns of a panel's line in the table."""
    area = int(panel.result.area()[0])
    psnr = "" if panel.psnr is None else f"{panel.psnr:.4f}"
    gini = float(panel.result.gini[0])
    share = f"{100 * area / panel.map.size:.4f}"
    return [f"{panel.diffusion_index:.4f}", f"{gini:.6f}", str(area), share, psnr]


def panel_text(panel: Panel) -> str:
    """The numbers of a panel as text."""
    if not panel.map.any():
        unexplained = panel.result.unexplained
        doubt = unexplained is not None and bool(unexplained.any())
        return f"{panel.name}: nothing attributed" + f", but no result: {REASON}" * doubt
    _, gini, area, _, psnr = numbers(panel)
    index = spread(panel.map, panel.diffusion_index)
    said = f"{panel.name}: {index}, Gini {float(gini):.4f}, 95 % of the map on {area} LR pixels"
    return said + (f", PSNR {float(psnr):.2f} dB" if psnr else "")


def is_starred(panel: Panel) -> bool:
    """Whether the diffusion index of a panel has a star, which STARRED explains."""
    return spread(panel.map, panel.diffusion_index).endswith(STAR)


def sources_of(arguments: argparse.Namespace) -> list[Source]:
    """The image files, including those in folders."""
    found = []
    for path in map(Path, arguments.image):
        if path.is_dir():
            try:
                images = open_folder(path)
                if arguments.hr:
                    images.refuse_low()
            except DataError as error:
                raise DataError(f"IMAGE: {error}") from error
            check_apart("--out", arguments.out, path)
            found += [Source(item.path, item.key) for item in images.items]
        else:
            found.append(Source(path, printable(path.name)))
    names = Counter(source.key for source in found)
    found = [each if names[each.key] == 1 else named_by_path(each) for each in found]
    for source in found:
        if len(found) > 1 and not source.path.exists():
            raise InvalidArgument("IMAGE", source.path, "an image file or folder; there is none")
    return found


def named_by_path(source: Source) -> Source:
    """For images of one name: the table must tell them apart."""
    return source._replace(key=printable(source.path), name=source.key)


def is_picture(out: Path) -> bool:
    """Whether --out is one picture, not a folder."""
    return out.suffix.lower() in FORMATS and not out.is_dir()


def quadrature(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of an explanation; InvalidArgument for some that exclude each other."""
    steps, method, accuracy = arguments.steps, arguments.method, arguments.accuracy
    for option, given in (("--steps", steps), ("--method", method)):
        if given is not None and accuracy is not None:
            raise InvalidArgument(option, given, "none with --accuracy, which chooses the nodes")
    steps, method = STEPS if steps is None else steps, method or METHOD
    if method == "riemann_trapezoid" and steps < 2:
        raise InvalidArgument("--steps", steps, "at least 2 for --method riemann_trapezoid")
    return {"n_steps": steps, "method": method, "accuracy": accuracy}


def check_outputs(arguments: argparse.Namespace, images: Sequence[Path], count: int) -> None:
    """Raises InvalidArgument for files that cannot be written, or would replace an image."""
    out: Path = arguments.out
    single = is_picture(out)
    if single and count > 1:
        raise InvalidArgument("--out", out, f"a folder, as there are {count} windows")
    if single and arguments.format not in (None, out.suffix[1:].lower()):
        expected = f"none with --out {out}, whose ending says it"
        raise InvalidArgument("--format", arguments.format, expected)
    if not single and out.suffix and not out.is_dir():
        expected = f"a file that ends with {', '.join(FORMATS)}, or a folder"
        raise InvalidArgument("--out", out, expected)
    if not single and out.exists() and not out.is_dir():
        raise InvalidArgument("--out", out, "a folder; this is a file")
    if not out.parent.is_dir():
        raise InvalidArgument("--out", out, "a file in a folder that exists, or a new folder there")
    if not single:
        check_writable("--out", out, out if out.is_dir() else out.parent)
    if arguments.grid is not None and arguments.html is None:
        raise InvalidArgument(
            "--grid", arguments.grid, "none without --html, whose windows it sets"
        )
    if arguments.html is not None and count != 1:
        raise InvalidArgument("--html", arguments.html, f"one image and one window, not {count}")
    if arguments.html is not None and arguments.crop is not None:
        raise InvalidArgument("--crop", arguments.crop, "none with --html, whose maps are whole")
    for option, path in (("--out", out if single else None), ("--html", arguments.html)):
        if path is not None:
            check_folder(option, path)
            if option == "--html":
                check_ending(option, path, ".html", ".htm")
            if path.exists() and any(path.samefile(image) for image in images if image.exists()):
                raise InvalidArgument(option, path, "another file than IMAGE")


def ground_truth(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """An HR image cut to multiples of `scale`."""
    if min(image.shape[:2]) < scale:
        height, width = image.shape[:2]
        expected = f"at least {scale}x{scale} pixels for --hr"
        raise InvalidArgument("IMAGE", f"{height}x{width} pixels", expected)
    return crop_to_multiple(image, scale)


def check_page(window: Box, height: int, width: int) -> None:
    """Raises InvalidArgument for windows and images that an interactive page cannot show."""
    if window.y1 - window.y0 != window.x1 - window.x0:
        raise InvalidArgument(
            "--window", window_text(window), "a square for --html, whose windows are"
        )
    if max(height, width) > PAGE_LIMIT:
        told = f"{height}x{width} LR pixels"
        raise InvalidArgument("IMAGE", told, f"at most {PAGE_LIMIT} a side for --html")


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(3,h,w) in [0,1] of 8-bit pixels (h,w,3)."""
    return as_float(torch.from_numpy(image).permute(2, 0, 1))


def check_memory(
    model: Network, height: int, width: int, windows: Sequence[Box], arguments: argparse.Namespace
) -> None:
    """Raises InvalidArgument if a pass over the image would take more than --memory.

    Networks with a bounded receptive field only get a part of the image.
    """
    if model.stages() is not None or not windows:
        return
    if arguments.crop is not None:
        height, width = min(height, arguments.crop), min(width, arguments.crop)
    needed = needed_bytes(model, height, width) / 2**30
    if needed > arguments.memory:
        raise InvalidArgument(
            "IMAGE",
            f"{height}x{width} LR pixels; {model.name} looks at all of them, which takes about "
            f"{needed:.2g} GiB",
            f"at most {arguments.memory:g} GiB: a smaller image, --memory GIB, or --crop N to give "
            "it N x N LR pixels around the window",
        )
