"""The result of `LocalAttribution.attribute`."""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution import diffusion
from fastbg.attribution.archive import read_arrays
from fastbg.attribution.result_file import NEEDED, OPTIONAL, check_result
from fastbg.errors import DataError, InvalidArgument
from fastbg.geometry import Box
from fastbg.given_path import file_to_write
from fastbg.printable import printable
from fastbg.writing import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
SHOWN = 12  # rows of the table that a notebook shows


@dataclass(frozen=True, repr=False)
class AttributionResult:
    """The attributions of B pairs of image and window.

    For windows (B,N,3) the leading dimensions of everything below are (B,N) instead of (B).

    Attributes:
        attribution: (B,3,h,w) signed, float32, LR resolution.
        images: (B,3,h,w), the LR images.
        windows: (B,3) integers y, x, size in SR pixels, on the CPU; (B,4) y0, x0, y1, x1 if boxes
            were given.
        scale: SR pixels per LR pixel and axis.
        convergence_delta: (B) sum of the attribution less (objective at the image - at the
            baseline), float64; None unless asked for.
        passes: forward and backward passes of the network per (image, window) pair.
        aggregation: how the map is computed from the channels, see `aggregated`.
        unexplained: (B) bool, on the CPU: whether the attribution is zero everywhere although the
            objective changes from the baseline to the image. A warning says so, too: the network
            rounds, and then zero is no result; or it is clipped at each node. None if unknown.

    A notebook shows it as a table and the picture of the first pair.
    """

    attribution: Tensor
    images: Tensor
    windows: Tensor
    scale: int
    passes: int
    convergence_delta: Tensor | None = None
    aggregation: str = "abs_of_sum"
    unexplained: Tensor | None = None

    def aggregated(self, aggregation: str) -> "AttributionResult":
        """This result with a map that aggregates channels in another way; no network is run.

        Args:
            aggregation: "abs_of_sum", |sum over channels| as in the public LAM code; or
                "sum_of_abs", the sum of the channels' absolute values, where attributions of
                opposite signs do not cancel. `gini`, `diffusion_index`, `area` and `share` are
                computed from the map, so compare only results with the same aggregation.

        Raises InvalidArgument for any other.
        """
        return replace(self, aggregation=diffusion.check_aggregation(aggregation))

    @cached_property
    def map(self) -> Tensor:
        """(B,h,w): the aggregated channels, by default |their sum|, divided by the maximum."""
        return diffusion.attribution_map(self.attribution, self.aggregation)

    @cached_property
    def gini(self) -> Tensor:
        """(B) Gini coefficient of the map, float64."""
        return diffusion.gini(self.map)

    @property
    def diffusion_index(self) -> Tensor:
        """(B) diffusion index (1 - Gini) * 100, float64."""
        return (1 - self.gini) * 100

    @property
    def boxes(self) -> Tensor:
        """(B,4) windows as y0, x0, y1, x1 in SR pixels, half-open."""
        if self.windows.shape[-1] == 4:
            return self.windows
        corner, size = self.windows[..., :2], self.windows[..., 2:]
        return torch.cat((corner, corner + size), -1)

    def area(self, share: float = 0.95) -> Tensor:
        """(B) area of contribution: the fewest LR pixels that hold `share` of the map; int64.

        0 for a map of zeros. Raises InvalidArgument unless 0 < `share` <= 1.
        """
        return diffusion.contribution_area(self.map, share)

    def share(self, boxes: Tensor | Sequence[int]) -> Tensor:
        """Share of the map inside each box, in [0,1].

        For a ring, subtract the share of the inner box from that of the outer box.

        Args:
            boxes: y0, x0, y1, x1, half-open, in SR pixels: (4) or (N,4).

        Returns:
            (B) float64, or (B,N) for N boxes.

        Raises:
            InvalidArgument: wrong shape of `boxes`.
        """
        return diffusion.box_share(self.map, boxes, self.scale)

    def plot(self, index: int | tuple[int, ...] = 0) -> "Figure":
        """A Matplotlib figure of pair `index`: input, map, kernel density, diffusion index.

        Of (B,N) pairs a number counts all, those of the first image first; (b,n) names one.
        Raises InvalidArgument if there is no such pair.
        """
        from fastbg.attribution.picture import result_figure

        return result_figure(self, index)

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """All fields, and `map`, `gini`, `diffusion_index`, `area`, as NumPy arrays by name."""
        tensors = {
            "attribution": self.attribution,
            "images": self.images,
            "windows": self.windows,
            "map": self.map,
            "gini": self.gini,
            "diffusion_index": self.diffusion_index,
            "area": self.area(),
        }
        if self.convergence_delta is not None:
            tensors["convergence_delta"] = self.convergence_delta
        if self.unexplained is not None:
            tensors["unexplained"] = self.unexplained
        # NumPy has no bfloat16; float32 holds all of its values.
        arrays = {
            name: (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
            for name, value in tensors.items()
        }
        names = ("scale", "passes", "aggregation")
        return arrays | {name: np.array(getattr(self, name)) for name in names}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_numpy()` to a file (.npz) that `load` and `numpy.load` read.

        Raises OSError as the file system does; a file that was there stays until all is written.
        InvalidArgument for a folder, or the name of a picture: `plot().savefig(path)` draws one.
        """
        file_path = file_to_write("path", path)
        if file_path.suffix.lower() in PICTURES:
            expected = "a file of arrays (.npz); plot().savefig(path) draws a picture"
            raise InvalidArgument("path", file_path, expected)
        with replacing(file_path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **self.to_numpy())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "AttributionResult":
        """The result that `save` wrote, on the CPU; runs no code of the file.

        Raises DataError for a file that cannot be read or is no such result.
        """
        found = read_arrays(path, (*NEEDED, *OPTIONAL))
        try:
            check_result(found)
            found["windows"] = found["windows"].astype(np.int64)
            others: dict[str, Any] = {name: int(found.pop(name)) for name in ("scale", "passes")}
            if "aggregation" in found:
                others["aggregation"] = str(found.pop("aggregation"))
            tensors: dict[str, Any] = {n: torch.from_numpy(a) for n, a in found.items()}
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{printable(path)}: holds {error}; expected a file that AttributionResult.save "
                "wrote"
            ) from error
        return cls(**tensors, **others)

    def __repr__(self) -> str:
        size = tuple(self.attribution.shape)
        count = self.gini.numel()
        maps = f"{count} map{'s' * (count != 1)}"
        return f"AttributionResult({maps}, attribution {size}, x{self.scale})"

    def _rows(self) -> Iterator[tuple[tuple[int, ...], str, str, str, str]]:
        """Index, window, diffusion index, Gini coefficient and area of each pair."""
        di, area = self.diffusion_index, self.area()
        for index in np.ndindex(*self.gini.shape):
            box = Box(*self.boxes[index].tolist())
            told = f"{di[index]:.2f}", f"{self.gini[index]:.4f}", f"{int(area[index])}"
            yield index, box.text(), *told

    def _repr_png_(self) -> bytes | None:
        """The first pair's picture, for notebooks; None if there is no pair."""
        if not self.gini.numel():
            return None
        buffer = io.BytesIO()
        self.plot((0,) * self.gini.dim()).savefig(buffer, format="png", dpi=120)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """The numbers of every pair, and the first one's picture."""
        head = "<tr><th>window y, x, SR px</th><th>DI</th><th>Gini</th><th>area, LR px</th></tr>"
        rows = list(self._rows())
        cells = "".join(
            f"<tr>{''.join(f'<td>{text}</td>' for text in row[1:])}</tr>" for row in rows[:SHOWN]
        )
        more = f"<p>and {len(rows) - SHOWN} more</p>" if len(rows) > SHOWN else ""
        image = self._repr_png_()
        picture = ""
        if image is not None:
            encoded = base64.b64encode(image).decode()
            picture = f'<img alt="first map" src="data:image/png;base64,{encoded}">'
        title = f"<p>{len(rows)} attribution{'s' * (len(rows) != 1)}</p>"
        return f"{title}<table>{head}{cells}</table>{more}{picture}"
