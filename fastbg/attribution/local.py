"""Local attribution maps (LAM; Gu and Dong, CVPR 2021): gradients integrated along a path.

Nearly all of the time is spent in passes of the network. To keep them few and small, parameters are
frozen, gradients are taken of the input only, only the pixels that the window depends on are
computed (``model.forward_window``), and nodes with a negligible step are skipped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastbg import precision
from fastbg.attribution import memory, unexplained
from fastbg.attribution.estimators import IDGI, PATH, check_covers, check_estimator, idgi
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
from fastbg.attribution.quadrature import Array, Cells, quadrature
from fastbg.attribution.result import AttributionResult
from fastbg.errors import InvalidArgument
from fastbg.filters.constants import on_device
from fastbg.geometry import Box
from fastbg.models.arguments import check_whole
from fastbg.models.network import Network
from fastbg.ops.checks import check_finite
from fastbg.precision import in_precision

# Nodes that are summed together on CPUs. A pass has more, whose sums are those of single nodes, bit
# for bit: as many as have a map of 64 channels in the second-level cache, since they share the
# weights, which come from farther away (bench/NOTES.md). With several threads, each has nodes of
# its own: one window's layers are too small to be shared.
CPU_BATCH = 1
CPU_NODES_OF_THREAD = 4
CPU_NODES_AT_MOST = 8
BYTES_OF_PIXEL = 4 * 64
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
        estimator: "path": gradients times the steps of the path, as published; "idgi" (important
            direction gradient integration; Yang et al., CVPR 2023): the objective's rise over each
            step, divided among pixels in proportion to the squared gradient. It takes one more
            forward pass per step.
        skip_tolerance: nodes whose step is shorter than this fraction of the path are left out.
            With the default the result changes by less than 1e-6 of its largest value. The
            estimator "idgi" skips no nodes.
        memory_budget: bytes that one pass may use; default 2 GiB on CPUs, 4 GiB on GPUs. If a pass
            needs more, the network's blocks are recomputed in backward.
        autocast: dtype for `torch.autocast`, such as torch.bfloat16: faster, less exact. Without
            it `fastbg.use_precision` applies. An autocast around the call has no effect.
        cuda_graphs: record passes of fastbg's networks on a GPU and replay them, so that later
            passes of the same shape need no separate kernel launches. Off by default, as it has not
            been run on a GPU; ``graphs.reason`` says why a pass was not recorded.

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
        estimator: str = PATH,
        skip_tolerance: float = 1e-7,
        memory_budget: int | None = None,
        autocast: torch.dtype | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidArgument("model", type(model).__name__, "a torch.nn.Module")
        self.model = model
        if path is not None and not isinstance(path, Path):
            expected = "a path, such as fastbg.GaussianBlurPath()"
            raise InvalidArgument("path", type(path).__name__, expected)
        self.path = GaussianBlurPath() if path is None else path
        self.objective = as_objective(objective)
        self.estimator = check_estimator(estimator)
        if not 0 <= skip_tolerance < 1:
            raise InvalidArgument("skip_tolerance", skip_tolerance, "0 <= skip_tolerance < 1")
        if memory_budget is not None and memory_budget < 1:
            raise InvalidArgument("memory_budget", memory_budget, "a positive number of bytes")
        self.skip_tolerance, self.memory_budget = skip_tolerance, memory_budget
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise InvalidArgument("autocast", autocast, "torch.bfloat16, torch.float16 or None")
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
            method: quadrature rule: "riemann_right" (as published), "riemann_left" (as IDGI is
                published), "riemann_trapezoid", "gausslegendre" or "arc_midpoint".
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
                no gradient; the method "gausslegendre" with the estimator "idgi".
        """
        images = as_inputs(images, self.model)
        if accuracy is not None:
            if accuracy != "published":
                raise InvalidArgument("accuracy", repr(accuracy), "'published' or None")
            method, n_steps = PUBLISHED
        corners = as_windows(windows, images.shape[0])  # [B,N,3 or 4]
        cells = quadrature(method, n_steps, self.path.at_length)
        if self.estimator == PATH:
            cells = cells[self.path.step_sizes(cells) > self.skip_tolerance]
        else:
            check_covers(cells, method)
        found = integrate(
            self, images, corners, cells, internal_batch_size, return_convergence_delta
        )
        return found.result(images, corners, leading_shape(windows, images.shape[0]))


def nodes_abreast(pixels: int) -> int:
    """Nodes of an input of so many pixels that share a pass on a CPU, by its threads and cache."""
    threads = torch.get_num_threads()
    fitting = memory.second_level_cache() // (BYTES_OF_PIXEL * pixels)
    nodes = min(max(fitting, CPU_BATCH), CPU_NODES_AT_MOST)
    return threads * max(nodes, CPU_NODES_OF_THREAD) if threads > 1 else nodes


def cut(whole: slice, size: int) -> list[slice]:
    """The parts of at most `size` of `whole`, in order."""
    starts = range(whole.start, whole.stop, size)
    return [slice(start, min(start + size, whole.stop)) for start in starts]


@dataclass(frozen=True)
class Integrals:
    """Integrals for N windows of each of B images, from which an `AttributionResult` is made.

    Attributes:
        total: (B,N,C,h,w) the attributions.
        ends: (2,B,N) objective at the baseline and at the image, float64; None if not asked for.
        unexplained: (B,N) bool, on the CPU: whether nothing is attributed while the objective
            changes along the path.
        scale, passes: as in `AttributionResult`.
    """

    total: Tensor
    ends: Tensor | None
    unexplained: Tensor
    scale: int
    passes: int

    def divided(self, count: int) -> "Integrals":
        """Divided by `count`: the mean, if these are a sum over `count` baselines."""
        ends = None if self.ends is None else self.ends / count
        return replace(self, total=self.total / count, ends=ends)

    def result(self, images: Tensor, corners: Tensor, shape: tuple[int, ...]) -> AttributionResult:
        """The result, with leading dimensions `shape`; InvalidArgument unless it is finite."""
        check_finite("model", self.total, "an attribution")
        if count := int(self.unexplained.sum()):
            unexplained.warn(count, "attribution", "from the baseline to the image")
        size, delta = images.shape[1:], None
        if self.ends is not None:
            rise = self.ends[1] - self.ends[0]
            delta = (self.total.double().sum((2, 3, 4)) - rise).reshape(shape)
        each = images[:, None].expand(*corners.shape[:2], *size)
        return AttributionResult(
            attribution=self.total.reshape(*shape, *size),
            images=each.reshape(*shape, *size),
            windows=corners.reshape(*shape, corners.shape[-1]),
            scale=self.scale,
            passes=self.passes,
            convergence_delta=delta,
            unexplained=self.unexplained.reshape(shape),
        )


def integrate(
    settings: LocalAttribution,
    images: Tensor,
    corners: Tensor,
    cells: Cells,
    batch: int | None,
    with_ends: bool,
) -> Integrals:
    """Integrates over `cells` of the path, for the windows `corners` (B,N,3 or 4) of `images`."""
    if batch is not None:
        check_whole("internal_batch_size", batch)
    run = _Run(settings, batch)
    boxes = [[as_box(corner) for corner in row] for row in corners.tolist()]
    b, n = corners.shape[:2]
    total = images.new_zeros((b, n, *images.shape[1:]), dtype=torch.float32)
    ends = images.new_zeros((2, b, n), dtype=torch.float64)
    with memory.frozen(settings.model):
        if b and n and len(cells):
            run.plan(images[:1], [box for row in boxes for box in row], cells)
        parts = run.parts(images, boxes, cells) if b and n else []
        for together in run.stacks(parts, cells):
            stack = torch.cat([part.image for part in together])
            inside = together[0].windows
            for k, shares in run.integrals(stack, inside, cells):
                for part, share in zip(together, shares, strict=True):
                    rows, columns = part.box.slices()
                    total[part.number, part.first + k, :, rows, columns] += share
            if with_ends:
                run.put_ends(ends, stack, together)
        empty = unexplained.without(total)
        if not with_ends and empty.any():
            for together in run.stacks(parts, cells):
                run.put_ends(ends, torch.cat([part.image for part in together]), together)
        empty &= unexplained.changed(*ends)
    return Integrals(total, ends if with_ends else None, empty, run.passes.scale, passes=len(cells))


class _Part(NamedTuple):
    """The part of an image that some windows depend on."""

    image: Tensor  # the part (1,C,h',w')
    box: Box  # its position in the image
    windows: list[Box]  # in SR pixels of the part
    number: int = 0  # index of the image
    first: int = 0  # index of the first of `windows` among the image's windows


class _Run:
    """The network passes of one call of `attribute`, at a batch size that fits into memory."""

    def __init__(self, settings: LocalAttribution, batch: int | None) -> None:
        self.model, self.path = settings.model, settings.path
        self.objective, self.passes = (
            settings.objective,
            WindowPasses(settings.model, settings.autocast),
        )
        self.estimator = settings.estimator
        self.budget, self.asked = settings.memory_budget, batch
        self.batch = self.abreast = 0  # nodes that are summed together, and that share a pass
        self.recompute = False
        self.graphs = settings.graphs

    def part(self, image: Tensor, boxes: Sequence[Box]) -> _Part:
        """The part of `image` that the windows `boxes` depend on; all of it if unknown."""
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
        """The parts of the images that the windows depend on: one for each window or image.

        If several paths fit into a pass, each window has its own part: parts of single windows
        have the same shape more often, and parts of one shape can share a pass (`stacks`).
        """
        apart = self.room(cells) > 1 and self.passes.trimmed
        found = []
        for i, (image, row) in enumerate(zip(images.split(1), boxes, strict=True)):
            rows = [[box] for box in row] if apart else [row]
            for j, some in enumerate(rows):
                found.append(self.part(image, some)._replace(number=i, first=j))
        return found

    def room(self, cells: Cells) -> int:
        """Number of paths that fit into one pass; at least 1."""
        return max(1, self.batch // max(len(cells), 1))

    def stacks(self, parts: Sequence[_Part], cells: Cells) -> Iterator[list[_Part]]:
        """Groups of parts with equal shapes and window positions; a group fits into one pass."""
        alike: dict[object, list[_Part]] = {}
        for part in parts:
            alike.setdefault((part.image.shape, *part.windows), []).append(part)
        for some in alike.values():
            for first in range(0, len(some), self.room(cells)):
                yield some[first : first + self.room(cells)]

    def integrals(
        self, images: Tensor, boxes: Sequence[Box], cells: Cells
    ) -> Iterator[tuple[int, Tensor]]:
        """Yields (window's index, its integral (B,C,h,w) over a chunk of the path), for all chunks.

        With several images there is only one chunk, see `room`.
        """
        rises = self._rises(images, boxes, cells) if self.estimator == IDGI else None
        count = max(1, self.batch // len(images))
        for passed in cut(slice(0, len(cells)), max(count, self.abreast // len(images))):
            nodes = self._nodes(images, cells[passed].node)
            for j, gradients in enumerate(self._gradients(nodes, boxes)):
                rows = gradients.unflatten(0, (len(images), -1)).split(count, dim=1)
                for part, several in zip(cut(passed, count), rows, strict=True):
                    if rises is None:
                        share = self.path.integral(several, images, cells[part])
                    else:
                        each = zip(several, rises[part, j].unbind(1), strict=True)
                        share = torch.stack([idgi(gradient, rise) for gradient, rise in each])
                    yield j, share.float()

    def _rises(self, images: Tensor, boxes: Sequence[Box], cells: Cells) -> Tensor:
        """Weighted rise (K,N,B) of each window's objective over each cell, float64."""
        positions, where = np.unique(np.stack((cells.start, cells.end)), return_inverse=True)
        values = self.values_at(images, boxes, positions)
        rows = on_device(torch.from_numpy(where.reshape(2, -1)), values.device)
        weight = on_device(torch.from_numpy(cells.weight), values.device)
        start, end = values[rows]
        return weight[:, None, None] * (end - start)

    def values_at(self, images: Tensor, boxes: Sequence[Box], positions: Array) -> Tensor:
        """Objective (P,N,B) of each window at each of `positions` (P) of the paths, float64."""
        with torch.no_grad():
            rows = [
                torch.stack([value.double() for value in self._values(nodes, boxes)])
                for nodes in (self._nodes(images, position[None]) for position in positions)
            ]
        return torch.stack(rows)

    def put_ends(self, ends: Tensor, images: Tensor, parts: Sequence[_Part]) -> None:
        """Write the objective at both ends of the paths of `parts`, stacked in `images`."""
        inside = parts[0].windows
        values = self.values_at(images, inside, np.array([0.0, 1.0]))
        for part, value in zip(parts, values.unbind(2), strict=True):
            ends[:, part.number, part.first : part.first + len(inside)] = value

    def _nodes(self, images: Tensor, positions: Array) -> Tensor:
        """Nodes (B*K,C,h,w) on the paths of `images` (B,C,h,w), ordered by path."""
        nodes = self.path.nodes(images, positions).flatten(0, 1)
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
        """Everything that a recorded pass depends on, apart from its images and weights."""
        return box, self.objective, self.passes.autocast, precision.current()

    def plan(self, image: Tensor, boxes: Sequence[Box], cells: Cells) -> None:
        """Choose the batch size, and whether blocks are recomputed in backward.

        A trial pass measures the memory that backward needs. A batch size given by the caller is
        kept, and checked against the memory budget only if one is given.
        """
        if self.asked is not None and self.budget is None:
            self.batch = self.abreast = self.asked
            return
        limit = (self.budget or memory.default_budget(image.device)) / memory.PEAK_OVER_SAVED
        part = self.part(image, [self._costliest(boxes, image)])
        node = self._nodes(part.image, cells.node[:1]).requires_grad_()
        saved = memory.SavedBytes(self.model, limit / (self.asked or 1))
        try:
            with saved:
                for _ in self._values(node, part.windows):
                    pass
        except memory.OverBudget:
            self.batch = self.abreast = self.asked or 1
            # A model without blocks may exceed the default budget, but not one that was set.
            self.recompute = self.budget is not None or bool(memory.stacked_blocks(self.model))
        else:
            fitting = int(limit // max(saved.count, 1))
            on_cpu = image.device.type == "cpu"
            self.batch = self.asked or (min(fitting, CPU_BATCH) if on_cpu else fitting)
            self.abreast = self.batch
            if on_cpu and not self.asked and self._same_in_batches(node):
                pixels = part.image.shape[-2] * part.image.shape[-1]
                self.abreast = max(self.batch, min(fitting, nodes_abreast(pixels)))

    def _same_in_batches(self, node: Tensor) -> bool:
        """Whether a node like `node` has the same gradient, bit for bit, in a pass with others.

        PyTorch's convolutions take other algorithms for other batch sizes; fastbg's do not.
        """
        plain = (self.passes.autocast or precision.autocast_dtype()) is None
        native = isinstance(self.model, Network) and self.model.native
        return self.passes.trusted and native and plain and node.dtype == torch.float32

    def _costliest(self, boxes: Sequence[Box], image: Tensor) -> Box:
        """The box whose trimmed pass computes most pixels: the largest, then the most central."""
        height, width = (self.passes.scale * v for v in image.shape[-2:])

        def cost(box: Box) -> tuple[int, int]:
            room = min(box.y0, box.x0, height - box.y1, width - box.x1)
            return (box.y1 - box.y0) * (box.x1 - box.x0), room

        return max(boxes, key=cost)
