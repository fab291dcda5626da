"""Interventions of a causal effect map in PyTorch: as published, and as a skilled user would."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastbg.attribution.changed import Change
from fastbg.geometry import Box


@torch.no_grad()
def published(net: nn.Module, image: Tensor, changes: Sequence[Change], window: Box) -> Tensor:
    """SR windows (n,3,h,w): a whole pass for each, as the public code; without its traps."""
    y0, x0, y1, x1 = window
    windows = []
    for box, pixels in changes:
        changed = image.clone()
        changed[..., box.y0 : box.y1, box.x0 : box.x1] = pixels
        windows.append(net(changed)[..., y0:y1, x0:x1])
    return torch.cat(windows)


@torch.no_grad()
def good(
    net: nn.Module,
    image: Tensor,
    changes: Sequence[Change],
    window: Box,
    reach: Box,
    scale: int,
    batch: int,
) -> Tensor:
    """The same in batches, channels_last, on the part of the image that the window depends on.

    Exact for convolutions: beyond the reach of the window the cut image's border changes nothing.
    """
    part = image[..., reach.y0 : reach.y1, reach.x0 : reach.x1]
    windows = []
    for start in range(0, len(changes), batch):
        some = changes[start : start + batch]
        inputs = part.repeat(len(some), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        for input_, (box, pixels) in zip(inputs, some, strict=True):
            y0, x0 = box.y0 - reach.y0, box.x0 - reach.x0
            rows, columns = pixels.shape[-2:]
            input_[:, y0 : y0 + rows, x0 : x0 + columns] = pixels
        y0, x0 = window.y0 - scale * reach.y0, window.x0 - scale * reach.x0
        sr = net(inputs)
        height, width = window.y1 - window.y0, window.x1 - window.x0
        windows.append(sr[..., y0 : y0 + height, x0 : x0 + width].contiguous())
    return torch.cat(windows)
