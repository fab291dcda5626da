"""The model of GPU kernels' speed, and what follows from its table."""

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastbg.registration import dispatch
from fastbg.registration.dispatch import Place, select

ROOT = Path(__file__).parents[1]
if not (ROOT / "bench" / "gpu_model.py").exists():
    pytest.skip("bench/ is not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        from bench import gpu_model
    finally:
        sys.path.remove(str(ROOT))
    return gpu_model


SASS = """
        /*0000*/                   S2R R0, SR_CTAID.X ;
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   {first} ;
        /*0030*/              @!P0 BRA 0x20 ;
        /*0040*/                   {second} ;
        /*0050*/               @P1 BRA 0x10 ;
        /*0060*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0070*/                   EXIT ;
"""


def test_the_loop_with_the_tensor_work_is_hot(model: ModuleType) -> None:
    product = "HMMA.1688.F32.TF32 R4, R8, R10, R4"
    loop = model.hot_loop(SASS.format(first=product, second="NOP"))
    assert (loop.instructions, loop.tensor, loop.outside) == (2, 1, 6)
    assert loop.operations == 2 * 16 * 8 * 8
    assert loop.rate == 0.62 * 495e12
    both = model.hot_loop(SASS.format(first=product, second=product))
    assert (both.instructions, both.tensor) == (5, 2)


def test_else_the_loop_with_all_wide_stores_else_everything(model: ModuleType) -> None:
    store = "STG.E.EF.128 desc[UR4][R2.64], R4"
    text = SASS.replace("STG.E.128 desc[UR4][R2.64], R4", "NOP")
    assert model.hot_loop(text.format(first=store, second="NOP")).instructions == 2
    assert model.hot_loop(text.format(first="NOP", second=store)).instructions == 5
    whole = model.hot_loop(SASS.format(first=store, second="NOP"))
    assert (whole.instructions, whole.outside, whole.tensor) == (8, 0, 0)


def test_wide_products_are_shared_by_four_warps(model: ModuleType) -> None:
    assert model.throughput("HGMMA.64x64x8.F32.TF32") == (495e12, 2 * 64 * 64 * 8 / 4)
    assert model.throughput("HMMA.16816.F32.BF16") == (0.62 * 989e12, 2 * 16 * 8 * 16)
    with pytest.raises(SystemExit, match="IMMA"):
        model.throughput("IMMA.16832.S8.S8")


def test_times_by_hand(model: ModuleType) -> None:
    """1 GB read and written, 8 warps a scheduler: the longest term, and an eighth of the others."""
    facts = dataclasses.replace(model.Facts(*[0] * 10), warps=32)
    stage = model.Stage("k", starts=1e6, trips=2e6, bytes=1e9, traffic=2e9)
    row = model.Row("op", "w", "cuda", (stage,), 1e9)
    loop = model.Loop(instructions=100, outside=50, tensor=0, rate=1.0, operations=0)
    found = model.predicted(row, {"k": loop}, {"k": facts})
    memory, cache, issue = 1e3 / 3.015, 2e3 / 5.5, 250e6 / (132 * 4 * 1.755e9) * 1e6
    assert found.bound == "cache"
    assert found.limit == pytest.approx(memory)
    assert found.time == pytest.approx(cache + (memory + issue) / 8)
    whole = model.Loop(instructions=150, outside=0, tensor=0, rate=1.0, operations=0)
    again = model.predicted(row, {"k": whole}, {"k": facts})
    assert again.time < found.time  # once through the kernel, whatever `trips` says


@pytest.fixture
def found(model: ModuleType) -> dict[str, dict[str, dict[str, float]]]:
    kept: dict[str, dict[str, dict[str, float]]] = json.loads(model.SHARES.read_text())
    return kept


class TestCommittedTable:
    def test_the_document_has_it(self, model: ModuleType, found: dict[str, object]) -> None:
        assert model.table(found) in model.DOCUMENT.read_text(encoding="utf-8")

    def test_no_kernel_beats_its_limit(self, found: dict[str, dict[str, dict[str, float]]]) -> None:
        entries = [entry for backends in found.values() for entry in backends.values()]
        assert len(entries) == 19
        for entry in entries:
            assert 0 < entry["share"] <= 1
            assert entry["share"] == pytest.approx(entry["limit_us"] / entry["time_us"], abs=0.01)

    def test_it_decides_which_backend_comes_first(
        self, model: ModuleType, found: dict[str, dict[str, dict[str, float]]]
    ) -> None:
        assert model.triton_first(found) == dispatch.TRITON_FIRST


def test_triton_comes_first_where_the_table_says_so(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = {"time_us": 2.0}, {"time_us": 1.0}
    table = {"gram fp32": {"cuda": slow, "triton": fast}, "mosaic": {"cuda": fast, "triton": slow}}
    assert model.triton_first(table) == {"gram"}
    monkeypatch.setattr(dispatch, "unavailable", lambda *call: None)
    place = Place(torch.device("cuda"), torch.float32)
    assert select("gram", place) == "cuda"
    monkeypatch.setattr(dispatch, "TRITON_FIRST", frozenset({"gram"}))
    assert select("gram", place) == "triton"
    assert select("mosaic", place) == "cuda"
