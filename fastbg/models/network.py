"""The base class of all networks: an image in [0,1] in, a larger image out."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.arguments import check_mean, check_number, check_whole
from fastbg.models.window import Crop, Stage, check_window, required_boxes

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

# LR pixels that a network is given at once where nothing is kept for backward. On CPUs small
# batches won: the features of a few thousand pixels stay in the cache.
PIXELS_PER_CALL = {"cpu": 8_192}
# Bytes of one feature map at once on GPUs, of which a network has about four: a card of 8 GB is
# enough, and the batch, and with it the last bits, does not depend on what is free.
MAP_BYTES = 512 << 20
CHANNELS = 64  # of a feature map; the built-in networks have no more

if TYPE_CHECKING:
    from fastbg.models.changeable import Changeable


class Network(nn.Module):
    """An SR network: RGB (B,3,h,w) in [0,1] to RGB (B,3,s*h,s*w), not clamped.

    Internally an image is ``(x - mean) * img_range``.

    Attributes:
        scale: SR pixels per LR pixel and axis.
        name: label in tables.
        config: keywords of the constructor: ``type(net)(**net.config)`` builds the same network.
    """

    architecture: ClassVar[str]
    crop_multiple = 1  # LR pixels: where a crop may start, see `crop_for`
    native = True  # whether a frozen float32 network may run in one native call
    equal_windows = False  # whether native windows equal those of the whole image bit for bit
    origin = ""  # position of the weights in their file, such as "params_ema"
    mean: Tensor

    def __init__(self, scale: int, img_range: float, mean: Sequence[float], **sizes: Any) -> None:
        super().__init__()
        scale = check_whole("scale", scale)
        img_range, mean = check_number("img_range", img_range, least=1e-6), check_mean(mean)
        self.scale, self.img_range, self.name = scale, img_range, self.architecture
        self.config = {**sizes, "scale": scale, "img_range": img_range, "mean": mean}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)

    def keep_window(self, x: Tensor, window: Sequence[int]) -> "Changeable | None":
        """Keeps what `window` of `x` (1,3,h,w) depends on, to compute it again for changes of `x`.

        Only the features that a change reaches are computed. None if that would save nothing; use
        `forward_window` of the changed image then.
        """
        return None

    def normalise(self, image: Tensor) -> Tensor:
        """The first layer's input for an image in [0,1]; InvalidArgument if it is not RGB."""
        if image.dim() != 4 or image.shape[1] != 3:
            raise InvalidArgument("image", f"shape {tuple(image.shape)}", "RGB (B, 3, h, w)")
        return (image - self.mean) * self.img_range

    def denormalise(self, y: Tensor) -> Tensor:
        """The image in [0,1] for the output of the last layer."""
        return y / self.img_range + self.mean

    def stages(self) -> list[Stage] | None:
        """The input region of each layer, first to last; None if one needs the whole image."""
        return None

    def reach(self, window: Sequence[int], height: int, width: int) -> Box:
        """LR pixels of an image (height, width) that `window` may depend on, by the architecture.

        `window` is y0, x0, y1, x1 in SR pixels. The whole image for networks without `stages`.
        Raises InvalidArgument for a window outside of the SR image.
        """
        box = check_window(window, height * self.scale, width * self.scale)
        stages = self.stages()
        if stages is None:
            return Box(0, 0, height, width)
        return required_boxes(box, stages, height, width)[0]

    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to a window.

        The built-in networks compute only what the window needs; others compute everything and
        crop.

        Args:
            x: (B,3,h,w) in [0,1].
            window: y0, x0, y1, x1, half-open, in SR pixels.

        Returns:
            (B,3,y1-y0,x1-x0), not clamped.

        Raises:
            InvalidArgument: a window that is empty or leaves the SR image.
        """
        height, width = x.shape[-2:]
        box = check_window(window, height * self.scale, width * self.scale)
        sr: Tensor = self(x)
        return sr[..., box.y0 : box.y1, box.x0 : box.x1]

    def crop_for(self, window: Box, height: int, width: int, margin: int = 0) -> Crop | None:
        """The smallest crop of a (height, width) LR image from which `window` can be computed.

        The crop is extended by `margin` LR pixels on each side, as far as the image has them. Its
        window and gradients equal the whole image's up to rounding. None without `stages`.
        """
        if self.stages() is None:
            return None
        grown = self.reach(window, height, width).grow(margin, height, width)
        box = grown.align(self.crop_multiple, 0, height, width)
        return Crop(box, window.moved(-box.y0 * self.scale, -box.x0 * self.scale))


_DEFAULTS = threading.RLock()


@contextmanager
def made_in_float32() -> Iterator[None]:
    """Modules are made in float32 on the CPU inside, whatever PyTorch's defaults are.

    `torch.set_default_dtype` is for all threads: those that load networks wait for each other.
    """
    with torch.device("cpu"), _DEFAULTS:
        usual = torch.get_default_dtype()
        if usual != torch.float32:
            torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            if usual != torch.float32:
                torch.set_default_dtype(usual)


def images_per_call(lr: Tensor, scale: int = 4, window: Sequence[int] | None = None) -> int:
    """Batch size for the images `lr` (B,C,h,w), at least one.

    It depends only on sizes; on GPUs on that of the largest feature map, which is `scale` times
    as large as the image or as large as `window` (SR pixels).
    """
    own = max(1, lr.shape[-2] * lr.shape[-1])  # LR pixels
    if lr.device.type == "cpu":
        return max(1, PIXELS_PER_CALL["cpu"] // own)
    y0, x0, y1, x1 = window or (0, 0, *(scale * side for side in lr.shape[-2:]))
    largest = max(own, (y1 - y0) * (x1 - x0))
    return max(1, MAP_BYTES // (CHANNELS * lr.element_size() * largest))


def fingerprint(net: nn.Module) -> str:
    """SHA-256 of the weights and of the other settings that decide the output (`config`)."""
    digest = hashlib.sha256()
    if isinstance(net, Network):
        digest.update(json.dumps([net.architecture, net.config], sort_keys=True).encode())
    digest.update(digest_of(net.state_dict()).encode())
    return digest.hexdigest()


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the values of `state`, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """`x` (B,C,h,w), padded at its lower and right border to multiples of `multiple`."""
    height, width = (-(-side // multiple) * multiple for side in x.shape[-2:])
    return pad_reflected(x, height, width)


def pad_reflected(x: Tensor, height: int, width: int) -> Tensor:
    """`x` (B,C,h,w) padded by reflection at its lower and right border to (B,C,height,width).

    Reflected several times if the padding is larger than the image. Made of flipped slices: the
    gradient of an index is a sum by atomics on GPUs, in any order.
    """
    for dim, wanted in ((-2, height), (-1, width)):
        if x.shape[dim] == 1 < wanted:
            x = x.expand([wanted if d == x.dim() + dim else n for d, n in enumerate(x.shape)])
        while x.shape[dim] < wanted:
            size = x.shape[dim]
            more = min(wanted - size, size - 1)
            x = torch.cat([x, x.narrow(dim, size - 1 - more, more).flip(dim)], dim)
    return x


def unreflected(start: int, end: int, size: int) -> tuple[int, int]:
    """The range of original pixels that start..end of a padded axis (`pad_reflected`) come from."""
    if end <= size:
        return start, end
    beyond = end - size
    return (0 if beyond >= size else max(min(start, size - 1 - beyond), 0)), size


def is_watched(module: nn.Module) -> bool:
    """Whether the module has hooks or a replaced `forward`, so that it must be called."""
    return "forward" in vars(module) or has_hooks(module)


def must_be_called(network: Network) -> bool:
    """Whether hooks or replaced methods want the network called, not its parts used instead."""
    replaced = is_watched(network) or "forward_window" in vars(network)
    return replaced or bool(_has_any_global_hook())


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has hooks that run when it is called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
