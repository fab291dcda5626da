"""The same bits in every run on a GPU: nothing there adds in whatever order threads come."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastbg
from fastbg.attribution import memory
from fastbg.experiments.ring import Ring, RingOptions
from fastbg.experiments.seam import by_distance
from fastbg.experiments.slicing import Slicing, SlicingOptions
from fastbg.experiments.study import Study
from fastbg.experiments.table1 import Table1, Table1Options
from fastbg.measures.groups import means_by
from fastbg.models.conv import Conv3x3
from fastbg.models.edsr import EDSR
from fastbg.models.network import images_per_call, pad_reflected
from fastbg.models.rcan import RCAN, own_window
from fastbg.models.swinir import SwinIR

ROOT = Path(__file__).parents[1]
# Functions of PyTorch that add with atomics on GPUs, from torch.use_deterministic_algorithms.
ATOMIC = re.compile(
    r"index_add|index_put|index_select_backward|scatter_(add|reduce)|put_|bincount|histc"
    r"|embedding.*backward|(upsample|interpolate)\w*backward|(reflection|replication)_pad\w*backward"
    r"|(adaptive_\w+|max|avg)_pool3d_backward|adaptive_avg_pool2d_backward|grid_sampler\w*backward"
    r"|cumsum|take_backward|gather_backward"
)


class Recorded(TorchDispatchMode):
    """Names of the functions that ran, those of backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.names.add(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))

    @property
    def atomic(self) -> set[str]:
        return {name for name in self.names if ATOMIC.search(name)}


def test_the_recorder_sees_atomics_of_backward_passes() -> None:
    leaf = torch.rand(4, requires_grad=True)
    with Recorded() as recorded:
        leaf.index_select(0, torch.tensor([0, 0, 1])).sum().backward()
    assert recorded.atomic == {"index_add"}


@pytest.mark.parametrize("folder", ["csrc/cuda", "kernels"])
def test_our_kernels_have_none(folder: str) -> None:
    if not (ROOT / folder).is_dir():
        pytest.skip("the kernels' sources are not beside the tests")
    files = [path for path in (ROOT / folder).iterdir() if path.suffix in {".cu", ".cuh", ".py"}]
    assert len(files) > 4
    for path in files:
        assert not re.search(r"atomic[A-Z_]|\.atomic_|\bred\.global", path.read_text()), path


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "edsr": lambda: EDSR(features=4, blocks=1),
    "rcan": lambda: RCAN(features=4, groups=1, blocks=1, squeezed=2),
    "rcan pooled": lambda: RCAN(features=4, groups=1, blocks=1, squeezed=2, pooling=6),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_attributions_have_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Module by module, as on GPUs; at a size that SwinIR must pad."""
    monkeypatch.setenv("FASTBG_BACKEND", "torch")
    monkeypatch.setattr(Conv3x3, "fused", False)
    net = NETWORKS[name]().eval()
    with Recorded() as recorded:
        fastbg.LocalAttribution(net).attribute(torch.rand(1, 3, 13, 14), (8, 8, 16), 2)
    assert {"convolution", "convolution_backward"} <= recorded.names
    assert not recorded.atomic


@pytest.mark.parametrize(
    "experiment",
    [
        Slicing(SlicingOptions(tile=32)),
        Table1(Table1Options(count=3, size=64, region=32)),
        Ring(RingOptions(count=3, candidates=8, size=64, window=16, sizes="0,32")),
    ],
    ids=lambda experiment: experiment.name,
)
def test_experiments_have_none(experiment: Any, net: EDSR, study: Study) -> None:
    items = experiment.plan(study)[:1]
    with study.measuring(), Recorded() as recorded:
        experiment.measure(net, items, study)
    assert recorded.names
    assert not recorded.atomic


def test_memory_that_happens_to_be_free_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(device: torch.device) -> tuple[int, int]:
        raise AssertionError("asked how much is free")

    monkeypatch.setattr(torch.cuda, "mem_get_info", ask)
    assert memory.default_budget(torch.device("cuda")) == 4 << 30
    assert memory.default_budget(torch.device("cpu")) == 2 << 30


@pytest.mark.parametrize(
    ("shape", "window", "expected"),
    [
        ((100, 3, 32, 32), None, 128),  # 128x128 SR pixels of 64 channels in float32: 4 MiB
        ((100, 3, 32, 32), (48, 48, 80, 80), 2048),
        ((1, 3, 2000, 2000), None, 1),
    ],
)
def test_batches_on_a_gpu_fit_a_small_card(
    shape: tuple[int, ...], window: tuple[int, ...] | None, expected: int, net: EDSR
) -> None:
    with FakeTensorMode():
        lr = torch.empty(shape, device="cuda")
    assert images_per_call(lr, net.scale, window) == expected
    assert images_per_call(torch.empty(100, 3, 32, 32), net.scale, window) == 8


# What stands in for functions with atomics.


def test_means_by_group() -> None:
    rng = np.random.default_rng(0)
    values, group = rng.random((2, 5, 7)), rng.integers(0, 4, (5, 7))
    group[group == 2] = 5  # one group is empty, and 5 belongs to none
    found = means_by(torch.from_numpy(values), torch.from_numpy(group), 4).numpy()
    for number in (0, 1, 3):
        np.testing.assert_allclose(found[:, number], values[:, group == number].mean(1), rtol=1e-14)
    assert (found[:, 2] == 0).all()


def test_means_by_leave_out_what_no_group_has() -> None:
    values, group = torch.tensor([[[1.0, torch.nan]]]), torch.tensor([[0, 1]])
    assert means_by(values, group, 1).item() == 1


@pytest.mark.parametrize("n", [1, 4, 5])
def test_by_distance_from_the_border(n: int) -> None:
    values = np.random.default_rng(n).random((n, n))
    along = np.minimum(np.arange(n), n - 1 - np.arange(n))
    distance = np.minimum(along[:, None], along)
    expected = [values[distance == d].mean() for d in range((n + 1) // 2)]
    np.testing.assert_allclose(by_distance(torch.from_numpy(values)), expected, rtol=1e-14)


@pytest.mark.parametrize(("size", "wanted"), [(1, 5), (2, 9), (3, 4), (5, 8), (7, 30), (6, 6)])
def test_reflected_padding_is_numpys(size: int, wanted: int) -> None:
    x = torch.rand(1, 2, size, size + 1, dtype=torch.float64, requires_grad=True)
    got = pad_reflected(x, wanted, wanted + 3)
    more = (0, 0), (0, 0), (0, wanted - size), (0, wanted + 2 - size)
    mode = {1: "edge"}.get(size, "reflect")
    rows = np.pad(x.detach().numpy(), (*more[:3], (0, 0)), mode=mode)
    np.testing.assert_array_equal(
        got.detach(), np.pad(rows, (*more[:2], (0, 0), more[3]), mode="reflect")
    )
    assert torch.autograd.gradcheck(lambda v: pad_reflected(v, wanted, wanted + 3), x)


@pytest.mark.parametrize("side", [1, 2, 5, 6, 24])
def test_own_windows_by_index(side: int) -> None:
    height, width = 9, 6
    values: Tensor = torch.rand(1, 2, max(height - side, 0) + 1, max(width - side, 0) + 1)
    expected = values
    for axis, size in ((2, height), (3, width)):
        first = torch.arange(size) - side // 2
        expected = expected.index_select(axis, first.clamp(0, max(size - side, 0)))
    assert torch.equal(own_window(values, side, height, width), expected)
