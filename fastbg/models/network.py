"""What every network in this package is: an image in [0,1] in, a larger one out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.arguments import check_mean, check_number, check_whole
from fastbg.models.window import Stage, check_window, required_boxes

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

# LR pixels that a network is given at once where nothing is kept for backward. On CPUs small
# batches won: the features of a few thousand pixels stay in the cache.
PIXELS_PER_CALL = {"cpu": 8_192, "cuda": 262_144}

if TYPE_CHECKING:
    from fastbg.models.changeable import ChangeableWindow


class Network(nn.Module):
    """RGB (B,3,h,w) in [0,1] to RGB (B,3,s*h,s*w), not clamped.

    Inside, an image is ``(x - mean) * img_range``. `config` holds the constructor's keywords, so
    that ``type(net)(**net.config)`` builds the network again; `name` is its label in tables.
    """

    architecture: ClassVar[str]
    origin = ""  # where in its file the weights were, such as "params_ema"
    mean: Tensor

    def __init__(self, scale: int, img_range: float, mean: Sequence[float], **sizes: Any) -> None:
        super().__init__()
        scale = check_whole("scale", scale)
        img_range, mean = check_number("img_range", img_range, least=1e-6), check_mean(mean)
        self.scale, self.img_range, self.name = scale, img_range, self.architecture
        self.config = {**sizes, "scale": scale, "img_range": img_range, "mean": mean}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)

    def keep_window(self, x: Tensor, window: Sequence[int]) -> "ChangeableWindow | None":
        """`window` of `x` (1,3,h,w), ready for changes of `x` that cost what they reach.

        None where nothing is saved by that; `forward_window` of the changed image does it then.
        """
        return None

    def normalise(self, image: Tensor) -> Tensor:
        """What the first layer sees of an image in [0,1]; InvalidArgument if it is not RGB."""
        if image.dim() != 4 or image.shape[1] != 3:
            raise InvalidArgument("image", f"shape {tuple(image.shape)}", "RGB (B, 3, h, w)")
        return (image - self.mean) * self.img_range

    def denormalise(self, y: Tensor) -> Tensor:
        """Image in [0,1] of what the last layer gives."""
        return y / self.img_range + self.mean

    def stages(self) -> list[Stage] | None:
        """What each layer looks at, from the first on; None if one looks at the whole image."""
        return None

    def reach(self, window: Sequence[int], height: int, width: int) -> Box:
        """LR pixels of an image (height, width) that `window` may depend on, by the architecture.

        `window` is y0, x0, y1, x1 in SR pixels. All of the image for a network that looks at the
        whole of it or does not tell. Raises InvalidArgument for a window outside of the SR image.
        """
        box = check_window(window, height * self.scale, width * self.scale)
        stages = self.stages()
        if stages is None:
            return Box(0, 0, height, width)
        return required_boxes(box, stages, height, width)[0]

    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to `window` (y0, x0, y1, x1) in SR pixels; here nothing is saved."""
        height, width = x.shape[-2:]
        box = check_window(window, height * self.scale, width * self.scale)
        sr: Tensor = self(x)
        return sr[..., box.y0 : box.y1, box.x0 : box.x1]


def images_per_call(lr: Tensor) -> int:
    """How many of the images `lr` (B,C,h,w) a network is given at once, at least one."""
    pixels = PIXELS_PER_CALL.get(lr.device.type, PIXELS_PER_CALL["cpu"])
    return max(1, pixels // max(1, lr.shape[-2] * lr.shape[-1]))


def fingerprint(net: nn.Module) -> str:
    """SHA-256 of the weights' values and of what else decides the output (`Network.config`)."""
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
    """`x` (B,C,h,w) reflected at its lower and right border, only if `multiple` demands it."""
    height, width = (-(-side // multiple) * multiple for side in x.shape[-2:])
    return pad_reflected(x, height, width)


def pad_reflected(x: Tensor, height: int, width: int) -> Tensor:
    """`x` (B,C,h,w) reflected at its lower and right border to (B,C,height,width).

    Reflected as often as it takes, so that images smaller than the padding work too.
    """
    for dim, wanted in ((-2, height), (-1, width)):
        size = x.shape[dim]
        if size != wanted:
            index = torch.arange(wanted, device=x.device)
            period = max(2 * size - 2, 1)
            index = index % period
            x = x.index_select(dim, torch.minimum(index, (period - index) % period))
    return x


def unreflected(start: int, end: int, size: int) -> tuple[int, int]:
    """The pixels of `size` that start..end, counted on after `pad_reflected`, are or mirror."""
    if end <= size:
        return start, end
    beyond = end - size
    return (0 if beyond >= size else max(min(start, size - 1 - beyond), 0)), size


def is_watched(module: nn.Module) -> bool:
    """Whether hooks or another `forward` want to see the module's calls."""
    return bool(
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
