"""One window attributed for several networks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.passes import as_box
from fastbg.attribution.picture import Panel, around, pixels
from fastbg.attribution.result import AttributionResult
from fastbg.geometry import Box
from fastbg.measures.quality import psnr
from fastbg.models.network import Network
from fastbg.models.tiles import forward_box


def explain(
    image: Tensor,
    models: Mapping[str, Network],
    window: Sequence[int],
    hr: Tensor | None = None,
    crop: int | None = None,
    **options: Any,
) -> list[Panel]:
    """The SR window of each network, and its attribution.

    Args:
        image: LR (3,h,w) in [0,1].
        models: by the name that pictures show; all of one scale.
        window: y, x, size or y0, x0, y1, x1 in SR pixels.
        hr: ground truth (3,s*h,s*w) in [0,1], for the PSNR of the window.
        crop: networks that depend on the whole image get only crop x crop LR pixels around the
            window, for images that would take too much memory. This changes their result, so the
            panel's name says it.
        options: of `LocalAttribution.attribute`.

    Raises InvalidArgument as `LocalAttribution.attribute` does.
    """
    box = as_box(window)
    panels = []
    for name, model in models.items():
        given = Box(0, 0, *image.shape[-2:])
        if crop is not None and model.stages() is None:
            given = box.coarsen(model.scale).around(crop, *image.shape[-2:])
        part = image[(slice(None), *given.slices())]
        inside = box.moved(-given.y0 * model.scale, -given.x0 * model.scale)
        if part.shape != image.shape:
            name = f"{name} on {part.shape[-2]} x {part.shape[-1]}"
        result = LocalAttribution(model).attribute(part[None], tuple(inside), **options)
        shown = around(inside, *(model.scale * side for side in part.shape[-2:]))
        with torch.no_grad():
            sr = forward_box(model, part[None].to(model.mean.dtype), shown).float().cpu()
        origin = given.y0 * model.scale, given.x0 * model.scale
        shown = shown.moved(*origin)
        result = replace(
            embedded(result, image, given), windows=torch.tensor([tuple(box)], device="cpu")
        )
        panels.append(
            Panel(
                name,
                result,
                pixels(sr[0]),
                shown,
                None if hr is None else window_psnr(sr, hr, box, shown),
            )
        )
    return panels


def embedded(result: AttributionResult, image: Tensor, part: Box) -> AttributionResult:
    """`result` for the part `part` of `image` (3,h,w) as a result for the image, 0 outside."""
    if result.attribution.shape[-2:] == image.shape[-2:]:
        return result
    whole = result.attribution.new_zeros((1, *image.shape))
    whole[(..., *part.slices())] = result.attribution
    return replace(result, attribution=whole, images=image[None])


def window_psnr(sr: Tensor, hr: Tensor, window: Box, shown: Box) -> float:
    """RGB PSNR in dB of `window`; `sr` (1,3,..,..) is the part `shown` of the SR image."""
    truth = hr[(slice(None), *shown.slices())][None].cpu()
    return float(psnr(sr, truth, window.moved(-shown.y0, -shown.x0)))
