"""One window attributed for several networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.picture import Panel, pixels
from fastbg.models.network import Network


def explain(
    image: Tensor, models: Mapping[str, Network], window: Sequence[int], **options: Any
) -> list[Panel]:
    """The panel of each network for one LR image (3,h,w) and window y, x, size in SR pixels.

    `options` are those of `LocalAttribution.attribute`. Raises InvalidArgument as it does.
    """
    panels = []
    for name, model in models.items():
        result = LocalAttribution(model).attribute(image[None], tuple(window), **options)
        with torch.no_grad():
            sr = model(image[None])[0]
        di = float(result.diffusion_index[0])
        panels.append(Panel(name, result.map[0].cpu().numpy(), di, pixels(sr)))
    return panels
