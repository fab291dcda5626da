"""Figs 7-10 (section 5, method 1): a foreign ring around the window, growing outwards."""

from dataclasses import dataclass
from typing import ClassVar

from fastbg.experiments.nested import Nested, NestedOptions
from fastbg.experiments.options import Options, option
from fastbg.geometry import Box, centre

NEAR, FAR = 32, 48  # ring sizes of claim C6


@dataclass(frozen=True)
class RingOptions(NestedOptions):
    """Sizes in HR pixels."""

    sizes: str = option("0,32,48,64,96", "outer sides of the ring, 0 for none")


class Ring(Nested):
    """A ring of another image around the central window; beyond it the first image goes on."""

    name = "ring"
    title = "Can a network look past a ring of foreign content?"
    paper = "Section 5, Figs 7-10"
    question = (
        "A ring of another image separates a small window from the rest of its image. Does the "
        "window's PSNR fall, and does the network use the pixels beyond the ring? Is this the same "
        "when the ring's seams are bridged?"
    )
    method = (
        "A ring from a dissimilar image (a large distance of Gram matrices) is put around the "
        "central window; beyond the ring the first image goes on. The composite is down-sampled "
        "and restored, and only the window is compared with the ground truth. A local attribution "
        "map tells which input pixels the network used for the window. Half of the windows lie in "
        "photographs and half in textures, if there are both. With a bridged seam, the ring is "
        "blended into the window inside and into the image beyond."
    )
    options_type: ClassVar[type[Options]] = RingOptions
    cost: ClassVar[float] = 75.0
    axis = "outer side of the foreign ring, HR pixels"
    foreign_name = "the foreign ring"
    own_name = "the image beyond"
    looked = (NEAR, FAR)

    @property
    def untouched(self) -> int:
        """No ring."""
        return 0

    def boxes(self, size: int) -> tuple[Box, Box]:
        """From the window to the square of `size`."""
        return self.window_box, self.border(size) if size else self.window_box

    def border(self, size: int) -> Box:
        """The ring's outer border."""
        return centre(size, self.options.size, self.options.size)

    def label(self, size: int) -> str:
        """ "ring 32"."""
        return f"ring {size}" if size else "no ring"
