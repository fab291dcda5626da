"""Passes of a network for explanations: SR pixels of windows, and checks of images and windows.

All explanations run networks through this module, so that they accept and refuse the same images,
windows and modules.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastbg.attribution import memory
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.foreign import guarded, super_resolve
from fastbg.models.network import Network
from fastbg.models.wrapped import Wrapped
from fastbg.ops.checks import check_images, check_unit_range

Windows = Tensor | Sequence[int] | Sequence[Sequence[int]]


class WindowPasses:
    """Computes the SR pixels of windows with a model.

    A model with ``forward_window(x, box)`` and an integer `scale` computes only what the window
    depends on. Any other model is run on the whole image, and the window is cut from its output.

    Attributes:
        scale: SR pixels per LR pixel and axis. 0 until the first run of a model without an integer
            `scale`.
        trimmed: whether the model has a ``forward_window``.
        trusted: whether it is one of fastbg's networks.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self.model, self.autocast, self.scale = model, autocast, 0
        self.trusted = isinstance(model, Network) and model.architecture != Wrapped.architecture
        self._is_steady = False  # whether `_same_again` has found it so
        scale: Any = getattr(model, "scale", None)
        forward_window: Any = getattr(model, "forward_window", None)
        self._forward_window: Callable[[Tensor, Box], Tensor] | None = None
        if callable(forward_window) and isinstance(scale, int):
            self._forward_window, self.scale = forward_window, scale

    @property
    def trimmed(self) -> bool:
        """Whether the model has a ``forward_window``."""
        return self._forward_window is not None

    def scale_for(self, images: Tensor) -> int:
        """`scale`. If still unknown, the model is run on the first of `images` (B,C,h,w)."""
        if not self.scale:
            with torch.no_grad():
                self._super_resolved(images[:1])
        return self.scale

    def patches(self, images: Tensor, boxes: Sequence[Box], margin: int = 0) -> Iterator[Tensor]:
        """SR pixels (B,C,..,..) of each box, extended by `margin` below and right in the image.

        Raises InvalidArgument for a box that leaves the SR image, and for a model that raises or
        does not return an SR image.
        """
        sr = None
        for box in boxes:
            with memory.autocast(images.device, self.autocast):
                if self._forward_window is not None:
                    patch = self._window(images, self.readable(box, images, margin))
                else:
                    sr = self._super_resolved(images) if sr is None else sr
                    y0, x0, y1, x1 = self.readable(box, images, margin)
                    patch = sr[..., y0:y1, x0:x1]
            yield patch

    def _window(self, images: Tensor, box: Box) -> Tensor:
        """The result of the model's ``forward_window``; its errors become InvalidArgument."""
        forward: Any = self._forward_window
        about = f"for the window {tuple(box)} of an input {tuple(images.shape)}"
        return self._same_again(
            lambda x: guarded(lambda: forward(x, box), "model", about),
            images,
        )

    def _same_again(self, answer: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        """`answer(images)`; InvalidArgument if it depends on more than the images, one by one.

        On random numbers, such as of a dropout that eval() does not end: each node of a path would
        see another network; checked once. Or on the other images of a batch, by a batch norm:
        gradients of one would reach the others.
        """
        found: Tensor
        if self.trusted or torch._C._len_torch_dispatch_stack() > 0:
            found = answer(images)
            return found
        before = None if self._is_steady else _random_state(images.device)
        found = answer(images)
        drew = before is not None and not torch.equal(before, _random_state(images.device))
        if drew and not torch.equal(found, _without_gradient(answer, images)):
            raise InvalidArgument(
                "model",
                "another output for the same input, from random numbers",
                "one that is always the same: no dropout or noise that eval() does not end",
            )
        self._is_steady = True
        if len(images) > 1 and any(map(_mixes, self.model.modules())):
            raise InvalidArgument(
                "model",
                "a batch norm without running statistics, which mixes the images of a batch",
                "one for each image by itself; pass them one by one (internal_batch_size=1 or "
                "batch=1, where there is one)",
            )
        return found

    def _super_resolved(self, images: Tensor) -> Tensor:
        sr = self._same_again(lambda x: super_resolve(self.model, x, "model"), images)
        self.scale = sr.shape[-1] // images.shape[-1]
        return sr

    def readable(self, box: Box, images: Tensor, margin: int) -> Box:
        """`box` extended by `margin` below and right, cut at the border of the SR image."""
        height, width = (self.scale * v for v in images.shape[-2:])
        empty = box.y0 >= box.y1 or box.x0 >= box.x1
        if empty or box.y0 < 0 or box.x0 < 0 or box.y1 > height or box.x1 > width:
            raise InvalidArgument("windows", *_window_error(box, height, width))
        return Box(box.y0, box.x0, min(box.y1 + margin, height), min(box.x1 + margin, width))


def _mixes(module: nn.Module) -> bool:
    """Whether it normalises with statistics of the batch, in evaluation too."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


def _without_gradient(answer: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = answer(images)
    return found


def _random_state(device: torch.device) -> Tensor:
    """The states of the generators that a module on `device` draws from, on the CPU."""
    host = torch.random.get_rng_state()
    return torch.cat([host, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else host


def input_gradient(value: Tensor, inputs: Tensor, keep_graph: bool = False) -> Tensor:
    """Gradient of the sum of `value` with respect to `inputs`; InvalidArgument if there is none."""
    if not value.requires_grad:
        raise InvalidArgument(
            "model",
            "an output that has no gradient to the input",
            "a differentiable module: no detach, no_grad or rounding inside",
        )
    (gradient,) = torch.autograd.grad(value.sum(), inputs, retain_graph=keep_graph)
    return gradient


def as_inputs(images: Tensor, model: nn.Module) -> Tensor:
    """`images` (B,C,h,w) in [0,1] as a leaf in the model's dtype, or InvalidArgument."""
    check_images("images", images)
    channels = (3,) if isinstance(model, Network) else (1, 3)
    if images.shape[1] not in channels:
        expected = " or ".join(f"(B, {n}, h, w)" for n in channels)
        raise InvalidArgument("images", f"shape {tuple(images.shape)}", expected)
    check_unit_range("images", images)
    like = getattr(model, "mean", None)
    if not isinstance(like, Tensor):
        like = next((p for p in model.parameters() if p.is_floating_point()), images)
    if like.device != images.device:
        raise InvalidArgument("images", f"device {images.device}", f"the model's, {like.device}")
    # Autograd cannot use a tensor made in inference mode, but it can use a copy.
    return images.clone().detach().to(like.dtype)


def as_windows(windows: Windows, count: int) -> Tensor:
    """`windows` of `count` images as integers (B,N,3), or (B,N,4) for boxes, on the CPU."""
    try:
        value = torch.as_tensor(windows, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument("windows", repr(windows)[:80], "integers y, x, size") from error
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise InvalidArgument("windows", value.dtype, "integers y, x, size")
    value = value.clone().to(torch.int64)
    length = value.shape[-1] if value.dim() else 0
    if length in (3, 4):
        if value.dim() == 1:
            return value.expand(count, 1, length)
        if value.dim() == 2 and count == 1:
            return value[None]
        if value.shape == (count, length):
            return value[:, None]
        if value.dim() == 3 and value.shape[0] == count:
            return value
    raise InvalidArgument(
        "windows",
        f"shape {tuple(value.shape)}",
        f"(3,), ({count}, 3) or ({count}, N, 3): y, x, size; or with 4: y0, x0, y1, x1",
    )


def leading_shape(windows: Windows, count: int) -> tuple[int, ...]:
    """Shape of a result with one entry per window of `count` images: (B), (N) or (B,N)."""
    return tuple(torch.as_tensor(windows).shape[:-1]) or (count,)


def one_window_each(windows: Windows, count: int) -> Tensor:
    """`windows`, one for each of `count` images, as integers (B,3) or (B,4) on the CPU."""
    found = as_windows(windows, count)
    if found.shape[1] != 1:
        raise InvalidArgument("windows", f"shape {tuple(found.shape)}", "one for each image")
    return found[:, 0]


def as_box(window: Sequence[int]) -> Box:
    """The box of a window y, x, size, or y0, x0, y1, x1."""
    if len(window) == 4:
        return Box(*window)
    y, x, size = window
    return Box(y, x, y + size, x + size)


def _window_error(box: Box, height: int, width: int) -> tuple[object, str]:
    """Value and expectation for the error about a window that leaves the SR image."""
    size = box.y1 - box.y0
    where = f"inside the SR image of {height}x{width}"
    if size == box.x1 - box.x0:
        return (box.y0, box.x0, size), f"(y, x, size), size >= 1, {where}"
    return tuple(box), f"(y0, x0, y1, x1), y0 < y1, x0 < x1, {where}"
