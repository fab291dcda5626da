"""Occlusion (Zeiler and Fergus, ECCV 2014): cover boxes of the input, measure the window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fastbg.attribution import memory
from fastbg.attribution.changed import Change, ChangedWindow, check_batch
from fastbg.attribution.passes import (
    WindowPasses,
    Windows,
    as_box,
    as_inputs,
    as_windows,
    leading_shape,
)
from fastbg.attribution.window_measure import METRICS, WindowMeasure, true_window
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.arguments import check_whole
from fastbg.ops.checks import check_pixels
from fastbg.precision import in_precision
from fastbg.upload import sent
from fastbg.vocabulary import EFFECT_METRICS

Replacement = float | Sequence[float] | Tensor | str | Callable[[Tensor], Tensor]


class Occlusion:
    """How much does a window of the SR image change when a box of the input is covered?

    Networks of plain convolutions, such as EDSR, compute only the features that a box changes, as
    in `CausalEffectMap`.

    Args:
        model: as for `LocalAttribution`.
        metric: "change": RMS difference from the unchanged window in grey levels; "psnr": loss of
            PSNR in dB; "mse": increase of the mean square error in grey levels squared. The last
            two need the truth.
        batch: boxes per pass; None: chosen for the device.
    """

    def __init__(
        self, model: nn.Module, metric: str = "change", *, batch: int | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidArgument("model", type(model).__name__, "a torch.nn.Module")
        if metric not in EFFECT_METRICS:
            raise InvalidArgument("metric", repr(metric), f"one of {EFFECT_METRICS}")
        check_batch(batch)
        self.model, self.metric, self.batch = model, metric, batch

    @in_precision
    @torch.no_grad()
    def occlude(
        self,
        images: Tensor,
        windows: Windows,
        size: int | Sequence[int] = 4,
        stride: int | Sequence[int] | None = None,
        replacement: Replacement = "mean",
        truth: Tensor | None = None,
        boxes: Tensor | Sequence[Sequence[int]] | None = None,
    ) -> "OcclusionResult":
        """Cover boxes of the images one by one.

        Args:
            images: (B,C,h,w) LR in [0,1].
            windows: as for `LocalAttribution.attribute`.
            size: height and width of the boxes in LR pixels, or one number for both.
            stride: distance from box to box, down and across; None: `size`, so that boxes touch.
                The last box of a row or column is moved inwards, so that boxes cover the image.
            replacement: what covers a box: a grey level or a colour in [0,1]; "mean", the box's
                own mean colour; an image (C,h,w) or (B,C,h,w) to cut it from; or a function of the
                box's pixels (C,height,width) that returns pixels of the same shape in [0,1].
            truth: (B,C,s*h,s*w) HR, needed for "psnr" and "mse".
            boxes: (N,4) y0, x0, y1, x1 in LR pixels, instead of `size` and `stride`.

        Raises InvalidArgument as `CausalEffectMap.effect` does, and for boxes that leave the image.
        """
        images = as_inputs(images, self.model)
        corners = as_windows(windows, len(images))
        if not corners.numel():
            expected = "at least one image and window"
            raise InvalidArgument("images", f"shape {tuple(images.shape)}", expected)
        places = _boxes(boxes, size, stride, *images.shape[-2:])
        passes = WindowPasses(self.model)
        rows = []
        with memory.frozen(self.model):
            for i, row in enumerate(corners.tolist()):
                covers = _covers(replacement, images, i, places)
                for corner in row:
                    box = as_box(corner)
                    window = ChangedWindow(passes, images[i : i + 1], box, self.batch)
                    true = true_window(self.metric, truth, images, window.scale, i, box)
                    measure = WindowMeasure(self.metric, box, window.unchanged, true)
                    values = torch.cat([measure(part) for part in window.changed(covers)])
                    loss = values - measure.baseline
                    rows.append(loss if METRICS[self.metric][1] else -loss)
        shape = leading_shape(windows, len(images))
        size_ = images.shape[1:]
        each = images[:, None].expand(*corners.shape[:2], *size_)
        return OcclusionResult(
            effect=torch.stack(rows).reshape(*shape, len(places)),
            boxes=torch.tensor(places, device="cpu"),
            images=each.reshape(*shape, *size_),
            windows=corners.reshape(*shape, corners.shape[-1]),
            scale=passes.scale,
            metric=self.metric,
        )


@dataclass(frozen=True)
class OcclusionResult:
    """Effects of N boxes for B (image, window) pairs; for windows (B,N,3) every B is (B,N).

    Attributes:
        effect: (B,N) float64, change of the window when a box is covered, in the unit of the metric
            of `Occlusion`.
        boxes: (N,4) y0, x0, y1, x1 in LR pixels.
        images, windows, scale, metric: as they were given.
    """

    effect: Tensor
    boxes: Tensor
    images: Tensor
    windows: Tensor
    scale: int
    metric: str

    @cached_property
    def map(self) -> Tensor:
        """(B,h,w) float64: mean effect of the boxes that cover a pixel; NaN where none does."""
        height, width = self.images.shape[-2:]
        total = self.effect.new_zeros(*self.effect.shape[:-1], height, width)
        count = self.effect.new_zeros(height, width)
        for n, (y0, x0, y1, x1) in enumerate(self.boxes.tolist()):
            total[..., y0:y1, x0:x1] += self.effect[..., n, None, None]
            count[y0:y1, x0:x1] += 1
        return total / count  # 0 / 0 where no box is


def _boxes(
    boxes: Tensor | Sequence[Sequence[int]] | None,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    height: int,
    width: int,
) -> list[Box]:
    """The boxes to cover; InvalidArgument for any that leaves the image."""
    if boxes is None:
        sides = _pair("size", size)
        if sides[0] > height or sides[1] > width:
            raise InvalidArgument("size", size, f"at most the image's {height}x{width}")
        steps = sides if stride is None else _pair("stride", stride)
        down = _starts(height, sides[0], steps[0])
        across = _starts(width, sides[1], steps[1])
        return [Box(y, x, y + sides[0], x + sides[1]) for y in down for x in across]
    value = torch.as_tensor(boxes, device="cpu")
    if value.dim() != 2 or value.shape[1] != 4 or not len(value) or value.is_floating_point():
        raise InvalidArgument("boxes", f"{value.dtype} {tuple(value.shape)}", "integers (N, 4)")
    found = [Box(*row) for row in value.tolist()]
    for box in found:
        if not (0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width):
            expected = f"boxes, not empty, inside the image of {height}x{width}"
            raise InvalidArgument("boxes", tuple(box), expected)
    return found


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2:
        raise InvalidArgument(name, value, "one whole number, or two: down, across")
    return check_whole(name, values[0]), check_whole(name, values[1])


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where boxes begin so that they cover `length`; the last one ends there."""
    starts = list(range(0, length - side + 1, step))
    return starts if starts[-1] == length - side else [*starts, length - side]


def _covers(replacement: Replacement, images: Tensor, i: int, boxes: Sequence[Box]) -> list[Change]:
    """The change that covers each box of image `i`."""
    image = images[i]
    source = None
    if isinstance(replacement, Tensor) and replacement.dim() >= 3:
        if replacement.shape not in (images.shape, image.shape):
            expected = f"{tuple(image.shape)} or {tuple(images.shape)}, as the images"
            raise InvalidArgument("replacement", f"shape {tuple(replacement.shape)}", expected)
        source = replacement[i] if replacement.dim() == 4 else replacement
        check_pixels("replacement", source)
        source = sent(source, image.device).to(image.dtype)
    elif not callable(replacement) and not _is_mean(replacement):
        source = _colour(replacement, image).expand_as(image)
    changes = []
    for box in boxes:
        under = image[:, box.y0 : box.y1, box.x0 : box.x1]
        if source is not None:
            cover = source[:, box.y0 : box.y1, box.x0 : box.x1]
        elif callable(replacement):
            cover = replacement(under.clone())
            if not isinstance(cover, Tensor) or cover.shape != under.shape:
                shape = getattr(cover, "shape", None)
                answer = type(cover).__name__ if shape is None else f"shape {tuple(shape)}"
                got = f"a function that returns {answer}"
                raise InvalidArgument("replacement", got, f"a tensor {tuple(under.shape)}")
            check_pixels("replacement", cover)
            cover = sent(cover, image.device).to(image.dtype)
        else:
            cover = under.mean((1, 2), keepdim=True).expand_as(under)
        changes.append(Change(box, cover))
    return changes


def _is_mean(replacement: Replacement) -> bool:
    return isinstance(replacement, str) and replacement == "mean"


def _colour(replacement: float | Sequence[float] | Tensor | str, image: Tensor) -> Tensor:
    """A grey level or a colour as (C,1,1)."""
    expected = f"a level in [0, 1], {len(image)} of them, 'mean', an image or a function"
    if isinstance(replacement, str):
        raise InvalidArgument("replacement", repr(replacement), expected)
    try:
        on_host = None if isinstance(replacement, Tensor) else "cpu"
        colour = torch.as_tensor(replacement, dtype=torch.float64, device=on_host).cpu()
        colour = colour.to(image.dtype).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument("replacement", repr(replacement), expected) from error
    inside = bool(((colour >= 0) & (colour <= 1)).all())
    if colour.numel() not in (1, len(image)) or not inside:
        raise InvalidArgument("replacement", replacement, expected)
    return sent(colour.reshape(-1, 1, 1), image.device)
