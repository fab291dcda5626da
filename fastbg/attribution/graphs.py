"""CUDA graphs: passes that run repeatedly with one shape are recorded once, then replayed."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastbg.filters.constants import collected
from fastbg.models.network import Network, is_watched

log = logging.getLogger(__name__)
KEPT = 4  # number of graphs; each holds the memory of its pass
Pass = Callable[[Tensor], Tensor]


class _Graph(NamedTuple):
    """A recorded pass, with the memory that it reads and writes."""

    graph: Any
    inputs: Tensor
    output: Tensor
    tables: list[Tensor]  # made before, and cached elsewhere only as long as there is room


class Graphs:
    """Runs passes of one model. Repeated passes of one shape are replayed from a CUDA graph.

    The first pass of a shape runs as usual; the second is recorded; later ones are replayed. The
    last `KEPT` graphs are kept until the model's weights change. A pass that cannot be recorded
    runs as usual, and `reason` says why.

    Args:
        model: the model that the passes run.
        graph: creates an empty graph; default torch.cuda.CUDAGraph. Tests pass a stand-in.
        record: ``record(graph)`` is a context manager that records; default torch.cuda.graph.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Callable[[], Any] | None = None,
        record: Callable[[Any], Any] | None = None,
    ) -> None:
        self.model, self.reason = model, ""
        self._new, self._record = graph or torch.cuda.CUDAGraph, record or torch.cuda.graph
        self._seen: set[Hashable] = set()
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._weights: Hashable = None

    def run(self, work: Pass, x: Tensor, key: Hashable = ()) -> Tensor:
        """Returns ``work(x)``. `key` distinguishes different passes over inputs of one shape."""
        self.reason = unrecordable(self.model, x)
        if self.reason:
            return work(x)
        self._forget_other_weights()
        key = (key, tuple(x.shape), x.stride(), x.dtype, x.device)
        if key not in self._seen:  # fills caches too, such as packed weights
            self._seen.add(key)
            return work(x)
        if key not in self._graphs:
            try:
                self._graphs[key] = self._recorded(work, x)
            except RuntimeError as error:
                self._seen.discard(key)
                self.reason = f"{type(self.model).__name__} cannot be recorded: {error}"
                log.warning("no CUDA graph: %s", self.reason)
                return work(x)
        self._graphs.move_to_end(key)
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        found = self._graphs[key]
        found.inputs.copy_(x)
        found.graph.replay()
        return found.output.clone()

    def _recorded(self, work: Pass, x: Tensor) -> _Graph:
        graph, inputs = self._new(), x.detach().clone(memory_format=torch.preserve_format)
        with collected() as tables, self._record(graph):
            output = work(inputs)
        return _Graph(graph, inputs, output, tables)

    def _forget_other_weights(self) -> None:
        """Deletes all graphs if weights have changed, as graphs hold their addresses and values."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        weights = tuple((t.data_ptr(), t._version) for t in tensors)
        if weights != self._weights:
            self._graphs.clear()
            self._seen.clear()
            self._weights = weights


def unrecordable(model: nn.Module, x: Tensor) -> str:
    """The reason why a pass of `model` over `x` cannot be recorded; "" if it can."""
    if x.device.type != "cuda":
        return f"the images are on {x.device.type}: CUDA graphs are of NVIDIA GPUs"
    if not isinstance(model, Network):
        return f"{type(model).__name__} is not one of fastbg's networks: what it does is unknown"
    if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
        return "weights made in torch.inference_mode do not tell when they change"
    if any(map(is_watched, model.modules())):
        return "hooks, or a replaced forward, want to be called in each pass"
    return ""
