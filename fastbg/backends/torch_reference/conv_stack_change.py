"""Stacks of convolutions for changes of one image in plain PyTorch."""

import torch
from torch import Tensor

from fastbg.backends.change_batches import BatchedStack, Wanted
from fastbg.backends.torch_reference.conv import conv3x3


class ChangeableStack(BatchedStack):
    """The maps of one image, and the last map for changes of it."""

    def assembled(self, first: Wanted, second: Wanted | None) -> tuple[Tensor, Tensor | None]:
        """Both parts (N,C,h,w), channels_last."""
        return _assembled(first), None if second is None else _assembled(second)

    def convolved(self, i: int, before: Tensor, residual: Tensor | None) -> Tensor:
        """Layer i on (N,C,h+2,w+2)."""
        row, weight, bias = self.rows[i], self.weights[i], self.biases[i]
        scale, relu = self.scales[i], bool(row.relu)
        y = conv3x3(before, weight, bias, residual, scale, relu, row.upscale, padding=0)
        return y.contiguous(memory_format=torch.channels_last)


def _assembled(wanted: Wanted) -> Tensor:
    (own, corners), (kept, box), height, width = (
        wanted.own, wanted.kept, wanted.height, wanted.width
    )  # fmt: skip
    count, channels, own_height, own_width = own.shape
    top, left = wanted.corners[:, :1], wanted.corners[:, 1:]
    down, across = (torch.arange(n, device=own.device) for n in (height, width))
    rows, columns = top - box.y0 + down, left - box.x0 + across  # (N,h) and (N,w)
    at = rows[:, :, None] * (box.x1 - box.x0) + columns[:, None]
    # One pixel more, to which own pixels outside of the wanted ones are written.
    at = torch.cat([at.flatten(), at.new_zeros(1)])
    pixels = kept.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, at)

    down, across = (torch.arange(n, device=own.device) for n in (own_height, own_width))
    rows, columns = corners[:, :1] - top + down, corners[:, 1:] - left + across
    inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    number = torch.arange(count, device=own.device)[:, None, None]
    at = (number * height + rows[:, :, None]) * width + columns[:, None]
    at = torch.where(inside_y[:, :, None] & inside_x[:, None], at, count * height * width)
    pixels.index_copy_(0, at.flatten(), own.permute(0, 2, 3, 1).reshape(-1, channels))
    return pixels[:-1].view(count, height, width, channels).permute(0, 3, 1, 2)
