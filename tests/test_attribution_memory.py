"""What attribution keeps in memory: budgets are held, blocks recomputed, trial passes freed."""

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.attribution import memory
from fastbg.errors import InvalidArgument
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.registry import BUILT_IN
from fastbg.models.swinir import Block, SwinIR

WINDOW = (30, 40, 16)
NETWORKS = {
    "edsr": lambda: EDSR(features=8, blocks=6),
    "rcan": lambda: RCAN(features=8, groups=6, blocks=2, squeezed=2),
    "swinir": lambda: SwinIR(width=8, depths=(3, 3), heads=(2, 2)),
}
Build = Callable[[], Network]
every_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(1))


class Flat(nn.Module):
    """x1, a few convolutions in a row: nothing that could be recomputed as a block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.layers(x)


def peak(name: str, *numbers: int) -> tuple[float, float]:
    """MiB: peak of a process, and how much of it one call took; see attribution_peak.py."""
    script = Path(__file__).with_name("attribution_peak.py")
    done = subprocess.run(
        [sys.executable, script, name, *map(str, numbers)],
        # glibc gives every freed map back at once: its own holes are not what is measured.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"},
        capture_output=True,
        text=True,
        check=True,
    )
    whole, call = done.stdout.split()
    return float(whole), float(call)


@pytest.mark.parametrize(("name", "steps"), [("edsr", 50), ("rcan", 2), ("swinir", 2)])
def test_a_256x256_input_fits_in_4_gib(name: str, steps: int) -> None:
    """Passes follow one another, so two steps need what fifty do."""
    assert name in BUILT_IN
    whole, _ = peak(name, 256, 16, 0, steps)
    assert whole < 4096


def test_a_small_budget_makes_a_small_process() -> None:
    """SwinIR without trimming, the window being all of the image."""
    _, free = peak("swinir", 96, 384, 100_000, 1)
    _, bound = peak("swinir", 96, 384, 32, 1)
    assert bound < 0.7 * free  # cells keep two maps a block, recomputing one


@pytest.mark.parametrize("free", [7_000, 80 * 1024**3])
def test_the_default_budget_is_fixed(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Whatever a GPU has free: batches decide the last bits of a result."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 1024**3))
    assert memory.default_budget(torch.device("cpu")) == 2 * 1024**3
    assert memory.default_budget(torch.device("cuda", 0)) == 4 * 1024**3


@every_network
def test_a_budget_too_small_for_one_node_recomputes(
    build: Build, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTBG_BACKEND", "torch")  # which the hook below makes SwinIR's block take
    torch.manual_seed(0)
    model = build()
    expected = fastbg.LocalAttribution(model).attribute(image, WINDOW, 4)
    lam = fastbg.LocalAttribution(model, memory_budget=100_000)
    passes = []
    first_part = next(memory.stacked_blocks(model)[0].children())
    hook = first_part.register_forward_hook(lambda *_: passes.append(1))
    got = lam.attribute(image, WINDOW, 4)
    hook.remove()
    assert len(passes) >= 2 * got.passes  # forward, and again in backward
    # Blocks that run again do so as modules, others in EDSR's native call, which rounds otherwise.
    torch.testing.assert_close(got.attribution, expected.attribution, rtol=1e-5, atol=2e-6)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_block_keeps_the_forward_that_others_gave_it(image: Tensor) -> None:
    """As libraries do that move or quantise weights."""
    model = EDSR(features=8, blocks=2).eval()
    block = model.body[0]
    plain = block.forward
    block.forward = own = lambda x: plain(x) / 2
    with memory.recomputed(model, True):
        assert block.forward is not own
        model(image.clone().requires_grad_()).sum().backward()
    assert vars(block)["forward"] is own
    assert "forward" not in vars(model.body[1])


@pytest.mark.parametrize("build", [NETWORKS["rcan"], NETWORKS["swinir"]], ids=["rcan", "swinir"])
def test_recomputed_blocks_keep_little(build: Build, image: Tensor) -> None:
    """In the trimmed pass and in the whole one; a block of EDSR holds little but its input."""
    torch.manual_seed(0)
    model = build().requires_grad_(False)
    for box in ((30, 40, 46, 56), (0, 0, 80, 96)):
        kept = []
        for wanted in (False, True):
            saved = memory.SavedBytes(model, 1e12)
            with memory.recomputed(model, wanted), saved:
                model.forward_window(image.clone().requires_grad_(), box)
            kept.append(saved.count)
        assert kept[1] < 0.6 * kept[0]


def test_blocks_of_each_network() -> None:
    blocks = {name: memory.stacked_blocks(build()) for name, build in NETWORKS.items()}
    assert {name: len(found) for name, found in blocks.items()} == {
        "edsr": 6,
        "rcan": 6,
        "swinir": 6,
    }
    assert all(isinstance(block, Block) for block in blocks["swinir"])
    nested = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(*EDSR(features=8, blocks=2).body))
    assert len(memory.stacked_blocks(nested)) == 2
    assert memory.stacked_blocks(Flat()) == []


def test_a_model_without_blocks(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that was asked for is refused; the default is exceeded, one node at a time."""
    model = Flat()
    with pytest.raises(InvalidArgument, match="memory_budget: got too little for one pass of Flat"):
        fastbg.LocalAttribution(model, memory_budget=1000).attribute(image, (0, 0, 8), 3)
    monkeypatch.setattr(memory, "default_budget", lambda device: 1000)
    model.batches.clear()
    result = fastbg.LocalAttribution(model).attribute(image, (0, 0, 8), 3)
    assert model.batches == [1] * (1 + result.passes)


def test_a_chosen_batch_is_held_against_a_chosen_budget(image: Tensor) -> None:
    """Three nodes fit, four do not: the batch stays, its blocks are recomputed."""
    torch.manual_seed(0)
    model = NETWORKS["edsr"]().requires_grad_(False)
    model.native = False  # in one native call it saves next to nothing
    saved = memory.SavedBytes(model, 1e12)
    with saved:
        model.forward_window(image.clone().requires_grad_(), (30, 40, 47, 57))
    budget = int(3 * memory.PEAK_OVER_SAVED * saved.count)
    batches = []
    model.body[0].conv1.register_forward_hook(lambda _, x, y: batches.append(len(y)))
    lam = fastbg.LocalAttribution(model, memory_budget=budget)
    lam.attribute(image, WINDOW, 4, "arc_midpoint", internal_batch_size=4)
    assert batches == [1, 4, 4]
    batches.clear()
    lam.attribute(image, WINDOW, 4, "arc_midpoint", internal_batch_size=2)
    assert batches == [1, 2, 2]


def test_the_trial_takes_the_costliest_window(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(memory, "second_level_cache", lambda: 0)  # one node in a pass
    model = NETWORKS["edsr"]().requires_grad_(False)
    seen: list[tuple[int, ...]] = []
    plain = model.forward_window

    def watched(x: Tensor, box: tuple[int, ...]) -> Tensor:
        seen.append(tuple(box[:2]))
        return plain(x, box)

    model.forward_window = watched
    windows = torch.tensor([[[0, 0, 8]], [[32, 40, 8]], [[70, 80, 4]]])
    images = image.expand(3, -1, -1, -1)
    fastbg.LocalAttribution(model).attribute(images, windows, 2, "arc_midpoint")
    assert seen == [(32, 40), (0, 0), (0, 0), (32, 40), (32, 40), (70, 80), (70, 80)]
    seen.clear()
    tall_and_wide = torch.tensor([[[8, 40, 24, 44]], [[32, 8, 40, 56]]])
    fastbg.LocalAttribution(model).attribute(images[:2], tall_and_wide, 2, "arc_midpoint")
    assert seen[0] == (32, 8)


def test_trial_passes_are_freed(image: Tensor) -> None:
    """ReLU saves its own output: a hook that keeps that very tensor closes a circle for good."""
    model = Flat()
    outputs: list[weakref.ref[Tensor]] = []
    model.layers[1].register_forward_hook(lambda _, x, y: outputs.append(weakref.ref(y)))
    fastbg.LocalAttribution(model).attribute(image, (0, 0, 8), 2)
    assert len(outputs) >= 2
    assert all(reference() is None for reference in outputs)


@pytest.mark.parametrize(
    ("said", "size"), [("2048K\n", 2 << 20), ("odd", 512 << 10), (None, 512 << 10)]
)
def test_the_cache_is_as_linux_says(
    said: str | None, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "size"
    if said is not None:
        place.write_text(said)
    monkeypatch.setattr(memory, "CACHE", place)
    memory.second_level_cache.cache_clear()
    try:
        assert memory.second_level_cache() == size
    finally:
        memory.second_level_cache.cache_clear()
