"""The static budget of the GPU kernels (bench/gpu_static.py), and that it would notice."""

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "gpu_static.py"


@pytest.fixture(scope="module")
def gpu_static() -> ModuleType:
    if not SCRIPT.exists():
        pytest.skip("bench/ is not beside the tests")
    spec = importlib.util.spec_from_file_location("gpu_static", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_static"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("compiler", ["triton", "nvcc"])
def test_no_kernel_spills_or_exceeds_its_budget(gpu_static: ModuleType, compiler: str) -> None:
    if compiler == "nvcc" and shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH")
    if compiler == "nvcc" and not list((ROOT / "csrc" / "cuda").glob("*.cu")):
        pytest.skip("there are no CUDA kernels in this tree")
    if compiler == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check", "--compiler", compiler],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "composite_fwd_kernel fp32" in done.stdout


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spills": 2}, "2 accesses to spilled registers"),
        ({"warps": 32}, "warps 32, budget 48"),
        ({"shared": 4096}, "shared 4096, budget 1024"),
        ({"instructions": 500}, "instructions 500, budget 400"),
        ({"wide_loads": 2}, "20% of loads have 128 bits, budget 40%"),
        ({"wide_stores": 0}, "0% of stores have 128 bits, budget 100%"),
        ({"tensor_ops": 0}, "tensor_ops 0, budget 8"),
        ({"copies": 2}, "copies 2, budget 3"),
        ({"per_16_bytes": 45.0}, "per_16_bytes 45.0, budget 40.0"),
        ({"tensor_share": 0.17}, "tensor_share 0.17, budget 0.2"),
    ],
)
def test_what_gets_worse_is_named(
    gpu_static: ModuleType, change: dict[str, float], complaint: str
) -> None:
    good = gpu_static.Facts(
        registers=40,
        spills=0,
        shared=1024,
        warps=48,
        wide_loads=4,
        loads=10,
        wide_stores=2,
        stores=2,
        tensor_ops=8,
        instructions=400,
        copies=3,
        per_16_bytes=40.0,
        tensor_share=0.2,
    )
    budget = {"k": dataclasses.asdict(good)}
    assert gpu_static.regressions({"k": good}, budget) == []
    assert gpu_static.spilling({"k": good}) == []
    worse = {"k": dataclasses.replace(good, **change)}
    found = gpu_static.regressions(worse, budget) + gpu_static.spilling(worse)
    assert found == [f"k: {complaint}"]


def test_kernels_and_budget_must_be_the_same_set(gpu_static: ModuleType) -> None:
    facts = gpu_static.Facts(*[1] * len(dataclasses.fields(gpu_static.Facts)))
    assert gpu_static.regressions({"new": facts}, {"old": dataclasses.asdict(facts)}) == [
        "old: in the budget, but no such kernel exists",
        "new: not in the budget",
    ]


def test_disassembly_is_read(gpu_static: ModuleType) -> None:
    sass = """
        /*0040*/                   S2R R0, SR_CTAID.X ;   /* 0x0000000000007919 */
        /*0050*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0060*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*0070*/                   STL [R1], R0 ;
        /*0080*/                   HMMA.16816.F32 R4, R8, R10, R4 ;
        /*0090*/                   STG.E.EF.128 desc[UR4][R2.64], R4 ;
    """
    expected = ["S2R", "LDG.E.128", "UIADD3", "STL", "HMMA.16816.F32", "STG.E.EF.128"]
    assert gpu_static.opcodes_of(sass) == expected


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "warps"),
    [
        (32, 0, 128, 64),  # full
        (255, 0, 128, 8),  # registers: 65536 / (256 x 32) warps
        (64, 0, 256, 32),
        (32, 100 * 1024, 128, 8),  # shared memory: two blocks
        (32, 0, 32, 32),  # blocks: 32 of one warp each
    ],
)
def test_occupancy(
    gpu_static: ModuleType, registers: int, shared: int, threads: int, warps: int
) -> None:
    assert gpu_static.GPUS[90].occupancy(registers, shared, threads) == warps


@pytest.mark.parametrize(
    ("name", "tensor_ops", "expected"),
    [
        ("composite_fwd_kernel fp32", 0, 67e12),
        ("conv_gram_partial_kernel fp32", 8, 165e12),
        ("conv3x3_fwd_kernel tf32", 8, 495e12),
        ("gram_partial_kernel bf16 mask", 8, 990e12),
        ("conv3x3_fwd_kernel fp32 as bf16", 8, 990e12),
    ],
)
def test_the_limit_knows_tensor_cores(
    gpu_static: ModuleType, name: str, tensor_ops: int, expected: float
) -> None:
    facts = gpu_static.Facts(*[0] * len(dataclasses.fields(gpu_static.Facts)))
    facts = dataclasses.replace(facts, tensor_ops=tensor_ops)
    assert gpu_static.rate(name, facts, gpu_static.GPUS[90]) == expected


def test_names_of_cuda_instances(gpu_static: ModuleType) -> None:
    name = (
        "void fastbg::(anonymous namespace)::composite_fwd_kernel"
        "<unsigned char, float, 4>(fastbg::CompositeParams)"
    )
    assert gpu_static.readable(name) == "composite_fwd_kernel u8 fp32 4"
    assert gpu_static.readable(name.replace("4>", "(int)4>")) == "composite_fwd_kernel u8 fp32 4"
