"""The C++ backend: what tests/test_composite.py, which runs it too, does not ask of every one."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import fastbg
from fastbg.backends import tensor_view
from fastbg.backends.cpu import composite as cpu_composite
from fastbg.backends.cpu import native, unavailable
from fastbg.backends.torch_reference import composite as reference

REASON = unavailable(torch.device("cpu"))
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"backend cpu: {REASON}")

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sources(dtype: torch.dtype, count: int = 4, height: int = 40, width: int = 56) -> torch.Tensor:
    """(2 * count,3,H,W) random images; the second half is for b."""
    rng = np.random.default_rng(7)
    levels = torch.from_numpy(rng.integers(0, 256, (2 * count, 3, height, width), dtype=np.uint8))
    return levels if dtype == torch.uint8 else (levels / 255).to(dtype)


def every_result(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Results of all operators on one workload: shared boxes, few boxes, a box per pair."""
    a, b = sources(dtype).chunk(2)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    shared, other = torch.tensor([9, 10, 27, 31]), torch.tensor([3, 5, 38, 50])
    few = shared + torch.arange(16)[:, None] % 2
    many = shared + torch.arange(16)[:, None] % 9
    results = {}
    for index, inner in enumerate((shared, few, many)):
        boxes = (a, b, pairs, inner, other)
        results[f"copy {index}"] = fastbg.composite(*boxes, backend="cpu")
        results[f"lr {index}"] = fastbg.composite_lr(*boxes, backend="cpu")
        results[f"quantized {index}"] = fastbg.composite_lr(*boxes, quantize=True, backend="cpu")
    if dtype != torch.uint8:
        cells = torch.arange(36).reshape(4, 3, 3) % 8
        results["copy mosaic"] = fastbg.mosaic(a[..., :40], cells, backend="cpu")
    return results


def digest(results: dict[str, torch.Tensor]) -> str:
    """Of the bytes of all results."""
    state = hashlib.sha256()
    for result in results.values():
        state.update(result.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("threads")
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    digests = set()
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        digests.add(digest(every_result(dtype)))
    assert len(digests) == 1


@pytest.mark.usefixtures("threads")
def test_large_outputs_are_right_with_any_number_of_threads() -> None:
    """Those that are written past the caches, from sources whose rows end inside a cache line."""
    a, b = sources(torch.float32, 16, 36, 60)[..., 3:].chunk(2)
    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16)).repeat(2, 1)
    inner = (3, 11, 30, 41)
    expected = reference.composite(a, b, pairs, torch.tensor(inner), torch.tensor([0, 0, 36, 57]))
    assert expected.nbytes > 4 << 20
    for count in (1, 2):
        torch.set_num_threads(count)
        assert torch.equal(fastbg.composite(a, b, pairs, inner, backend="cpu"), expected)


VARIANT_PROGRAM = """
import sys, torch
sys.path.insert(0, {folder!r})
from test_cpu_backend import DTYPES, every_result
from fastbg.backends.cpu import native
torch.save({{str(dtype): every_result(dtype) for dtype in DTYPES}}, sys.argv[1])
print(native().isa())
"""


def run_variant(isa: str, file: Path) -> subprocess.CompletedProcess[str]:
    """All results of one instruction-set variant, computed by a process of its own."""
    program = VARIANT_PROGRAM.format(folder=str(Path(__file__).parent))
    return subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        env=os.environ | {"FASTBG_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_set_variants_agree(isa: str, tmp_path: Path) -> None:
    """To rounding, as only some have fused multiply-add; copies are equal."""
    done = run_variant(isa, tmp_path / "results.pt")
    if f"FASTBG_CPU_ISA: this machine or build has no {isa}" in done.stderr:
        pytest.skip(f"this machine or build has no {isa}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa
    stored = torch.load(tmp_path / "results.pt")
    for dtype in DTYPES:
        for label, expected in every_result(dtype).items():
            got = stored[str(dtype)][label]
            step = {torch.float16: 2**-10, torch.bfloat16: 2**-7}.get(got.dtype, 1e-6)
            # A grey level may fall on the other side of a rounding boundary.
            atol = {"copy": 0.0, "lr": step, "quantized": 1 / 255 + step}[label.split()[0]]
            torch.testing.assert_close(got, expected, rtol=0, atol=atol)
            if label.startswith("quantized"):
                assert (got != expected).float().mean() < 0.01


def test_an_unknown_instruction_set_is_refused(tmp_path: Path) -> None:
    done = run_variant("sse9", tmp_path / "results.pt")
    assert done.returncode != 0
    assert "FASTBG_CPU_ISA: got sse9; expected baseline, avx2 or avx512" in done.stderr


def test_all_grey_levels_are_divided_as_torch_divides() -> None:
    a = LEVELS.reshape(1, 1, 16, 16)
    out = fastbg.composite(a, a, [[0, 0]], (0, 0, 3, 5), backend="cpu")
    assert torch.equal(out, a.float() / 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_16_bit_floats_are_read_and_written_as_torch_does(dtype: torch.dtype) -> None:
    """Scale 1 copies through float32: every value comes back, subnormals and infinity too."""
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).reshape(1, 1, 256, 256)
    got = fastbg.composite_lr(values, values, [[0, 0]], (0, 0, 9, 9), scale=1, backend="cpu")
    missing = values.isnan()
    assert torch.equal(got[~missing], values[~missing])
    assert got[missing].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_are_rounded_to_16_bits_as_torch_rounds(dtype: torch.dtype) -> None:
    """From subnormal to overflowing halves."""
    a = (torch.randn(2, 3, 64, 64) * torch.logspace(-8, 5, 64)).to(dtype)
    a = a.nan_to_num(posinf=6e4, neginf=-6e4)
    inner = (8, 8, 40, 40)
    exact = fastbg.composite_lr(a.float(), a.float(), [[0, 1]], inner, backend="cpu")
    got = fastbg.composite_lr(a, a, [[0, 1]], inner, backend="cpu")
    assert torch.equal(got, exact.to(dtype))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("kernel", ["matlab", "pil"])
def test_shared_and_own_boxes_agree(scale: int, kernel: str) -> None:
    """One box for all (parts are added) and one box each (sources are patched)."""
    a, b = sources(torch.float32, 3, 120, 240).chunk(2)
    rng = np.random.default_rng(scale)
    pairs = torch.from_numpy(rng.integers(0, 3, (9, 2)))
    corners = np.sort(rng.integers(0, 121, (9, 2, 2, 2)), axis=-1)  # [pair, box, axis, end]
    inner, outer = torch.from_numpy(corners.transpose(1, 0, 3, 2).reshape(2, 9, 4))
    options = {"scale": scale, "kernel": kernel, "backend": "cpu"}
    own = fastbg.composite_lr(a, b, pairs, inner, outer, **options)
    for n in range(9):
        alone = fastbg.composite_lr(a, b, pairs[n : n + 1], inner[n], outer[n], **options)
        torch.testing.assert_close(own[n : n + 1], alone, rtol=0, atol=1e-6)


def test_unmixed_pixels_are_the_sources_own() -> None:
    """With a box per pair, pixels whose support lies in one source are its LR image's, exactly."""
    a, b = sources(torch.float32, 2, 128, 128).chunk(2)
    nothing = (0, 0, 0, 0)
    whole_a = fastbg.composite_lr(a, b, [[0, 0]], nothing, nothing, backend="cpu")
    whole_b = fastbg.composite_lr(a, b, [[0, 0]], nothing, backend="cpu")
    boxes = torch.tensor([32, 32, 96, 96]) + torch.arange(32)[:, None] % 7
    got = fastbg.composite_lr(a, b, torch.zeros(32, 2, dtype=torch.int), boxes, backend="cpu")
    assert torch.equal(got[:, :, 13:19, 13:19], whole_a[..., 13:19, 13:19].expand(32, -1, -1, -1))
    assert torch.equal(got[:, :, :5], whole_b[:, :, :5].expand(32, -1, -1, -1))


def test_sources_beyond_2_to_the_31_elements() -> None:
    """Addresses are 64 bit: the image that is read begins behind 2^31 elements (untouched)."""
    count = 2**31 // (64 * 64) + 2
    a = torch.empty((count, 1, 64, 64), dtype=torch.uint8)
    a[-1] = LEVELS.repeat(16).reshape(1, 64, 64)
    pairs, inner = [[count - 1, count - 1]], (10, 10, 30, 30)
    last = a[-1:].clone()
    for operator in (fastbg.composite, fastbg.composite_lr):
        got = operator(a, a, pairs, inner, backend="cpu")
        assert torch.equal(got, operator(last, last, [[0, 0]], inner, backend="cpu"))


def test_outputs_beyond_2_to_the_31_elements() -> None:
    """The second image begins behind 2^31 elements of memory that is otherwise left untouched."""
    buffer = torch.empty(2**31 + 2**12, dtype=torch.float16)
    out = buffer.as_strided((2, 1, 64, 64), (2**31, 64 * 64, 64, 1))
    a, b = torch.rand(2, 2, 1, 64, 64).half()
    pairs = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    inner = torch.tensor([10, 10, 30, 30], dtype=torch.int32)
    outer = torch.tensor([0, 0, 64, 64], dtype=torch.int32)
    native().composite(*map(tensor_view.view, (a, b, pairs, inner, outer, out)), 2)
    assert torch.equal(out, reference.composite(a, b, pairs, inner, outer))


def test_out_of_range_values_are_refused_inside_of_a_graph() -> None:
    """fastbg.ops cannot look at values there, so the operators' own checks must stop them."""
    a, box = torch.rand(2, 3, 8, 8), torch.tensor([2, 2, 6, 6], dtype=torch.int32)
    pairs = torch.tensor([[0, 2]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"pairs\[:, 1\]: got 2; expected 0 <= index < 2"):
        torch.ops.fastbg.composite(a, a, pairs, box, box, "cpu")
    with pytest.raises(ValueError, match=r"pairs\[:, 0\]: got -1"):
        torch.ops.fastbg.composite_lr(a, a, pairs - 1, box, box, 4, "matlab", False, "cpu")
    cells = torch.full((2, 1, 1), 8, dtype=torch.int32)
    with pytest.raises(ValueError, match="cells: got 8; expected codes 0 to 7"):
        torch.ops.fastbg.mosaic(a, cells, "cpu")


def test_boxes_are_cut_to_the_image() -> None:
    a, b = sources(torch.float32).chunk(2)
    pairs = torch.tensor([[0, 1]], dtype=torch.int32)
    inner = torch.tensor([-5, 20, 30, 900], dtype=torch.int32)
    outer = torch.tensor([-9, -9, 35, 70], dtype=torch.int32)
    for name, options in (("composite", ()), ("composite_lr", (4, "matlab", False))):
        got, expected = (
            getattr(backend, name)(a, b, pairs, inner, outer, *options)
            for backend in (cpu_composite, reference)
        )
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
def test_empty_images(shape: tuple[int, int, int, int]) -> None:
    a = torch.rand(shape)
    pairs = torch.zeros((0 if shape[0] == 0 else 3, 2), dtype=torch.int64)
    box = (0, 0, min(shape[2], 1), min(shape[3], 1))
    out = fastbg.composite(a, a, pairs, box, backend="cpu")
    assert out.shape == (len(pairs), *shape[1:])
    small = fastbg.composite_lr(a, a, pairs, box, backend="cpu")
    assert small.shape == (len(pairs), shape[1], shape[2] // 4, shape[3] // 4)


def test_one_openmp_runtime() -> None:
    """Two would each start their own threads, and can deadlock."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the list of loaded libraries is read from /proc, which this system lacks")
    native()
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    assert len(loaded) <= 1


def test_a_forked_child_computes_the_same() -> None:
    """It has none of its parent's OpenMP threads; waiting for them would never end."""
    script = """
import os, signal, torch, fastbg
torch.set_num_threads(2)
x, w = torch.rand(2, 16, 32, 32), torch.rand(16, 16, 3, 3)
before = fastbg.conv3x3(x, w, backend="cpu"), fastbg.gram(x, backend="cpu")
child = os.fork()
if child == 0:
    signal.alarm(60)
    after = fastbg.conv3x3(x, w, backend="cpu"), fastbg.gram(x, backend="cpu")
    os._exit(0 if all(map(torch.equal, before, after)) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    child = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        timeout=120,
    )
    assert child.returncode == 0
