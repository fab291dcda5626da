"""Nodes share passes, by threads and by the size of the cache, and no bit of the result changes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from torch import Tensor

import fastbg
from fastbg.attribution import memory
from fastbg.models.network import Network
from fastbg.testing import BackendUnderTest

WINDOWS = [(40, 44, 16), (0, 3, 12)]


@pytest.fixture(autouse=True)
def kernel() -> BackendUnderTest:
    """Skips where the compiled module is missing."""
    return runnable("cpu", "conv_stack")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node for each pass of a thread, whatever machine this is."""
    set_cache(monkeypatch, 0)


def set_cache(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(memory, "second_level_cache", lambda: size)


def image() -> Tensor:
    return torch.rand(2, 3, 27, 30, generator=torch.Generator("cpu").manual_seed(3))


def watched(net: torch.nn.Module) -> list[int]:
    """Batch sizes of the passes of `net` from now on."""
    sizes: list[int] = []
    plain: Any = net.forward_window

    def counted(x: Tensor, window: Any) -> Tensor:
        sizes.append(len(x))
        out: Tensor = plain(x, window)
        return out

    net.forward_window = counted  # type: ignore[assignment]
    return sizes


@pytest.mark.parametrize("estimator", ["path", "idgi"])
@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
def test_threads_change_no_bit_of_a_map(name: str, estimator: str) -> None:
    lam = fastbg.LocalAttribution(fastbg.load_model(name), estimator=estimator)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found = lam.attribute(image(), WINDOWS, 7, return_convergence_delta=True)
        assert found.convergence_delta is not None
        results.append((found.attribution, found.convergence_delta, found.passes))
    for attribution, delta, passes in results[1:]:
        assert torch.equal(attribution, results[0][0])
        assert torch.equal(delta, results[0][1])
        assert passes == results[0][2]


@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
def test_the_cache_changes_no_bit_of_a_map(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    net = fastbg.load_model(name)
    results = []
    for size in (0, 600_000, 1 << 30):
        set_cache(monkeypatch, size)
        results.append(fastbg.LocalAttribution(net).attribute(image(), WINDOWS, 7).attribution)
    assert all(torch.equal(found, results[0]) for found in results[1:])


@pytest.mark.parametrize(
    ("count", "cache", "most"),
    [(1, 0, 1), (1, 512 << 10, 2), (1, 2 << 20, 8), (2, 0, 8), (3, 0, 12), (2, 2 << 20, 16)],
)
def test_nodes_share_a_pass_by_threads_and_cache(
    count: int, cache: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of 27x30 pixels has a map of 64 channels of 203 KiB."""
    set_cache(monkeypatch, cache)
    net = fastbg.load_model("edsr")
    sizes = watched(net)
    torch.set_num_threads(count)
    fastbg.LocalAttribution(net).attribute(image(), WINDOWS, accuracy="published")
    assert max(sizes) == most


def test_a_memory_budget_holds_with_threads() -> None:
    net = fastbg.load_model("edsr")
    sizes = watched(net)
    torch.set_num_threads(8)
    fastbg.LocalAttribution(net, memory_budget=24 << 20).attribute(image(), WINDOWS, 8)
    assert 1 <= max(sizes) < 8


def test_networks_of_others_get_nodes_one_by_one() -> None:
    class Mixing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(3, track_running_stats=False)  # mixes a batch

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).repeat_interleave(2, -1).repeat_interleave(2, -2)

    torch.manual_seed(0)
    net = fastbg.wrap(Mixing(), scale=2)
    assert isinstance(net, Network)
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found = fastbg.LocalAttribution(net).attribute(image()[:1], (20, 20, 8), 5)
        results.append(found.attribution)
    torch.testing.assert_close(*results)
