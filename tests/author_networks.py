"""Small networks of low-level vision, written in the habits of published code, random weights.

Each is what its authors' users have in hand: its own padding, its own range of values, tuples and
lists as answers. fastbg must take them as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2)


class Denoiser(nn.Module):
    """DnCNN's habits: batch norm, and the noise is what is predicted."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, 8),
            nn.ReLU(),
            conv(8, 8),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            conv(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)


class Derainer(nn.Module):
    """MIMO-UNet's habits: answers at a quarter, half and all of the size, the smallest first."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads = conv(3, 8), nn.ModuleList(conv(8, 3) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = functional.gelu(self.body(x))
        small = [functional.avg_pool2d(features, n) if n > 1 else features for n in (4, 2, 1)]
        inputs = [functional.avg_pool2d(x, n) if n > 1 else x for n in (4, 2, 1)]
        return [
            head(part) + given for head, part, given in zip(self.heads, small, inputs, strict=True)
        ]


class Deblurrer(nn.Module):
    """NAFNet's habits: a U-Net with gates, which pads its input to a multiple of 4 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.intro, self.ending = conv(3, 8), conv(8, 3)
        self.down, self.up = nn.Conv2d(8, 16, 4, 4), nn.Conv2d(16, 128, 1)
        self.middle = conv(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = functional.pad(x, (0, -width % 4, 0, -height % 4))
        features = self.intro(padded)
        one, other = self.middle(self.down(features)).chunk(2, 1)
        features = features + functional.pixel_shuffle(self.up(one * other), 4)
        return (self.ending(features) + padded)[..., :height, :width]


class WindowAttention(nn.Module):
    """SwinIR's block: heads, relative positions, windows that are shifted in every other block."""

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.project, self.bias = nn.Linear(width, width), nn.Parameter(torch.randn(side**4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, across = x.shape
        side, tokens = self.side, self.side**2
        y = torch.roll(self.norm(x.permute(0, 2, 3, 1)), (-self.shift, -self.shift), (1, 2))
        y = y.reshape(batch, height // side, side, across // side, side, width)
        q, k, v = self.qkv(y.transpose(2, 3).reshape(-1, tokens, width)).chunk(3, -1)
        weights = q @ k.transpose(1, 2) * width**-0.5 + self.bias.view(tokens, tokens)
        y = self.project(weights.softmax(-1) @ v)
        y = y.reshape(batch, height // side, across // side, side, side, width).transpose(2, 3)
        y = torch.roll(y.reshape(batch, height, across, width), (self.shift, self.shift), (1, 2))
        return x + y.permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """RCAN's, as HAT has it beside its windows: weights from the mean over the whole image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.GELU(), nn.Conv2d(2, width, 1)
        )
        self.body = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + 0.1 * y * torch.sigmoid(self.weigh(y))


class Transposed(nn.Module):
    """DAT's and Restormer's: attention between channels, over all pixels of the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.project = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        weights = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(1, 2)
        return x + self.project((weights.softmax(-1) @ v).view_as(x))


class Transformer(nn.Module):
    """SwinIR's habits: an image range, a mean, reflected padding to whole windows, no wrapper.

    `hybrid` adds HAT's channel attention, `transposed` DAT's attention between channels; with
    `features` a tuple of the image and the features is returned.
    """

    def __init__(
        self,
        scale: int,
        img_range: float = 1.0,
        *,
        hybrid: bool = False,
        transposed: bool = False,
        features: bool = False,
    ) -> None:
        super().__init__()
        self.scale_factor, self.img_range, self.features, side = scale, img_range, features, 4
        self.register_buffer("mean", torch.tensor((0.45, 0.44, 0.40)).view(1, 3, 1, 1))
        blocks: list[nn.Module] = [WindowAttention(8, side, shift) for shift in (0, side // 2)]
        blocks += [ChannelAttention(8)] * hybrid + [Transposed(8)] * transposed
        self.first, self.body, self.side = conv(3, 8), nn.Sequential(*blocks), side
        self.tail = nn.Sequential(conv(8, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % self.side, 0, -height % self.side), "reflect")
        x = (x - self.mean) * self.img_range
        deep = self.body(self.first(x))
        larger = functional.interpolate(x, scale_factor=self.scale_factor, mode="bilinear")
        sr = (larger + self.tail(deep)) / self.img_range + self.mean
        sr = sr[..., : height * self.scale_factor, : width * self.scale_factor]
        return (sr, deep) if self.features else sr


class Pyramid(nn.Module):
    """LapSRN's habits: x2, x4 and x8, all of them returned."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.residual = conv(3, 12), conv(12, 12)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        answers = {}
        for scale in (2, 4, 8):
            more = functional.pixel_shuffle(self.residual(torch.tanh(self.body(x))), 2)
            x = functional.interpolate(x, scale_factor=2, mode="bicubic") + 0.3 * more
            answers[f"x{scale}"] = x
        return answers


class Grey(nn.Module):
    """SRCNN's habits: luma alone, x2 by sub-pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 8, 5), nn.Tanh(), conv(8, 4), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="bicubic") + self.body(x)


class OnLuma(nn.Module):
    """A grey network as one of RGB, as docs/guide/any_network.md shows it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("weights", torch.tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.module((x * self.weights).sum(1, keepdim=True)).expand(-1, 3, -1, -1)


def as_it_is(image: Tensor) -> Tensor:
    return image


@dataclass(frozen=True)
class Kind:
    """A kind of network: how it is built, and what its answer is."""

    build: Callable[[], nn.Module]
    scale: int
    channels: int = 3
    answer: Callable[..., Tensor] = as_it_is


# In the order of the table in docs/guide/any_network.md.
KINDS = {
    "denoising": Kind(Denoiser, 1),
    "denoising, one channel": Kind(lambda: Denoiser(1), 1, channels=1),
    "deraining": Kind(Derainer, 1, answer=lambda answers: answers[-1]),
    "deblurring": Kind(Deblurrer, 1),
    "luma x2": Kind(Grey, 2, channels=1),
    "luma x2 as RGB": Kind(lambda: OnLuma(Grey()), 2),
    "SwinIR x2": Kind(lambda: Transformer(2, 255.0), 2),
    "HAT x3": Kind(
        lambda: Transformer(3, hybrid=True, features=True), 3, answer=lambda answers: answers[0]
    ),
    "DAT x4": Kind(lambda: Transformer(4, transposed=True), 4),
    "LapSRN x8": Kind(Pyramid, 8, answer=lambda answers: answers["x8"]),
}


def built(name: str) -> nn.Module:
    """The network with its random weights, in double precision, evaluation mode."""
    torch.manual_seed(0)
    net = KINDS[name].build().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net
