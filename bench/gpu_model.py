"""The share of its limit that each GPU kernel of the paper's workload should reach: a model.

    python bench/gpu_model.py                table
    python bench/gpu_model.py --terms        also the terms of each kernel
    python bench/gpu_model.py --update       keeps it in bench/baselines/, writes it to docs/gpu.md

No GPU is needed, and none has confirmed it. From machine code: the instructions of each kernel's
loops, and the tensor-core instructions among them. From the workload: how often warps go through
each loop. Then, for one H100 SXM,

    memory   necessary bytes at 90 % of the data sheet's rate
    cache    all bytes read and written at 5.5 TB/s, about what others measured of its L2
    issue    warp instructions, four a clock and multiprocessor
    tensor   tensor-core operations executed; mma.sync reaches 62 % of the peak that WGMMA reaches
    time     the longest of the four, and what a multiprocessor's warps cannot hide of the others:
             their sum over the warps of a scheduler. A warp counts once more for each step that is
             being copied to shared memory (LDGSTS) while it computes
    limit    the longer of: necessary bytes at 90 %, necessary operations at the peak (float32 as
             three TF32 products)

A loop's branches are all counted, taken or not, so that `issue` is too long rather than too short;
of Triton's mosaics perhaps twice too long. Bytes that L1 holds from one warp to the next are
counted once: those that down-sampling reads, and the plane of b that the warps of a block share
where each pair has a box. Launches, tails and the reduction of splits are left out: a few
microseconds each.
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
from bench.gpu_code import Code, Nest, read_code
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


@dataclass(frozen=True)
class Stage:
    """One kernel of an operator, on the whole workload."""

    kernel: str  # as gpu_static names it
    starts: float  # warps
    nests: tuple[Nest, ...]
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
        trips = PAIRS * pixels / 3 / pack / 32  # of three packs each, 8 of them for a warp
        # The boxes' sides are multiples of 8 pixels, so that no pack is cut.
        nests = Nest("stores", (trips, trips, trips)), Nest("pixels", (0, 0))
        stage = Stage(f"composite_fwd_kernel {cuda}", trips / 8, nests, moved, traffic)
        found.append(Row("composite", name, "cuda", (stage,), moved))
        started = warps(f"composite_fwd_kernel {name}")
        # Three channels: a loop that was unrolled for four is left out.
        nests = Nest("stores", (0,)), Nest("fewest stores", (3 * started,))
        stage = Stage(f"composite_fwd_kernel {name}", started, nests, moved, traffic)
        found.append(Row("composite", name, "triton", (stage,), moved))
    found += down_sampled() + mosaics()
    for name, kind, size in (("fp32", "tf32", 4), ("bf16", "half", 2)):
        moved, products = 150 * 64 * SIZE**2 * size, 150 * 64 * 65 * SIZE**2
        products *= 3 if name == "fp32" else 1
        for backend, kernel, trips in (
            ("cuda", f"gram_partial_kernel {name} false true 64 true", 150 * SIZE**2 / 16),
            ("triton", f"gram_partial_kernel {name}", steps_of(f"gram_partial_kernel {name}")),
        ):
            stage = Stage(kernel, 0, (Nest("tensor", (trips,)),), moved, moved)
            found.append(Row("gram", name, backend, (stage,), moved, products, kind))
    moved, products = 150 * pixels * 4, 3 * 150 * SIZE**2 * 64 * (54 + 65)
    for backend, kernel, trips in (
        ("cuda", "conv_gram_partial_kernel fp32 false", 150 * SIZE**2 / 16),
        ("triton", "conv_gram_partial_kernel fp32", steps_of("conv_gram_partial_kernel fp32")),
    ):
        stage = Stage(kernel, 0, (Nest("tensor", (trips,)),), moved, moved)
        found.append(Row("conv_gram", "fp32", backend, (stage,), moved, products))
    return found + convolutions() + attentions() + window_attentions()


def down_sampled() -> list[Row]:
    """LR composites, with one inner box of 32x32 HR pixels for all pairs or an own one for each:
    12 x 12 of 32 x 32 LR pixels have taps in it, 4 x 4 of those all, and 8 of those 12 rows cut it.
    Each image of a meets all of b.
    """
    from fastbg.kernels.workloads import PAIRS, SIZE

    pixels, sources, side = 3 * SIZE**2, 2 * 150 * 3 * SIZE**2, SIZE // 4
    lr = PAIRS * pixels // 16
    moved = sources * 4 + lr * 4
    read, half, small = 44 / 32 * sources * 4, sources, sources // 4  # bytes; rows of tiles overlap
    lines = (
        300 * 3 * side
    )  # LR rows of all sources: of 32 packs in 3 channels, and 4 columns of a warp

    def reduced(parts: str) -> tuple[Stage, Stage]:
        nests = (Nest("global taps", (lines * 16 * 4, lines / 3)),)
        rows = Stage(f"composite_lr_rows_kernel fp32 4 {parts}", lines / 6, nests, sources * 4,
                     read + half)  # fmt: skip
        nests = (Nest("global taps", (lines / 4 * 16 * 4, lines / 4)),)
        finished = {"true": "false", "false": "true"}[parts]
        return rows, Stage(
            f"composite_lr_columns_kernel fp32 {finished}", lines / 4, nests, 0, half + small
        )

    # 48 of 256 packs read a, all but 16 read b, once for 8 pairs.
    trips, traffic = PAIRS * 8, lr * 4 * (1 + 48 / 256 + 1 / 8)
    total = Stage("composite_lr_sum_kernel fp32 4", trips / 8, (Nest("stores", (trips,)),),
                  lr * 4, traffic)  # fmt: skip
    found = [Row("composite_lr", "fp32 one box", "cuda", (*reduced("true"), total), moved)]
    # A plane of a pair is a warp's, which has 8 of them. It copies in 8 rounds. Its rim is 12 rows
    # of 12 or 14 LR columns, of which 60 or 68 HR columns are needed: 3 tiles, 2 of which sum 28
    # lines of the box's 32 columns, in one round; the other columns are copied, in 1.5 rounds, or
    # 2.5 in the third tile. Then come 2 rounds of 2 x 16 pixels in each.
    planes = 3 * PAIRS
    nests = (
        Nest("stores", (planes * 8, planes, planes, planes)),
        Nest("staged columns", (planes * 5.5, planes * 3)),
        Nest("found lines", (planes * 2, planes * 2)),
        Nest("summed lines", (planes * 2,)),
        Nest("summed columns", (planes * 6,)),
    )
    # A pair reads from a 28 lines in its box, 4 summed rows between them and 16 LR pixels. A
    # block's 256 planes have two or three of b, one after the other: HR pixels, summed rows and LR
    # pixels, 84 KB of L1.
    of_a = 3 * 4 * (28 * 32 + 4 * 32 + 16)
    of_b = (planes / 256 + 450) * 4 * (SIZE**2 + SIZE**2 / 4 + SIZE**2 / 16)
    boxes = Stage("composite_lr_boxes_kernel fp32 fp32 4 4", planes / 8, nests, lr * 4,
                  lr * 4 + PAIRS * of_a + of_b)  # fmt: skip
    found.append(Row("composite_lr", "fp32 boxes", "cuda", (*reduced("false"), boxes), moved))

    def summed(name: str, needed: float, traffic: float) -> Stage:
        started = warps(name)
        return Stage(name, started, (Nest("loads", (16 * started,)),), needed, traffic)

    both = (read + half) / 2
    parts = [summed(f"composite_lr_rows_kernel fp32 of {s}", sources * 2, both) for s in "ab"]
    whole = summed("composite_lr_rows_kernel fp32 of all", sources * 2, both)
    ends = [summed("composite_lr_columns_kernel fp32", 0, (half + small) / 2)] * 2
    started = warps("composite_lr_sum_kernel fp32")
    total = Stage("composite_lr_sum_kernel fp32", started, (), lr * 4, 3 * lr * 4)
    found.append(Row("composite_lr", "fp32 one box", "triton", (*parts, *ends, total), moved))
    # 24 of a pair's 48 tiles of 4 x 16 pixels hold some of the rim: 28 HR rows of 32 columns each.
    started = warps("composite_lr_mixed_kernel fp32")
    traffic = 2 * lr * 4 + PAIRS * 24 * 28 * 32 * 4
    boxes = Stage("composite_lr_mixed_kernel fp32", started, (Nest("loads", (16 * started / 2,)),),
                  lr * 4, traffic)  # fmt: skip
    found.append(Row("composite_lr", "fp32 boxes", "triton", (whole, whole, *ends, boxes), moved))
    return found


def mosaics() -> list[Row]:
    """Mosaics of 5 x 5 of each of 200 LR regions of 16x16."""
    work = triton_workload("mosaic_fwd_kernel fp32")
    out = 200 * 3 * 80 * 80 * 4
    started = 200 * 80 * 80 / 4 / 32  # of a pack in three channels each
    of_packs = (Nest("stores", (3 * started, started)),)
    stage = Stage("mosaic_fwd_kernel fp32 4", started, of_packs, work.bytes, 2 * out)
    found = [Row("mosaic", "fp32", "cuda", (stage,), work.bytes)]
    started = warps(work.name)
    nests = Nest("stores", (0,)), Nest("fewest stores", (3 * started,))
    stage = Stage(work.name, started, nests, work.bytes, 2 * out)
    return [*found, Row("mosaic", "fp32", "triton", (stage,), work.bytes)]


def convolutions() -> list[Row]:
    """Layers of EDSR, on 100 LR images of 32x32: one by one, and in a stack."""
    found = []
    for op, name, products, kind, kernel in (
        ("conv3x3", "fp32", 3, "tf32", "conv3x3_kernel fp32 true true 64"),
        ("conv3x3", "fp32 gradient", 3, "tf32", "conv3x3_kernel fp32 true true 64"),
        ("conv3x3", "tf32", 1, "tf32", "conv3x3_kernel fp32 false true 64"),
        ("conv3x3", "fp32 as bf16", 1, "half", "conv3x3_kernel fp32 false true 64"),  # in TF32
        ("conv3x3", "bf16", 1, "half", "conv3x3_kernel bf16 false true 64"),
        ("conv_stack", "fp32", 3, "tf32", "stack_layer_kernel true true 64"),
        ("conv_stack", "fp32 gradient", 3, "tf32", "stack_layer_kernel true true 64"),
        ("conv_stack", "tf32", 1, "tf32", "stack_layer_kernel false true 64"),
        ("conv_stack", "fp32 as bf16", 1, "half", "stack_layer_kernel false true 64"),
    ):
        work = triton_workload(f"conv3x3_fwd_kernel {name}")
        launch, needed = work.launch, products * work.operations
        steps = launch.arguments["padded_inputs"] // launch.constants["BLOCK_K"]
        started = launch.programs * launch.num_warps
        # Each program reads its pixels once for each tap, and all of the weight.
        maps, weight = launch.arguments["x_ptr"], launch.arguments["weight_ptr"]
        traffic = work.bytes + 8 * maps.nbytes + launch.programs * weight.nbytes
        nests = (Nest("tensor", (9 * steps * started,)),)
        stage = Stage(work.name, started, nests, work.bytes, traffic)
        found.append(Row(op, name, "triton", (stage,), work.bytes, needed, kind))
        # CUDA: blocks of 8 x 16 pixels, read with a border of one, and all of the weight, which is
        # not split. In three rows of taps for each chunk of 64 bytes of channels.
        batch, channels, height, width = maps.shape
        blocks = batch * (height // 8) * (width // 16)
        chunks = 8 * blocks * channels * maps.element_size() // 64
        border = maps.nbytes * (10 * 18 / (8 * 16) - 1)
        traffic = work.bytes + border + blocks * 9 * channels**2 * maps.element_size()
        nests = (Nest("tensor", (3 * chunks, chunks)),)
        stage = Stage(kernel, 8 * blocks, nests, work.bytes, traffic)
        found.append(Row(op, name, "cuda", (stage,), work.bytes, needed, kind))
    return found


def attentions() -> list[Row]:
    """RCAN's attention in a stack, and its gradient, on 100 LR images of 32x32 with 64 channels."""
    kernels = ("attention_fwd_kernel", "attention_dot_kernel", "attention_bwd_kernel")
    works = [triton_workload(f"{kernel} fp32") for kernel in kernels]
    stages = [Stage(w.name, warps(w.name), (), w.bytes, w.bytes) for w in works]
    # CUDA: a block has 64 pixels, in four packs a thread, two a trip; of products with the gradient
    # 256 pixels, four threads a channel, four pixels a trip. Its small sums are counted once, as
    # Triton's are.
    images, pixels = 100, 32 * 32
    started, dots = 8 * images * pixels / 64, 8 * images * pixels / 256
    streamed, added = Nest("stores", (2 * started, started)), Nest("loads", (16 * dots, dots))
    own = [
        Stage(name, count, (nest,), work.bytes, work.bytes)
        for name, count, nest, work in zip(
            ("attention_forward_kernel 4", "attention_dot_kernel", "attention_backward_kernel 4"),
            (started, dots, started),
            (streamed, added, streamed),
            works,
            strict=True,
        )
    ]
    found = []
    for name, part in (("attention", slice(1)), ("attention gradient", slice(1, 3))):
        moved = sum(work.bytes for work in works[part])
        found.append(Row("conv_stack", name, "triton", tuple(stages[part]), moved))
        found.append(Row("conv_stack", name, "cuda", tuple(own[part]), moved))
    return found


def window_attentions() -> list[Row]:
    """SwinIR's attention in shifted windows, and its gradient, on 100 LR images of 32x32: of the
    shipped network, also in TF32, and of the lightweight one, whose heads have 10 channels.

    The gradient reads queries, keys and its own input again, which may still be in L1 or not.
    """
    found = []
    for name, products in (("fp32", 3), ("tf32", 1), ("fp32 lightweight", 3)):
        for gradient in ("", " gradient"):
            kernel = f"window_attention_{'bwd' if gradient else 'fwd'}_kernel {name}"
            work, started = triton_workload(kernel), warps(kernel)
            again = work.launch.arguments["grad_ptr"].nbytes * 3 if gradient else 0
            nests = (Nest("tensor", (started,)),)
            stage = Stage(kernel, started, nests, work.bytes, work.bytes + again)
            needed = products * work.operations
            found.append(
                Row("swin_layers", name + gradient, "triton", (stage,), work.bytes, needed)
            )
    return found


def triton_workload(name: str) -> Any:
    """The Triton workload of that name."""
    from fastbg.kernels.workloads import workloads

    (work,) = (w for family in workloads().values() for w in family if w.name == name)
    return work


def steps_of(name: str) -> float:
    """Steps of all warps of a Gram workload of 150 images."""
    from fastbg.kernels.workloads import SIZE

    launch = triton_workload(name).launch
    return float(launch.num_warps * 150 * SIZE**2 / launch.constants["BLOCK_P"])


def warps(name: str) -> int:
    """Warps that a Triton workload starts."""
    launch = triton_workload(name).launch
    return int(launch.programs * launch.num_warps)


def terms_of(stage: Stage, code: Code) -> dict[str, float]:
    """Seconds that a stage would take for each reason alone."""
    terms = {"memory": stage.bytes / BYTES, "cache": stage.traffic / CACHE}
    terms["issue"] = code.issued(stage.starts, stage.nests) / ISSUES
    if code.tensor:
        rate, operations = throughput(code.tensor[0])
        (trips,) = (nest.trips[0] for nest in stage.nests if nest.work == "tensor")
        terms["tensor"] = trips * len(code.tensor) * operations / rate
    return terms


def predicted(row: Row, codes: dict[str, Code], facts: dict[str, Facts]) -> Share:
    """Limit and time of a row."""
    limit = max(row.bytes / BYTES, row.operations / PEAK[row.kind])
    total, longest = 0.0, ("", 0.0)
    for stage in row.stages:
        terms = terms_of(stage, codes[stage.kernel])
        bound = max(terms, key=lambda name: terms[name])
        hidden = sum(terms.values()) - terms[bound]
        active = facts[stage.kernel].warps * (1 + codes[stage.kernel].ahead) / SCHEDULERS
        time = terms[bound] + hidden / active
        total += time
        longest = max(longest, (bound, time), key=lambda term: term[1])
    return Share(1e6 * limit, 1e6 * total, longest[0])


def shares(codes: dict[str, Code], facts: dict[str, Facts]) -> dict[str, dict[str, dict[str, Any]]]:
    """Operator and workload -> backend -> limit, time, share, bound."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows():
        s = predicted(row, codes, facts)
        entry = {"limit_us": round(s.limit, 1), "time_us": round(s.time, 1)}
        entry |= {"share": round(s.share, 2)}
        found.setdefault(f"{row.op} {row.workload}", {})[row.backend] = entry | {"bound": s.bound}
    return found


def terms_table(codes: dict[str, Code], facts: dict[str, Facts]) -> str:
    """A line for each stage: warps of a multiprocessor, steps ahead, terms in microseconds."""
    lines = []
    for row in rows():
        lines.append(f"{row.op} {row.workload}, {row.backend}")
        for stage in row.stages:
            code = codes[stage.kernel]
            terms = (f"{k} {1e6 * v:.1f}" for k, v in terms_of(stage, code).items())
            active = f"{facts[stage.kernel].warps} warps, {code.ahead:.0f} ahead"
            lines.append(f"    {stage.kernel:<45}{active}: {', '.join(terms)}")
    return "\n".join(lines)


def compiled() -> tuple[dict[str, Facts], dict[str, Code]]:
    """Facts and machine code of every kernel that a row names, by the name that it has there."""
    from fastbg.kernels.workloads import workloads

    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise SystemExit("nvcc is not on PATH")
    wanted = {stage.kernel for row in rows() for stage in row.stages}
    facts: dict[str, Facts] = {}
    codes: dict[str, Code] = {}
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        for family in ("composite", "gram", "conv", "conv_stack", "channel_attention"):
            source = gpu_static.ROOT / "csrc" / "cuda" / f"{family}.cu"
            gpu_static.run(*gpu_static.nvcc_command(nvcc, source, CAPABILITY), "-o", cubin)
            for mangled, found in gpu_static.read_cubin(cubin, gpu_static.GPUS[CAPABILITY]).items():
                name = gpu_static.readable(gpu_static.run("c++filt", mangled).strip())
                if name in wanted:
                    facts[name], codes[name] = found, read_code(disassembly(cubin)[mangled])
        for work in (w for family in workloads().values() for w in family if w.name in wanted):
            binary = work.launch.compile(CAPABILITY)
            cubin.write_bytes(binary.asm["cubin"])
            gpu, threads = gpu_static.GPUS[CAPABILITY], 32 * work.launch.num_warps
            ((mangled, found),) = gpu_static.read_cubin(
                cubin, gpu, threads, binary.metadata.shared
            ).items()
            facts[work.name], codes[work.name] = found, read_code(disassembly(cubin)[mangled])
    return facts, codes


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
    parser.add_argument("--terms", action="store_true", help="also the terms of each kernel")
    options = parser.parse_args()
    facts, codes = compiled()
    found = shares(codes, facts)
    print(table(found))
    if options.terms:
        print(f"\n{terms_table(codes, facts)}")
    if options.update:
        SHARES.write_text(json.dumps(found, indent=1) + "\n")
        DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), table(found)))


if __name__ == "__main__":
    main()
