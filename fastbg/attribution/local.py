"""Local attribution maps (LAM; Gu and Dong, CVPR 2021): gradients integrated along a path.

Nearly all of the time goes into the network's passes, so they are kept few and small: parameters
are frozen, gradients go to the input only, just the pixels that the window needs are computed
(``model.forward_window``), and nodes with a negligible step are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastbg import precision
from fastbg.attribution import memory
from fastbg.attribution.graphs import Graphs
from fastbg.attribution.objectives import Objective, as_objective
from fastbg.attribution.passes import (
    WindowPasses,
    Windows,
    as_box,
    as_inputs,
    as_windows,
    input_gradient,
    leading_shape,
)
from fastbg.attribution.paths import GaussianBlurPath, Path
from fastbg.attribution.quadrature import Cells, quadrature
from fastbg.attribution.result import AttributionResult
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.network import Network
from fastbg.ops.checks import check_finite
from fastbg.precision import in_precision

# Nodes per pass on CPUs: one node's features fit the cache, several do not (bench_attribution.py).
CPU_BATCH = 1
# accuracy="published": closer to the converged result than 50 right-Riemann steps, in completeness
# and in the map, on 20 images of each network; so were 14 steps (bench/bench_convergence.py).
PUBLISHED = ("arc_midpoint", 16)


class LocalAttribution:
    """Local attribution maps (LAM): which LR pixels did a network use for a window of its output?

    Args:
        model: SR network, LR (B,3,h,w) in [0,1] -> SR (B,3,s*h,s*w), on any device and in any
            float dtype. It may return a tuple, list, mapping or dataclass that contains the SR
            image. If it has a method ``forward_window(x, box)`` (the output of `forward` cut to a
            box, as fastbg's networks have), that is called instead.
        path: from a baseline to the image; default LAM's `GaussianBlurPath(1.2, 9)`.
        objective: default LAM's `GradientDetector()`; or an `Objective`, or a function of the
            window's SR pixels (B,3,size,size) that returns (B), a number for each image.
        skip_tolerance: nodes whose step is shorter than this fraction of the path are left out.
            With the default the result changes by less than 1e-6 of its largest value.
        memory_budget: bytes that one pass may use; default 2 GiB on CPUs, 4 GiB on GPUs. If a pass
            needs more, the network's blocks are recomputed in backward.
        autocast: dtype for `torch.autocast`, such as torch.bfloat16: faster, less exact. This
            argument counts, else `fastbg.use_precision`; an autocast around the call does not.
        cuda_graphs: record the passes of fastbg's networks on a GPU and replay them, which spares
            the launches of later passes of the same shape. Off by default, as no GPU has run it;
            ``graphs.reason`` says why a pass was not recorded.

    Raises:
        InvalidArgument: an argument's type or value; when called, a budget that is too small for
            a model without a stack of blocks.

    Example:
        >>> import torch, fastbg
        >>> lam = fastbg.LocalAttribution(fastbg.load_model("edsr"))
        >>> result = lam.attribute(torch.rand(1, 3, 48, 48), (88, 88, 16), accuracy="published")
        >>> result.map.shape, result.diffusion_index.shape
        (torch.Size([1, 48, 48]), torch.Size([1]))
    """

    def __init__(
        self,
        model: nn.Module,
        path: Path | None = None,
        objective: Objective | Callable[[Tensor], Tensor] | None = None,
        *,
        skip_tolerance: float = 1e-7,
        memory_budget: int | None = None,
        autocast: torch.dtype | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidArgument("model", type(model).__name__, "a torch.nn.Module")
        self.model = model
        self.path = GaussianBlurPath() if path is None else path
        self.objective = as_objective(objective)
        if not 0 <= skip_tolerance < 1:
            raise InvalidArgument("skip_tolerance", skip_tolerance, "0 <= skip_tolerance < 1")
        if memory_budget is not None and memory_budget < 1:
            raise InvalidArgument("memory_budget", memory_budget, "a positive number of bytes")
        self.skip_tolerance, self.memory_budget = skip_tolerance, memory_budget
        self.autocast = autocast
        self.graphs = Graphs(model) if cuda_graphs else None

    @in_precision
    @torch.inference_mode(False)
    @torch.enable_grad()
    def attribute(
        self,
        images: Tensor,
        windows: Windows,
        n_steps: int = 50,
        method: str = "riemann_right",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        accuracy: str | None = None,
    ) -> AttributionResult:
        """Attribute the objective in each window to the pixels of its image.

        Args:
            images: (B,3,h,w) LR in [0,1], any float dtype, on the model's device; computed in the
                model's dtype. One channel if the model takes one.
            windows: ``(y, x, size)``, top-left corner and side in SR pixels, for all images; or
                integers (B,3), one window for each image; or (N,3) for one image, or (B,N,3),
                several windows for each. Windows of one image share its path. With 4 in place of 3
                they are boxes ``(y0, x0, y1, x1)``, half-open.
            n_steps: nodes of the path; those with a negligible step are not computed.
            method: quadrature rule: "riemann_right" (as published), "riemann_trapezoid",
                "gausslegendre" or "arc_midpoint".
            internal_batch_size: nodes per pass of the network; None: as the memory budget allows.
            return_convergence_delta: also return the completeness error of the quadrature, which
                takes two more forward passes.
            accuracy: "published" replaces `n_steps` and `method` by 16 "arc_midpoint" nodes, which
                come closer to the converged map than the 50 steps of the published code.

        The result is the same inside `torch.no_grad`, `torch.inference_mode` and autocast.

        Returns:
            An `AttributionResult` with one entry for each pair of image and window.

        Raises:
            InvalidArgument: an argument's shape, value, dtype or device; a window that leaves the
                SR image; a model that raises, that returns no SR image or NaN, or whose output has
                no gradient.
        """
        images = as_inputs(images, self.model)
        if accuracy is not None:
            if accuracy != "published":
                raise InvalidArgument("accuracy", repr(accuracy), "'published' or None")
            method, n_steps = PUBLISHED
        if internal_batch_size is not None and internal_batch_size < 1:
            raise InvalidArgument("internal_batch_size", internal_batch_size, "at least 1")
        corners = as_windows(windows, images.shape[0])  # [B,N,3 or 4]
        cells = quadrature(method, n_steps, self.path.at_length)
        cells = cells[self.path.step_sizes(cells) > self.skip_tolerance]

        run = _Run(self, internal_batch_size)
        boxes = [[as_box(corner) for corner in row] for row in corners.tolist()]
        b, n = corners.shape[:2]
        total = images.new_zeros((b, n, *images.shape[1:]), dtype=torch.float32)
        ends = images.new_zeros((2, b, n), dtype=torch.float64)
        with memory.frozen(self.model):
            if b and n and len(cells):
                run.plan(images[:1], [box for row in boxes for box in row], cells)
            parts = run.parts(images, boxes, cells) if b and n else []
            for together in run.stacks(parts, cells):
                stack = torch.cat([part.image for part in together])
                inside = together[0].windows
                for k, shares in run.integrals(stack, inside, cells):
                    for part, share in zip(together, shares, strict=True):
                        rows, columns = part.box.slices()
                        total[part.row, part.first + k, :, rows, columns] += share
                if return_convergence_delta:
                    values = run.values_at_ends(stack, inside)  # [2,windows,stack]
                    for part, value in zip(together, values.unbind(2), strict=True):
                        ends[:, part.row, part.first : part.first + len(inside)] = value
        check_finite("model", total, "an attribution")
        delta = total.double().sum((2, 3, 4)) - (ends[1] - ends[0])
        shape = leading_shape(windows, b)
        size = images.shape[1:]
        return AttributionResult(
            attribution=total.reshape(*shape, *size),
            images=images[:, None].expand(b, n, *size).reshape(*shape, *size),
            windows=corners.reshape(*shape, corners.shape[-1]),
            scale=run.passes.scale,
            passes=len(cells),
            convergence_delta=delta.reshape(shape) if return_convergence_delta else None,
        )


class _Part(NamedTuple):
    """What some windows need of an image."""

    image: Tensor  # the part (1,C,h',w')
    box: Box  # where it lies in the image
    windows: list[Box]  # in SR pixels of the part
    row: int = 0  # of the image
    first: int = 0  # number of the first window among the image's


class _Run:
    """The network passes of one call of `attribute`, at a batch size that fits into memory."""

    def __init__(self, settings: LocalAttribution, batch: int | None) -> None:
        self.model, self.path = settings.model, settings.path
        self.objective, self.passes = (
            settings.objective,
            WindowPasses(settings.model, settings.autocast),
        )
        self.budget, self.asked, self.batch = settings.memory_budget, batch, 0
        self.recompute = False
        self.graphs = settings.graphs

    def part(self, image: Tensor, boxes: Sequence[Box]) -> _Part:
        """What the windows `boxes` need of `image`: all of it where that is not known."""
        height, width = image.shape[-2:]
        whole = _Part(image, Box(0, 0, height, width), [*boxes])
        if self.path.radius is None or not isinstance(self.model, Network):
            return whole
        needed = []
        for box in boxes:
            readable = self.passes.readable(box, image, self.objective.margin)
            crop = self.model.crop_for(readable, height, width, self.path.radius)
            if crop is None:
                return whole
            needed.append(crop.box)
        box = reduce(Box.joined, needed)
        rows, columns = box.slices()
        origin = box.refine(self.passes.scale)
        windows = [window.moved(-origin.y0, -origin.x0) for window in boxes]
        return _Part(image[..., rows, columns], box, windows)

    def parts(self, images: Tensor, boxes: Sequence[Sequence[Box]], cells: Cells) -> list[_Part]:
        """What the windows need of each image; a part for each window where a pass takes several.

        Parts of windows alone are alike more often, and then share passes (`stacks`).
        """
        apart = self.room(cells) > 1 and self.passes.trimmed
        found = []
        for i, (image, row) in enumerate(zip(images.split(1), boxes, strict=True)):
            rows = [[box] for box in row] if apart else [row]
            for j, some in enumerate(rows):
                found.append(self.part(image, some)._replace(row=i, first=j))
        return found

    def room(self, cells: Cells) -> int:
        """Paths that fit into one pass, at least one."""
        return max(1, self.batch // max(len(cells), 1))

    def stacks(self, parts: Sequence[_Part], cells: Cells) -> Iterator[list[_Part]]:
        """Parts of one shape, with windows in the same places, as many as a pass takes."""
        alike: dict[object, list[_Part]] = {}
        for part in parts:
            alike.setdefault((part.image.shape, *part.windows), []).append(part)
        for some in alike.values():
            for first in range(0, len(some), self.room(cells)):
                yield some[first : first + self.room(cells)]

    def integrals(
        self, images: Tensor, boxes: Sequence[Box], cells: Cells
    ) -> Iterator[tuple[int, Tensor]]:
        """(window's index, its share (B,C,h,w) of the integral), over chunks of the path.

        Several images have one chunk, see `room`.
        """
        done = 0
        while done < len(cells):
            chunk = cells[done : done + max(1, self.batch // len(images))]
            done += len(chunk)
            nodes = self._nodes(images, chunk)
            for j, gradients in enumerate(self._gradients(nodes, boxes)):
                several = gradients.unflatten(0, (len(images), len(chunk)))
                yield j, self.path.integral(several, images, chunk).float()

    def values_at_ends(self, images: Tensor, boxes: Sequence[Box]) -> Tensor:
        """Objective (2,N,B) of each window at the baseline and at the image."""
        ends = Cells(*4 * (torch.tensor([0.0, 1.0], dtype=torch.float64).numpy(),))
        with torch.no_grad():
            at = self._nodes(images, ends).unflatten(0, (len(images), 2)).unbind(1)
            rows = [
                torch.stack([value.double() for value in self._values(nodes, boxes)])
                for nodes in at
            ]
        return torch.stack(rows)

    def _nodes(self, images: Tensor, cells: Cells) -> Tensor:
        """Images (B*K,C,h,w) along the paths of `images` (B,C,h,w), path by path."""
        nodes = self.path.nodes(images, cells.node).flatten(0, 1)
        return nodes.contiguous(memory_format=torch.channels_last)

    def _values(self, nodes: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
        """Objective (K) of each window in the SR images of `nodes` (K,C,h,w)."""
        patches = self.passes.patches(nodes, boxes, self.objective.margin)
        for box, patch in zip(boxes, patches, strict=True):
            yield self.objective(patch, box.y1 - box.y0, box.x1 - box.x0)

    def _gradients(self, nodes: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
        """Gradient (K,C,h,w) of each window's objective at `nodes`."""
        if self.graphs is not None and self.passes.trimmed and not self.recompute:
            for box in boxes:
                yield self.graphs.run(partial(self._gradient, box=box), nodes, self._key(box))
            return
        nodes = nodes.requires_grad_()
        with memory.recomputed(self.model, self.recompute):
            for j, value in enumerate(self._values(nodes, boxes)):
                shared = not self.passes.trimmed and j + 1 < len(boxes)
                yield input_gradient(value, nodes, shared)

    def _gradient(self, nodes: Tensor, box: Box) -> Tensor:
        """Gradient (K,C,h,w) of one window's objective at `nodes`."""
        leaf = nodes.detach().requires_grad_()
        (value,) = self._values(leaf, [box])
        return input_gradient(value, leaf)

    def _key(self, box: Box) -> tuple[object, ...]:
        """What a recorded pass depends on beside its images and weights."""
        return box, self.objective, self.passes.autocast, precision.current()

    def plan(self, image: Tensor, boxes: Sequence[Box], cells: Cells) -> None:
        """Choose batch size and recomputation: a trial pass measures what backward needs to keep.

        A batch size given by the caller is used as it is, and measured only if a budget is given.
        """
        if self.asked is not None and self.budget is None:
            self.batch = self.asked
            return
        limit = (self.budget or memory.default_budget(image.device)) / memory.PEAK_OVER_SAVED
        part = self.part(image, [self._costliest(boxes, image)])
        node = self._nodes(part.image, cells[:1]).requires_grad_()
        saved = memory.SavedBytes(self.model, limit / (self.asked or 1))
        try:
            with saved:
                for _ in self._values(node, part.windows):
                    pass
        except memory.OverBudget:
            self.batch = self.asked or 1
            # A model without blocks may exceed the default budget, but not one that was set.
            self.recompute = self.budget is not None or bool(memory.stacked_blocks(self.model))
        else:
            fitting = int(limit // max(saved.count, 1))
            best = min(fitting, CPU_BATCH) if image.device.type == "cpu" else fitting
            self.batch = self.asked or best

    def _costliest(self, boxes: Sequence[Box], image: Tensor) -> Box:
        """The box of which a window-trimmed pass computes most: the largest, then most central."""
        height, width = (self.passes.scale * v for v in image.shape[-2:])

        def cost(box: Box) -> tuple[int, int]:
            room = min(box.y0, box.x0, height - box.y1, width - box.x1)
            return (box.y1 - box.y0) * (box.x1 - box.x0), room

        return max(boxes, key=cost)
