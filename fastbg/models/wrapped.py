"""Somebody else's network as one of ours."""

from collections.abc import Sequence

from torch import Tensor, nn

from fastbg.errors import InvalidArgument
from fastbg.models.network import Network, pad_to_multiple


class Wrapped(Network):
    """`module` with an image range and a mean around it; its window is cut from the whole image.

    The module gets a tensor of its own, so it may change its input in place. Inputs are
    reflected at their lower and right border to a multiple of `multiple`.
    """

    architecture = "wrapped"

    def __init__(
        self,
        module: nn.Module,
        scale: int,
        img_range: float = 1.0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        multiple: int = 1,
    ) -> None:
        super().__init__(scale, img_range, mean)
        self.module, self.multiple = module, multiple

    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w); InvalidArgument if the module's is another."""
        height, width = (side * self.scale for side in x.shape[-2:])
        padded = pad_to_multiple(x, self.multiple)
        expected = (len(x), 3, padded.shape[-2] * self.scale, padded.shape[-1] * self.scale)
        y = self.module(self.normalise(padded))
        if not isinstance(y, Tensor) or y.shape != expected:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InvalidArgument(
                "module", f"an output {got} for {tuple(padded.shape)}", f"a tensor {expected}"
            )
        return self.denormalise(y[..., :height, :width])


def wrap(
    module: nn.Module,
    scale: int = 4,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    range: float = 1.0,
    name: str | None = None,
) -> Network:
    """Any module that maps RGB (B,3,h,w) to (B,3,s*h,s*w), as a network of this package.

    The module is given ``(image - mean) * range`` of an image in [0,1], and must answer in the
    same units. It is put into eval mode and frozen, in place, and stays on its device and dtype.
    Its `forward_window` saves nothing: forward, then crop.

    Raises InvalidArgument for a bad scale, range or mean; on use, for an output of another shape.
    """
    if scale < 1:
        raise InvalidArgument("scale", scale, "an integer of at least 1")
    if not range > 0:
        raise InvalidArgument("range", range, "a positive number")
    network = Wrapped(module.eval().requires_grad_(False), scale, range, mean)
    network.name = name or type(module).__name__
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is not None:
        network.mean = network.mean.to(like)
    return network.eval()
