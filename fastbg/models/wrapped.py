"""Somebody else's network as one of ours."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

from fastbg.errors import InvalidArgument
from fastbg.models.foreign import super_resolve
from fastbg.models.network import Network, pad_reflected
from fastbg.precision import in_network_precision


class Wrapped(Network):
    """`module` with an image range and a mean around it; its window is cut from the whole image.

    The module gets a tensor of its own, so it may change its input in place. Inputs are
    reflected at their lower and right border to a multiple of `multiple` and at least `minimum`
    pixels a side, and to a square if `square`; what that adds to the output is cut off.
    """

    architecture = "wrapped"

    def __init__(
        self,
        module: nn.Module,
        scale: int,
        img_range: float = 1.0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        multiple: int = 1,
        minimum: int = 1,
        square: bool = False,
    ) -> None:
        super().__init__(scale, img_range, mean)
        self.module = module
        self.multiple, self.minimum, self.square = multiple, minimum, square

    @in_network_precision
    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w); InvalidArgument if the module's is another."""
        height, width = (side * self.scale for side in x.shape[-2:])
        padded = pad_reflected(x, *self.sides(*x.shape[-2:]))
        y = super_resolve(self.module, self.normalise(padded), "module", self.scale)
        return self.denormalise(y[..., :height, :width])

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """The size that the module is given for an image of (height, width)."""
        least = (max(side, self.minimum) for side in (height, width))
        high, wide = (-(-side // self.multiple) * self.multiple for side in least)
        return (max(high, wide),) * 2 if self.square else (high, wide)


def wrap(
    module: nn.Module,
    scale: int = 4,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    range: float = 1.0,
    name: str | None = None,
    *,
    multiple: int = 1,
    minimum: int = 1,
) -> Network:
    """Any module that maps RGB (B,3,h,w) to (B,3,s*h,s*w), as a network of this package.

    The module is given ``(image - mean) * range`` of an image in [0,1], and must answer in the
    same units. It may answer a tuple, list, mapping or dataclass that holds one tensor of the SR
    image's size. It is put into eval mode and frozen, in place, and stays on its device and
    dtype. Its `forward_window` saves nothing: forward, then crop.

    Args:
        module: any nn.Module.
        scale: SR pixels per LR pixel and axis, 1 for restoration at the same size.
        mean, range: what the module expects in place of [0,1], for R, G and B.
        name: label in tables; default: the module's class.
        multiple, minimum: sides that the module needs, in LR pixels. Images are reflected at
            their lower and right border up to there, and the result is cut.

    Raises InvalidArgument for a bad argument, and on use for an output of another shape or an
    error of the module's own.
    """
    if isinstance(module, Network) or not isinstance(module, nn.Module):
        inner = getattr(module, "model", None)
        hint = "; wrap its .model" if isinstance(inner, nn.Module) else ""
        ours = "a network of fastbg, which needs no wrap"
        got = ours if isinstance(module, Network) else type(module).__name__
        raise InvalidArgument("module", got, f"a torch.nn.Module of somebody else's{hint}")
    for label, value in (("scale", scale), ("multiple", multiple), ("minimum", minimum)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise InvalidArgument(label, repr(value), "an integer of at least 1")
    if not _finite(range) or not range > 0:
        raise InvalidArgument("range", repr(range), "a positive number")
    if len(mean) != 3 or not all(map(_finite, mean)):
        raise InvalidArgument("mean", tuple(mean), "one number for each of R, G, B")
    module = module.eval().requires_grad_(False)
    network = Wrapped(module, int(scale), range, mean, int(multiple), int(minimum))
    network.name = name or type(module).__name__
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is not None:
        network.mean = network.mean.to(like)
    return network.eval()


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
