"""Several Python threads that explain one network at once: each gets what it gets alone."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.attribution import memory

WINDOW = (24, 24, 8)


class Trained(nn.Module):
    """A network as training leaves it: in training mode, with dropout, batch norm and gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5)]
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), Block(*block), nn.Conv2d(8, 48, 1), nn.PixelShuffle(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Block(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def state(model: nn.Module) -> tuple[object, ...]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [name for name, module in model.named_modules() if "forward" in vars(module)],
    )


def test_the_first_to_end_does_not_restore_what_another_needs() -> None:
    model = Trained()
    before = state(model)
    first, second = ExitStack(), ExitStack()
    first.enter_context(memory.frozen(model))
    within = state(model)
    assert within != before
    second.enter_context(memory.frozen(model))
    first.close()
    assert state(model) == within
    second.close()
    assert state(model) == before


def test_recomputed_blocks_are_restored_when_the_last_has_ended() -> None:
    model = fastbg.load_model("edsr")
    first, second = ExitStack(), ExitStack()
    first.enter_context(memory.recomputed(model, True))
    within = state(model)
    assert within[2]
    second.enter_context(memory.recomputed(model, True))
    first.close()
    assert state(model) == within
    second.close()
    assert state(model)[2] == []


def test_an_error_inside_restores_too() -> None:
    model = Trained()
    before = state(model)
    with pytest.raises(ZeroDivisionError), memory.frozen(model):
        raise ZeroDivisionError
    assert state(model) == before


@pytest.mark.usefixtures("often")
def test_a_network_in_training_mode() -> None:
    """Dropout and batch norm stay off until the last thread has its map."""
    model = Trained()
    before = state(model)
    images = [torch.rand(1, 3, 12 + 2 * i, 16) for i in range(3)]

    def explain(image: Tensor) -> Tensor:
        return fastbg.LocalAttribution(model).attribute(image, WINDOW, 4).attribution

    wanted = [explain(image) for image in images]
    problems: list[object] = []

    def work(first: int) -> None:
        try:
            for i in range(6):
                number = (first + i) % len(images)
                if not torch.equal(explain(images[number]), wanted[number]):
                    problems.append(number)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert state(model) == before
