"""Figs 11-13 (section 5, method 2): foreign content closes in from the border."""

from dataclasses import dataclass
from typing import ClassVar

from fastbg.experiments.nested import Nested, NestedOptions
from fastbg.experiments.options import Options, option
from fastbg.geometry import Box, centre


@dataclass(frozen=True)
class InwardOptions(NestedOptions):
    """Sizes in HR pixels."""

    sizes: str = option(
        "128,96,64,48,32", "sides of the central part that is kept; `size` keeps the whole image"
    )
    little: float = option(1.0, "dB; C7: a smaller loss is small, a larger one large", low=0)


class Inward(Nested):
    """The centre of an image, with another image around it."""

    name = "inward"
    title = "What if foreign content closes in from the border?"
    paper = "Section 5, Figs 11-13"
    question = (
        "The surroundings of a window are replaced by another image, at first only near the "
        "border, then closer and closer to the window. At which distance does its PSNR fall, with "
        "a hard and with a bridged seam?"
    )
    method = (
        "Only the central part of an image is kept, surrounded by a dissimilar image (a large "
        "distance of Gram matrices). The composite is down-sampled and restored, and only a small "
        "window in the middle is compared with the ground truth. A local attribution map tells "
        "which input pixels the network used for the window. Half of the windows lie in "
        "photographs and half in textures, if there are both. With a bridged seam, the foreign "
        "content is blended into the border of the kept part."
    )
    options_type: ClassVar[type[Options]] = InwardOptions
    cost: ClassVar[float] = 40.0
    axis = "side of the part that is kept, HR pixels"
    foreign_name = "the foreign surroundings"
    own_name = "the rest that is kept"

    @property
    def untouched(self) -> int:
        """The whole image is kept."""
        return int(self.options.size)

    @property
    def attributed(self) -> tuple[int, ...]:
        """Every second size, and the last: no claim is about these maps."""
        return (*self.sizes[:-1:2], self.sizes[-1])

    def boxes(self, size: int) -> tuple[Box, Box]:
        """From the square of `size` to the image's border."""
        return self.border(size), self.border(self.options.size)

    def border(self, size: int) -> Box:
        """The part that is kept."""
        return centre(size, self.options.size, self.options.size)

    def label(self, size: int) -> str:
        """ "48 kept"."""
        return "untouched" if size == self.untouched else f"{size} kept"
