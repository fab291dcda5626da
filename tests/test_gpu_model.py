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


def spans(model: ModuleType, text: str, work: str) -> list[int]:
    """Instructions of the loop that does `work`, of those around it, and of the kernel."""
    return [last - first + 1 for first, last in model.read_code(text).chain(work)]


def test_the_loop_with_the_tensor_work_is_hot(model: ModuleType) -> None:
    product = "HMMA.1688.F32.TF32 R4, R8, R10, R4"
    text = SASS.format(first=product, second="NOP")
    assert spans(model, text, "tensor") == [2, 5, 8]
    (opcode,) = model.read_code(text).tensor
    assert model.throughput(opcode) == (0.62 * 495e12, 2 * 16 * 8 * 8)
    both = SASS.format(first=product, second=product)
    assert spans(model, both, "tensor") == [5, 8]
    assert len(model.read_code(both).tensor) == 2


def test_or_the_loop_with_the_wide_stores_else_everything(model: ModuleType) -> None:
    store = "STG.E.EF.128 desc[UR4][R2.64], R4"
    text = SASS.replace("STG.E.128 desc[UR4][R2.64], R4", "NOP")
    assert spans(model, text.format(first=store, second="NOP"), "stores") == [2, 5, 8]
    assert spans(model, text.format(first="NOP", second=store), "stores") == [5, 8]
    assert spans(model, SASS.format(first="NOP", second="NOP"), "stores") == [8]
    more = "STG.E.128 desc[UR4][R2.64], R4 ;\n        /*0048*/    " + store
    assert spans(model, text.format(first=store, second=more), "stores") == [6, 9]
    assert spans(model, text.format(first=store, second=more), "fewest stores") == [2, 6, 9]
    code = model.read_code(SASS.format(first="NOP", second="NOP"))
    assert code.tensor == ()


def test_loops_of_taps_and_of_single_pixels_are_told_apart(model: ModuleType) -> None:
    tap = "FFMA R4, R5, R6, R4"
    assert spans(model, SASS.format(first=tap, second=tap), "global taps") == [2, 5, 8]
    assert spans(model, SASS.format(first=tap, second="LDS R5, [R1]"), "global taps") == [2, 5, 8]
    shared = SASS.replace("{first} ;", "{first} ;\n        /*0028*/      LDS R5, [R1] ;")
    assert spans(model, shared.format(first=tap, second="NOP"), "global taps") == [9]
    pixel = SASS.format(first="NOP", second="STG.E desc[UR4][R2.64], R4")
    assert spans(model, pixel, "pixels") == [5, 8]


@pytest.mark.parametrize(
    ("work", "opcodes"),
    [
        ("staged columns", ("LDG.E", "STS")),
        ("found lines", ("LDG.E", "LDS.64", "STS.64")),
        ("summed lines", ("LDG.E", "LDS.128", "FFMA", "STS")),
        ("summed columns", ("LDS.128", "FFMA", "STG.E")),
    ],
)
def test_loops_of_tiles_are_told_apart(
    model: ModuleType, work: str, opcodes: tuple[str, ...]
) -> None:
    lines = ["NOP", *opcodes, "@P0 BRA 0x10", "@P1 BRA 0x0", "EXIT"]
    text = "\n".join(f"        /*{16 * i:04x}*/   {line} ;" for i, line in enumerate(lines))
    size = len(opcodes)
    assert spans(model, text, work) == [size + 1, size + 3, size + 4]
    others = {"staged columns", "found lines", "summed lines", "summed columns"} - {work}
    assert {len(spans(model, text, other)) for other in others} == {1}  # just the kernel


def test_ways_back_from_behind_the_exit_are_no_loops(model: ModuleType) -> None:
    """Where a compiler puts what is rare: the slow part of __syncwarp, for one."""
    lines = ["NOP", "LDG.E.128", "STG.E.128", "EXIT", "WARPSYNC", "BRA 0x10"]
    text = "\n".join(f"        /*{16 * i:04x}*/   {line} ;" for i, line in enumerate(lines))
    assert model.read_code(text).loops == ()


def test_instructions_are_counted_by_hand(model: ModuleType) -> None:
    """A loop of 2 in a loop of 5 in a kernel of 8: 3 instructions belong to each alone."""
    product = "HMMA.1688.F32.TF32 R4, R8, R10, R4"
    code = model.read_code(SASS.format(first=product, second="NOP"))
    assert code.issued(10, ()) == 80
    assert code.issued(10, (model.Nest("tensor", (100,)),)) == 2 * 100 + 6 * 10
    assert code.issued(10, (model.Nest("tensor", (100, 20)),)) == 2 * 100 + 3 * 20 + 3 * 10
    assert code.issued(10, (model.Nest("stores", (100, 20)),)) == 80  # no loop has stores
    taps = model.read_code(SASS.format(first="FFMA R4, R5, R6, R4", second="NOP"))
    assert taps.issued(10, (model.Nest("global taps", (100, 20)),)) == 2 * 100 + 3 * 20 + 3 * 10


@pytest.mark.parametrize(
    ("loop", "ahead"),
    [
        ("wait 0, product, start", 0),
        ("wait 1, product, start", 1),
        ("wait 1, start, product", 2),
        ("start, wait 2, product", 2),  # what it starts is among those that the wait leaves
        ("start, product, wait 0", 1),
    ],
)
def test_copies_under_way_are_counted(model: ModuleType, loop: str, ahead: int) -> None:
    opcodes = {"wait": "DEPBAR.LE SB0, 0x{}", "start": "LDGDEPBAR",
               "product": "HMMA.1688.F32.TF32 R4, R8, R10, R4"}  # fmt: skip
    steps = [step.split() for step in loop.split(", ")]
    lines = [*(opcodes[name].format(*count) for name, *count in steps), "@P0 BRA 0x0", "EXIT"]
    text = "\n".join(f"        /*{16 * i:04x}*/   {line} ;" for i, line in enumerate(lines))
    assert model.read_code(text).ahead == ahead


def test_a_hot_loop_is_told_by_its_products_and_its_bytes(model: ModuleType) -> None:
    product = "HMMA.1688.F32.TF32 R4, R8, R10, R4"
    code = model.read_code(SASS.format(first=product, second="NOP"))
    assert code.tensor_share == 1 / 2  # a product and a branch
    assert code.per_16_bytes == 5  # of the loop around them, which loads 16 bytes
    both = model.read_code(SASS.format(first=product, second=product))
    assert (both.tensor_share, both.per_16_bytes) == (2 / 5, 5)
    load = model.read_code(SASS.format(first="LDG.E.U16 R4, [R2]", second="STG.E.64 [R2], R4"))
    assert (load.tensor_share, load.per_16_bytes) == (0, round(16 * 5 / (16 + 2 + 8), 1))
    copy = model.read_code(SASS.format(first="LDGSTS.E.BYPASS.128 [R1], [R2]", second="NOP"))
    assert copy.per_16_bytes == 16 * 5 / 32
    assert model.read_code("        /*0000*/   EXIT ;").per_16_bytes == 0


def test_wide_products_are_shared_by_four_warps(model: ModuleType) -> None:
    assert model.throughput("HGMMA.64x64x8.F32.TF32") == (495e12, 2 * 64 * 64 * 8 / 4)
    assert model.throughput("HMMA.16816.F32.BF16") == (0.62 * 989e12, 2 * 16 * 8 * 16)
    with pytest.raises(SystemExit, match="IMMA"):
        model.throughput("IMMA.16832.S8.S8")


def test_times_by_hand(model: ModuleType) -> None:
    """1 GB read and written, 8 warps a scheduler: the longest term, and an eighth of the others."""
    facts = model.Facts(*[0] * len(dataclasses.fields(model.Facts)))
    facts = dataclasses.replace(facts, warps=32)
    nests = (model.Nest("stores", (2e6,)),)
    stage = model.Stage("k", starts=1e6, nests=nests, bytes=1e9, traffic=2e9)
    row = model.Row("op", "w", "cuda", (stage,), 1e9)
    code = model.Code(("NOP",) * 50 + ("STG.E.128",) * 100, ((50, 149),), 0.0)
    found = model.predicted(row, {"k": code}, {"k": facts})
    memory, cache, issue = 1e3 / 3.015, 2e3 / 5.5, 250e6 / (132 * 4 * 1.755e9) * 1e6
    assert found.bound == "cache"
    assert found.limit == pytest.approx(memory)
    assert found.time == pytest.approx(cache + (memory + issue) / 8)
    ahead = model.predicted(row, {"k": dataclasses.replace(code, ahead=1.0)}, {"k": facts})
    assert ahead.time == pytest.approx(cache + (memory + issue) / 16)
    whole = dataclasses.replace(code, loops=())
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
        assert len(entries) == 46
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
    monkeypatch.setattr(dispatch, "TRITON_FIRST", frozenset())
    assert select("gram", place) == "cuda"
    monkeypatch.setattr(dispatch, "TRITON_FIRST", frozenset({"gram"}))
    assert select("gram", place) == "triton"
    assert select("mosaic", place) == "cuda"
