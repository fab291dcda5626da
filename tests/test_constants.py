"""Small tables on the device: copied once, never stale, usable by autograd."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastbg.filters import constants
from fastbg.filters.constants import on_device
from fastbg.models.bicubic import Bicubic
from fastbg.models.vgg import conv1_1
from fastbg.ops.path import _like
from fastbg.registration.indices import boxes_inside

META = torch.device("meta")  # stands for a GPU: a device whose tensors must be made by a copy


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    constants._kept.cache_clear()


def copies() -> int:
    """Tables that were copied to a device so far."""
    return constants._kept.cache_info().misses


def test_equal_tables_are_copied_once() -> None:
    table = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    first = on_device(table, META, torch.float32)
    again = on_device(table.clone().T.contiguous().T, META, torch.float32)
    assert again is first
    assert (first.shape, first.dtype, first.device) == ((2, 3), torch.float32, META)
    assert copies() == 1
    on_device(table + 1, META, torch.float32)
    on_device(table.reshape(3, 2), META, torch.float32)
    on_device(table, META)
    assert copies() == 4


def test_what_operators_take_on_every_call_is_copied_once() -> None:
    image = torch.empty(1, 3, 8, 8, device=META)
    for _ in range(3):
        boxes_inside("inner", torch.tensor([1, 1, 5, 5]), 8, 8, META)
        _like(torch.tensor([[0.5, 0.5]], dtype=torch.float64), image)
        conv1_1(META, torch.bfloat16)
    assert copies() == 4


def test_a_table_of_any_strides_is_copied() -> None:
    """One row of NumPy's `row[None]` has stride 0, which no table of bytes can have."""
    for table in (torch.from_numpy(np.arange(3.0)[1][None]), torch.ones(4, 4).T[::2]):
        for _ in range(2):
            assert on_device(table, META).shape == table.shape
    assert copies() == 2


def test_a_large_table_is_sent_and_not_kept() -> None:
    table = torch.ones(constants.MOST // 8 + 1, dtype=torch.float64)
    assert on_device(table, META, torch.float32).shape == table.shape
    assert copies() == 0


@pytest.mark.parametrize("side", [16, 64])  # weights below and above what is kept
def test_bicubic_copies_no_pageable_memory(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = Bicubic(), torch.empty(1, 3, side, side, device=META)
    moved = torch.Tensor.to

    def counted(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        there = moved(tensor, *args, **kwargs)
        if not tensor.is_meta and there.is_meta and not kwargs.get("non_blocking"):
            waits.append(tuple(tensor.shape))
        return there

    network(image)  # what is kept is copied once
    waits: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch.Tensor, "to", counted)
    assert network(image).shape == (1, 3, 4 * side, 4 * side)
    assert waits == []


def test_the_values_are_those_of_the_table() -> None:
    """On the CPU, where they can be read: they do not change with the table afterwards."""
    table = torch.tensor([1.5, -2.0])
    kept = constants._kept(
        table.numpy().tobytes(), table.dtype, (2,), torch.device("cpu"), torch.float64
    )
    table.zero_()
    assert kept.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "table",
    [
        torch.zeros(constants.MOST // 4 + 1),
        torch.zeros(0),
        torch.zeros(2, requires_grad=True),
        torch.zeros(2, device=META),
    ],
    ids=["large", "empty", "with a gradient", "elsewhere"],
)
def test_others_are_converted_as_ever(table: torch.Tensor) -> None:
    assert on_device(table, META).shape == table.shape
    assert copies() == 0


def test_a_table_that_is_there_already_stays() -> None:
    table = torch.arange(4.0)
    assert on_device(table, table.device) is table


def test_fake_tensors_are_not_kept() -> None:
    with FakeTensorMode():
        assert isinstance(on_device(torch.arange(4.0), META), FakeTensor)
    assert copies() == 0
    assert not isinstance(on_device(torch.arange(4.0), META), FakeTensor)


def test_autograd_saves_what_inference_mode_made() -> None:
    with torch.inference_mode():
        kept = constants._kept(b"\0" * 8, torch.float32, (2,), torch.device("cpu"), torch.float32)
    leaf = torch.ones(2, requires_grad=True)
    (leaf * kept).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [0, 0]
