"""The share of its limit that each GPU kernel of the paper's workload should reach: a model.

    python bench/gpu_model.py                table
    python bench/gpu_model.py --update       keeps it in bench/baselines/, writes it to docs/gpu.md

No GPU is needed, and none has confirmed it. From machine code: the instructions of each kernel's
hot loop, and the tensor-core instructions among them. From the workload: how often a warp goes
through it. Then, for one H100 SXM,

    memory   necessary bytes at 90 % of the data sheet's rate
    cache    all bytes read and written at 5.5 TB/s, about what others measured of its L2
    issue    warp instructions, four a clock and multiprocessor
    tensor   tensor-core operations executed; mma.sync reaches 62 % of the peak that WGMMA reaches
    time     the longest of the four, and what a multiprocessor's warps cannot hide of the others:
             their sum over the warps of a scheduler
    limit    the longer of: necessary bytes at 90 %, necessary operations at the peak (float32 as
             three TF32 products)

A loop's branches are all counted, taken or not, so that `issue` is too long rather than too short.
Launches, tails and the reduction of splits are left out: a few microseconds each. Kernels whose
work is mostly branches have no row, as their instructions cannot be counted in this way: mosaic,
and composite_lr with a box for each pair. Its down-sampling of sources stands with its bytes only.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench import gpu_static
from bench.gpu_static import Facts

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu.md"
SHARES = gpu_static.BASELINES / "gpu_shares.json"
MARKS = "<!-- predicted shares: bench/gpu_model.py -->", "<!-- end of shares -->"
CAPABILITY = 90
CLEARLY = 1.1  # what Triton must be faster by to come first: it compiles at first use
BYTES = 0.9 * 3.35e12  # a second, of an H100 SXM
CACHE = 5.5e12  # bytes a second, read and written together
ISSUES = 132 * 4 * 1.755e9  # warp instructions a second
PEAK = {"tf32": 495e12, "half": 989e12}  # dense tensor-core operations a second
MMA_SYNC = 0.62  # of the peak
SCHEDULERS = 4
INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.x]*)([^;]*);", re.MULTILINE
)


@dataclass(frozen=True)
class Loop:
    """The part of a kernel that runs again and again, or all of it."""

    instructions: int
    outside: int  # the kernel's other instructions
    tensor: int  # instructions of the loop on tensor cores
    rate: float  # of those, operations a second
    operations: int  # of each of those


@dataclass(frozen=True)
class Stage:
    """One kernel of an operator, on the whole workload."""

    kernel: str  # as gpu_static names it; "": one whose instructions are not counted
    starts: float  # warps
    trips: float  # of all warps through the hot loop
    bytes: float  # of device memory that it cannot avoid
    traffic: float  # bytes that it reads and writes, in L2 too


@dataclass(frozen=True)
class Row:
    """An operator's workload on one backend: kernels that follow one another."""

    op: str
    workload: str
    backend: str
    stages: tuple[Stage, ...]
    bytes: float  # necessary
    operations: float = 0.0  # necessary, on tensor cores
    kind: str = "tf32"  # their type


@dataclass(frozen=True)
class Share:
    """The predicted times, in microseconds."""

    limit: float
    time: float
    bound: str  # memory, cache, issue or tensor

    @property
    def share(self) -> float:
        return self.limit / self.time


def hot_loop(sass: str) -> Loop:
    """Of the loops in a kernel's disassembly, the smallest with most of its tensor-core work, else
    with all of its wide stores; all of the kernel if it has no such loop.
    """
    listing = INSTRUCTION.findall(sass)
    place = {int(address, 16): i for i, (address, _, _) in enumerate(listing)}
    opcodes = [opcode for _, opcode, _ in listing]
    spans = [(0, len(opcodes) - 1)]
    for i, (address, opcode, operands) in enumerate(listing):
        target = re.search(r"0x([0-9a-f]+)", operands) if opcode.startswith("BRA") else None
        if target and int(target[1], 16) < int(address, 16):
            spans.append((place[int(target[1], 16)], i))

    def work(span: tuple[int, int]) -> int:
        inside = opcodes[span[0] : span[1] + 1]
        tensor = gpu_static.count(inside, r"[A-Z]*MMA\b")
        return tensor or gpu_static.count(inside, r"STG\S*\.(64|128|256)\b")

    most = work(spans[0])
    first, last = min(
        (span for span in spans if work(span) == most), key=lambda span: span[1] - span[0]
    )
    inside = opcodes[first : last + 1]
    tensor = [opcode for opcode in inside if re.match(r"[A-Z]*MMA\b", opcode)]
    rate, operations = throughput(tensor[0]) if tensor else (1.0, 0)
    outside = len(opcodes) - len(inside)
    return Loop(len(inside), outside, len(tensor), rate, operations)


def throughput(opcode: str) -> tuple[float, int]:
    """Operations a second, and operations, of HMMA.1688.F32.TF32, HGMMA.64x64x8.F32.TF32 .."""
    peak = PEAK["tf32" if "TF32" in opcode else "half"]
    wide = re.search(r"HGMMA\.(\d+)x(\d+)x(\d+)", opcode)
    if wide:  # of four warps together
        m, n, k = map(int, wide.groups())
        return peak, 2 * m * n * k // 4
    shape = re.search(r"HMMA\.16(8)(\d+)", opcode)
    if shape is None:
        raise SystemExit(f"{opcode}: expected HMMA.168K or HGMMA.MxNxK")
    return MMA_SYNC * peak, 2 * 16 * 8 * int(shape[2])


def rows() -> list[Row]:
    """The paper's workloads: 150 x 150 pairs, Gram matrices of 150 images, all of 128x128, and
    EDSR's layers.
    """
    from fastbg.kernels.workloads import PAIRS, SIZE

    found = []
    pixels, sources = 3 * SIZE**2, 2 * 150 * 3 * SIZE**2
    for name, size, out, cuda, pack in (
        ("fp32", 4, 4, "fp32 fp32 4", 4),
        ("u8", 1, 4, "u8 fp32 4", 4),
        ("bf16", 2, 2, "bf16 bf16 8", 8),
    ):
        moved, traffic = sources * size + PAIRS * pixels * out, PAIRS * pixels * (size + out)
        trips = PAIRS * pixels / 3 / pack / 32  # of three packs each, 4 of them for a warp
        stage = Stage(f"composite_fwd_kernel {cuda}", trips / 4, trips, moved, traffic)
        found.append(Row("composite", name, "cuda", (stage,), moved))
        started = warps(f"composite_fwd_kernel {name}")
        stage = Stage(f"composite_fwd_kernel {name}", started, 3 * started, moved, traffic)
        found.append(Row("composite", name, "triton", (stage,), moved))
    lr = PAIRS * pixels // 16
    moved = sources * 4 + lr * 4
    made = Stage("", 0, 0, sources * 4, sources * 4 + sources // 16 * 4)
    for backend, kernel, started in (
        ("cuda", "composite_lr_sum_kernel fp32 4", lr / 4 / 32),
        ("triton", "composite_lr_sum_kernel fp32", warps("composite_lr_sum_kernel fp32")),
    ):
        stage = Stage(kernel, started, started, lr * 4, 3 * lr * 4)
        found.append(Row("composite_lr", "fp32 one box", backend, (made, stage), moved))
    for name, kind, size in (("fp32", "tf32", 4), ("bf16", "half", 2)):
        moved, products = 150 * 64 * SIZE**2 * size, 150 * 64 * 65 * SIZE**2
        products *= 3 if name == "fp32" else 1
        for backend, kernel, trips in (
            ("cuda", f"gram_partial_kernel {name} false 64 true", 150 * SIZE**2 / 16),
            ("triton", f"gram_partial_kernel {name}", 4 * 150 * SIZE**2 / 32),
        ):
            stage = Stage(kernel, 0, trips, moved, moved)
            found.append(Row("gram", name, backend, (stage,), moved, products, kind))
    moved, products = 150 * pixels * 4, 3 * 150 * SIZE**2 * 64 * (54 + 65)
    for backend, kernel, trips in (
        ("cuda", "conv_gram_partial_kernel fp32 false", 150 * SIZE**2 / 16),
        ("triton", "conv_gram_partial_kernel fp32", 4 * 150 * SIZE**2 / 32),
    ):
        stage = Stage(kernel, 0, trips, moved, moved)
        found.append(Row("conv_gram", "fp32", backend, (stage,), moved, products))
    return found + convolutions()


def convolutions() -> list[Row]:
    """Layers of EDSR, on 100 LR images of 32x32."""
    found = []
    for name, products, kind in (
        ("fp32", 3, "tf32"),
        ("fp32 gradient", 3, "tf32"),
        ("tf32", 1, "tf32"),
        ("fp32 as bf16", 1, "half"),
        ("bf16", 1, "half"),
    ):
        work = triton_workload(f"conv3x3_fwd_kernel {name}")
        launch, needed = work.launch, products * work.operations
        steps = launch.arguments["padded_inputs"] // launch.constants["BLOCK_K"]
        started = launch.programs * launch.num_warps
        # Each program reads its pixels once for each tap, and all of the weight.
        maps, weight = launch.arguments["x_ptr"], launch.arguments["weight_ptr"]
        traffic = work.bytes + 8 * maps.nbytes + launch.programs * weight.nbytes
        stage = Stage(work.name, started, 9 * steps * started, work.bytes, traffic)
        found.append(Row("conv3x3", name, "triton", (stage,), work.bytes, needed, kind))
    return found


def triton_workload(name: str) -> Any:
    """The Triton workload of that name."""
    from fastbg.kernels.workloads import workloads

    (work,) = (w for family in workloads().values() for w in family if w.name == name)
    return work


def warps(name: str) -> int:
    """Warps that a Triton workload starts."""
    launch = triton_workload(name).launch
    return int(launch.programs * launch.num_warps)


def predicted(row: Row, loops: dict[str, Loop], facts: dict[str, Facts]) -> Share:
    """Limit and time of a row."""
    limit = max(row.bytes / BYTES, row.operations / PEAK[row.kind])
    total, longest = 0.0, ("", 0.0)
    for stage in row.stages:
        terms = {"memory": stage.bytes / BYTES, "cache": stage.traffic / CACHE}
        resident = facts[stage.kernel].warps if stage.kernel else 64
        if stage.kernel:
            loop = loops[stage.kernel]
            trips = stage.trips if loop.outside else stage.starts  # no loop: once through it all
            issued = stage.starts * loop.outside + trips * loop.instructions
            terms["issue"] = issued / ISSUES
            terms["tensor"] = stage.trips * loop.tensor * loop.operations / loop.rate
        bound = max(terms, key=lambda name: terms[name])
        hidden = sum(terms.values()) - terms[bound]
        time = terms[bound] + hidden * SCHEDULERS / resident
        total += time
        longest = max(longest, (bound, time), key=lambda term: term[1])
    return Share(1e6 * limit, 1e6 * total, longest[0])


def shares() -> dict[str, dict[str, dict[str, Any]]]:
    """Operator and workload -> backend -> limit, time, share, bound."""
    facts, loops = compiled()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows():
        s = predicted(row, loops, facts)
        entry = {"limit_us": round(s.limit, 1), "time_us": round(s.time, 1)}
        entry |= {"share": round(s.share, 2)}
        found.setdefault(f"{row.op} {row.workload}", {})[row.backend] = entry | {"bound": s.bound}
    return found


def compiled() -> tuple[dict[str, Facts], dict[str, Loop]]:
    """Facts and hot loops of every kernel that a row names, by the name that it has there."""
    from fastbg.kernels.workloads import workloads

    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise SystemExit("nvcc is not on PATH")
    wanted = {stage.kernel for row in rows() for stage in row.stages}
    facts: dict[str, Facts] = {}
    loops: dict[str, Loop] = {}
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        for family in ("composite", "gram"):
            source = gpu_static.ROOT / "csrc" / "cuda" / f"{family}.cu"
            gpu_static.run(*gpu_static.nvcc_command(nvcc, source, CAPABILITY), "-o", cubin)
            for mangled, found in gpu_static.read_cubin(cubin, gpu_static.GPUS[CAPABILITY]).items():
                name = gpu_static.readable(gpu_static.run("c++filt", mangled).strip())
                if name in wanted:
                    facts[name], loops[name] = found, hot_loop(disassembly(cubin)[mangled])
        for work in (w for family in workloads().values() for w in family if w.name in wanted):
            binary = work.launch.compile(CAPABILITY)
            cubin.write_bytes(binary.asm["cubin"])
            gpu, threads = gpu_static.GPUS[CAPABILITY], 32 * work.launch.num_warps
            ((mangled, found),) = gpu_static.read_cubin(
                cubin, gpu, threads, binary.metadata.shared
            ).items()
            facts[work.name], loops[work.name] = found, hot_loop(disassembly(cubin)[mangled])
    return facts, loops


def disassembly(cubin: Path) -> dict[str, str]:
    """Machine code of each kernel, by its mangled name."""
    text = gpu_static.run(gpu_static.tool("cuobjdump"), "-sass", cubin)
    bodies = re.split(r"\bFunction : (\S+)", text)
    return dict(zip(bodies[1::2], bodies[2::2], strict=True))


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown."""
    lines = [
        "| workload | limit, us | CUDA, us | share | bound | Triton, us | share | bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, backends in found.items():
        cells = [name, str(backends["triton"]["limit_us"])]
        for backend in ("cuda", "triton"):
            entry = backends.get(backend)
            if entry is None:
                cells += ["", "", ""]
                continue
            share = f"{entry['share']:.0%}"
            cells += [str(entry["time_us"]), share, str(entry["bound"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(document: str, text: str) -> str:
    """`document` with `text` between the marks."""
    before, _, rest = document.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}"


def triton_first(found: dict[str, dict[str, dict[str, Any]]]) -> set[str]:
    """Operators of both whose workloads together take clearly less time on Triton kernels."""
    total: dict[str, dict[str, float]] = {}
    for name, backends in found.items():
        op = total.setdefault(name.split()[0], {})
        for backend, entry in backends.items():
            op[backend] = op.get(backend, 0.0) + entry["time_us"]
    return {op for op, t in total.items() if "cuda" in t and t["cuda"] > CLEARLY * t["triton"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--update", action="store_true", help="keep it, and write it into docs/gpu.md"
    )
    update = parser.parse_args().update
    found = shares()
    print(table(found))
    if update:
        SHARES.write_text(json.dumps(found, indent=1) + "\n")
        DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), table(found)))


if __name__ == "__main__":
    main()
