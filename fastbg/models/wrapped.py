"""Any torch.nn.Module as a network of fastbg."""

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
    """A foreign `module` with its image range and mean; a window is cut from its whole output.

    The module receives a copy, so it may change its input in place. Inputs are padded by reflection
    at their lower and right border to multiples of `multiple`, to at least `minimum` pixels a side,
    and to a square if `square`; the output is cropped accordingly.
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
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w); InvalidArgument for another scale."""
        height, width = (side * self.scale for side in x.shape[-2:])
        padded = pad_reflected(x, *self.sides(*x.shape[-2:]))
        y = super_resolve(self.module, self.normalise(padded), "module", self.scale)
        return self.denormalise(y[..., :height, :width])

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """The padded size for an image of (height, width)."""
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
    """Use any module that maps RGB (B,3,h,w) to (B,3,s*h,s*w) as a network of fastbg.

    The module is called with ``(image - mean) * range`` for an image in [0,1], and must return the
    SR image in the same units. It may return a tuple, list, mapping or dataclass that contains one
    tensor of the SR image's size. It is frozen and put into eval mode in place; device and dtype
    stay as they are. Its `forward_window` computes the whole output and crops it.

    Args:
        module: any nn.Module.
        scale: SR pixels per LR pixel and axis; 1 for restoration at the same size.
        mean: in [0,1], for R, G and B; subtracted from the image.
        range: largest value of an image in the module's units, such as 255.
        name: label in tables; default: the name of the module's class.
        multiple, minimum: the input's sides must be multiples of `multiple`, and at least
            `minimum`, in LR pixels. Images are padded by reflection, and the output is cropped.

    Returns:
        A `Network` with `.scale` and `.name`.

    Raises:
        InvalidArgument: a bad argument; on use, an output of another shape or an error that the
            module raises.

    Example:
        >>> import torch, fastbg
        >>> net = fastbg.wrap(torch.nn.Upsample(scale_factor=2), scale=2, name="nearest")
        >>> net(torch.rand(1, 3, 10, 12)).shape
        torch.Size([1, 3, 20, 24])
    """
    if isinstance(module, Network) or not isinstance(module, nn.Module):
        inner = getattr(module, "model", None)
        hint = "; wrap its .model" if isinstance(inner, nn.Module) else ""
        ours = "a network of fastbg, which needs no wrap"
        got = ours if isinstance(module, Network) else type(module).__name__
        raise InvalidArgument("module", got, f"a torch.nn.Module that is not one of fastbg's{hint}")
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
