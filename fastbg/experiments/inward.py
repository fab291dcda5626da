"""Figs 11-13 (section 5, method 2): foreign content that grows inwards from the border."""

from dataclasses import dataclass
from typing import ClassVar

from fastbg.experiments.nested import Nested, NestedOptions
from fastbg.experiments.options import Options, option
from fastbg.geometry import Box, centre


@dataclass(frozen=True)
class InwardOptions(NestedOptions):
    """Sizes in HR pixels."""

    sizes: str = option(
        "128,96,64,48,32", "sides of the central part that is kept; `size` is all of it"
    )
    little: float = option(1.0, "dB; C7 calls a smaller loss little, a larger one large", low=0)


class Inward(Nested):
    """The centre of an image, with another image around it."""

    name = "inward"
    title = "What if foreign content closes in from the border?"
    paper = "Section 5, Figs 11-13"
    question = (
        "The surroundings of a window are replaced by something else, at first far away at the "
        "border, then closer and closer. From where on does the window suffer, with a hard and "
        "with a bridged seam?"
    )
    method = (
        "Only the central part of an image is kept; around it lies a dissimilar image (another "
        "texture, by the distance of Gram matrices). The composite is reduced and restored, and "
        "only a small window in the middle is compared with the ground truth. A local attribution "
        "map then tells which input pixels made the window. As many windows lie in photographs as "
        "in textures, where the images have both. With a bridged seam the foreign content takes on "
        "the border of the part that is kept."
    )
    options_type: ClassVar[type[Options]] = InwardOptions
    cost: ClassVar[float] = 340
    axis = "side of the part that is kept, HR pixels"
    foreign_name = "the foreign surroundings"
    own_name = "the rest that is kept"

    @property
    def untouched(self) -> int:
        """The whole image is kept."""
        return int(self.options.size)

    def boxes(self, size: int) -> tuple[Box, Box]:
        """From the square of `size` to the image's border."""
        return self.border(size), self.border(self.options.size)

    def border(self, size: int) -> Box:
        """The part that is kept."""
        return centre(size, self.options.size, self.options.size)

    def label(self, size: int) -> str:
        """ "48 kept"."""
        return "untouched" if size == self.untouched else f"{size} kept"
