"""The plain gradient at the image: the basis of most explanations, and a baseline for them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastbg.attribution import memory, unexplained
from fastbg.attribution.objectives import Objective, as_objective
from fastbg.attribution.passes import (
    WindowPasses,
    Windows,
    as_box,
    as_inputs,
    as_windows,
    input_gradient,
)
from fastbg.ops.checks import check_finite
from fastbg.precision import in_precision

PALER = 0.9  # contrast of the image that shows whether the objective changes at all


@in_precision
@torch.inference_mode(False)
@torch.enable_grad()
def window_gradient(
    model: nn.Module,
    images: Tensor,
    windows: Windows,
    objective: Objective | Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Gradient (B,C,h,w) of the objective in each image's window to its LR pixels, float32.

    Args:
        model: SR network, as for `LocalAttribution`.
        images: (B,C,h,w) LR in [0,1].
        windows: ``(y, x, size)`` in SR pixels for all images, or (B,3); for several windows of each
            image (B,N,3), and the result is (B,N,C,h,w).
        objective: as for `LocalAttribution`; default LAM's `GradientDetector()`.

    Raises:
        InvalidArgument: an argument's shape, value, dtype or device; a model without a gradient, or
            one that is not finite.

    Warns of a gradient that is zero everywhere although the objective changes with the image's
    contrast: the model rounds, or is clipped.
    """
    images, chosen = as_inputs(images, model), as_objective(objective)
    corners = as_windows(windows, len(images))  # [B,N,3]
    found = images.new_zeros((*corners.shape[:2], *images.shape[1:]), dtype=torch.float32)
    passes = WindowPasses(model)
    with memory.frozen(model):
        for i, row in enumerate(corners.tolist()):
            for j, corner in enumerate(row):
                leaf, box = images[i : i + 1].detach().requires_grad_(), as_box(corner)
                (patch,) = passes.patches(leaf, [box], chosen.margin)
                value = chosen(patch, box.y1 - box.y0, box.x1 - box.x0)
                found[i, j] = input_gradient(value, leaf)[0]
        check_finite("model", found, "a gradient")
        empty = unexplained.without(found)
        if empty.any():
            now, other = (
                _objectives(passes, x, corners, chosen) for x in (images, PALER * images + 0.05)
            )
            if count := int((empty & unexplained.changed(now, other)).sum()):
                unexplained.warn(count, "gradient", "with the contrast of the image")
    several = torch.as_tensor(windows).dim() == 3 or corners.shape[1] != 1
    return found if several else found[:, 0]


@torch.no_grad()
def _objectives(
    passes: WindowPasses, images: Tensor, corners: Tensor, objective: Objective
) -> Tensor:
    """The objective (B,N) in each window `corners` (B,N,3 or 4) of `images`."""
    values = images.new_zeros(corners.shape[:2], dtype=torch.float64)
    for i, row in enumerate(corners.tolist()):
        boxes = [as_box(corner) for corner in row]
        patches = passes.patches(images[i : i + 1], boxes, objective.margin)
        for j, (box, patch) in enumerate(zip(boxes, patches, strict=True)):
            values[i, j] = objective(patch, box.y1 - box.y0, box.x1 - box.x0)[0]
    return values
