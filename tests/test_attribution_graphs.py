"""Many images in one pass, and passes recorded as CUDA graphs: with a stand-in for the recorder."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.attribution import graphs, local
from fastbg.attribution.graphs import Graphs, unrecordable
from fastbg.filters import constants
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN


@pytest.fixture
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=4, blocks=2).eval().requires_grad_(False)


class Recorder:
    """Records the last work as torch.cuda.CUDAGraph would its launches, and repeats it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.works: list[Callable[[], None]] = []
        self.broken = False

    def graph(self) -> Any:
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.events.append("replay")
                self.work()

        return Graph()

    @contextmanager
    def record(self, graph: Any) -> Iterator[None]:
        self.events.append("record")
        yield
        if self.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        graph.work = self.works[-1]

    def doubled(self, x: Tensor) -> Tensor:
        """2 x, whose launch can be repeated."""
        self.events.append("run")
        y = torch.empty_like(x)
        self.works.append(lambda: y.copy_(2 * x))
        self.works[-1]()
        return y


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(graphs, "unrecordable", lambda model, x: "")
    return Recorder()


def test_a_shape_is_run_then_recorded_once_then_replayed(net: EDSR, recorder: Recorder) -> None:
    made = Graphs(net, recorder.graph, recorder.record)
    results = []
    for i in range(4):
        results.append(made.run(recorder.doubled, torch.full((2, 3), float(i))))
    assert recorder.events == ["run", "record", "run", "replay", "replay", "replay"]
    for i, found in enumerate(results):  # earlier results are not overwritten by later ones
        assert torch.equal(found, torch.full((2, 3), 2.0 * i))
    recorder.events.clear()
    made.run(recorder.doubled, torch.ones(3, 3))
    made.run(recorder.doubled, torch.ones(2, 3), key="another window")
    assert recorder.events == ["run", "run"]


def test_other_weights_are_recorded_anew(net: EDSR, recorder: Recorder) -> None:
    made = Graphs(net, recorder.graph, recorder.record)
    for _ in range(3):
        made.run(recorder.doubled, torch.ones(2))
    net.conv_last.bias.add_(1)
    recorder.events.clear()
    for _ in range(2):
        made.run(recorder.doubled, torch.ones(2))
    assert recorder.events == ["run", "record", "run", "replay"]


def test_a_graph_keeps_the_tables_that_it_reads(net: EDSR, recorder: Recorder) -> None:
    """Constants on the device, such as the window's corners, leave their cache for newer ones."""
    tables: list[weakref.ref[Tensor]] = []

    def work(x: Tensor) -> Tensor:
        corners = torch.tensor([1, 2, 3, 4])
        tables.append(weakref.ref(constants.on_device(corners, torch.device("meta"))))
        return recorder.doubled(x)

    made = Graphs(net, recorder.graph, recorder.record)
    for _ in range(2):
        made.run(work, torch.ones(2))
    constants._kept.cache_clear()
    assert tables[1]() is not None
    net.conv_last.bias.add_(1)
    made.run(work, torch.ones(2))  # gives the graph up
    assert tables[1]() is None


def test_only_a_few_graphs_are_kept(net: EDSR, recorder: Recorder) -> None:
    made = Graphs(net, recorder.graph, recorder.record)
    for size in range(1, graphs.KEPT + 3):
        for _ in range(2):
            made.run(recorder.doubled, torch.ones(size))
    assert len(made._graphs) == graphs.KEPT


def test_a_pass_that_cannot_be_recorded_runs_and_says_why(
    net: EDSR, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.broken = True
    made = Graphs(net, recorder.graph, recorder.record)
    for _ in range(2):
        found = made.run(recorder.doubled, torch.ones(2))
        assert torch.equal(found, torch.full((2,), 2.0))
    assert "EDSR cannot be recorded: operation not permitted" in made.reason
    assert made.reason in caplog.text


def test_what_is_not_recorded_and_why(net: EDSR) -> None:
    x, on_gpu = torch.ones(1, 3, 8, 8), torch.empty(1).as_subclass(OnGpu)
    assert "on cpu" in unrecordable(net, x)
    assert "Upsample is not one of" in unrecordable(nn.Upsample(scale_factor=4), on_gpu)
    assert unrecordable(net, on_gpu) == ""
    with torch.inference_mode():
        assert "inference_mode" in unrecordable(EDSR(features=4, blocks=1), on_gpu)
    net.conv_last.register_forward_hook(lambda *_: None)
    assert "hooks" in unrecordable(net, on_gpu)


class OnGpu(Tensor):
    device = torch.device("cuda")  # type: ignore[assignment]


def test_on_a_cpu_nothing_is_recorded_and_the_map_is_the_same(net: EDSR) -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    plain = fastbg.LocalAttribution(net).attribute(images, (40, 40, 16), 4)
    with_graphs = fastbg.LocalAttribution(net, cuda_graphs=True)
    assert torch.equal(
        with_graphs.attribute(images, (40, 40, 16), 4).attribution, plain.attribution
    )
    assert with_graphs.graphs is not None
    assert "on cpu" in with_graphs.graphs.reason


WINDOWS = torch.tensor(  # of three images: two in the middle, some at borders, two alike
    [[[40, 40, 16], [0, 0, 16]], [[40, 40, 16], [80, 80, 16]], [[36, 44, 16], [0, 80, 16]]]
)


@pytest.mark.parametrize("kind", [EDSR, RCAN])
def test_many_images_and_windows_share_passes_and_have_their_own_maps(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes = {"features": 4, "blocks": 1} | ({"groups": 1, "squeezed": 2} if kind is RCAN else {})
    net = kind(**sizes).eval().requires_grad_(False)
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    passes: list[int] = []
    gradients = local._Run._gradients

    def counted(run: Any, nodes: Tensor, boxes: Any) -> Iterator[Tensor]:
        passes.append(len(nodes))
        return gradients(run, nodes, boxes)

    monkeypatch.setattr(local._Run, "_gradients", counted)
    lam = fastbg.LocalAttribution(net)
    settings: dict[str, Any] = {"n_steps": 4, "return_convergence_delta": True}
    alone = lam.attribute(images, WINDOWS, internal_batch_size=1, **settings)
    before = len(passes)
    passes.clear()
    together = lam.attribute(images, WINDOWS, internal_batch_size=64, **settings)
    assert max(passes) >= 8  # two images' paths
    assert len(passes) < before / 2
    scale = alone.attribution.abs().max()
    assert (alone.attribution - together.attribution).abs().max() <= 1e-5 * scale
    assert torch.allclose(alone.convergence_delta, together.convergence_delta, rtol=1e-4, atol=1e-6)
