"""What the compilers made of the GPU kernels, read from their machine code: no GPU is needed.

    python bench/gpu_static.py                 table of every kernel
    python bench/gpu_static.py --check         the same; fails on a spill or against the budget
    python bench/gpu_static.py --update        makes this the budget (bench/baselines/)

Triton kernels: those of `fastbg.kernels.workloads`, the launches of the paper's workload. CUDA
kernels: every instance in csrc/cuda/*.cu, where nvcc is found. A new operator family needs nothing
here. Nothing is timed: `limit` is the time below which no GPU of that kind could stay. What CUDA
launchers add as dynamic shared memory is not known here, so that their `warps` leave it out.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench.gpu_code import count, read_code

ROOT = Path(__file__).parents[1]

BASELINES = ROOT / "bench" / "baselines"
RESERVED = 1024  # bytes of each block's shared memory that CUDA keeps to itself
CUDA_DTYPES = {"float": "fp32", "__half": "fp16", "__nv_bfloat16": "bf16", "unsigned char": "u8"}


@dataclass(frozen=True)
class Gpu:
    """Limits of a multiprocessor, and peak rates of the whole GPU, from NVIDIA's data sheets."""

    name: str
    shared: int  # bytes of shared memory per multiprocessor
    bandwidth: float  # bytes/s
    rate: float  # float32 operations/s
    tensor: float  # TF32 operations/s of tensor cores, dense; half types have twice as many
    warps: int = 64
    blocks: int = 32
    registers: int = 65536

    def occupancy(self, registers: int, shared: int, threads: int) -> int:
        """Warps that a multiprocessor holds at once of blocks of `threads`."""
        warps = -(-threads // 32)
        per_warp = -(-max(registers, 1) * 32 // 256) * 256  # allocated by 256 registers
        per_block = shared + RESERVED
        fitting = (
            self.blocks,
            self.warps // warps,
            self.registers // per_warp // warps,
            self.shared // per_block,
        )
        return min(fitting) * warps


GPUS = {
    80: Gpu("A100 SXM 80 GB", 164 * 1024, 2.04e12, 19.5e12, 156e12),
    90: Gpu("H100 SXM", 228 * 1024, 3.35e12, 67e12, 495e12),
    100: Gpu("B200", 228 * 1024, 8.0e12, 75e12, 1.1e15),
    120: Gpu("RTX 5090", 100 * 1024, 1.79e12, 105e12, 105e12, warps=48, blocks=24),
}


@dataclass(frozen=True)
class Facts:
    """One compiled kernel."""

    registers: int  # per thread
    spills: int  # instructions that access local memory
    shared: int  # bytes per block
    warps: int  # per multiprocessor, at most
    wide_loads: int  # global load instructions of 128 bits (or 256)
    loads: int  # all global load instructions
    wide_stores: int
    stores: int
    tensor_ops: int  # HMMA, IMMA, HGMMA, ..
    instructions: int
    copies: int  # from global to shared memory, asynchronous (LDGSTS)
    per_16_bytes: float  # instructions of the hot loop for 16 bytes of global memory
    tensor_share: float  # of the instructions of the hot loop


def tool(name: str) -> str:
    """A disassembler of CUDA's: Triton's wheel brings it, nvcc's toolkit too."""
    import triton

    shipped = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    found = str(shipped) if shipped.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} was found neither in triton's wheel nor on PATH")
    return found


def run(*command: str | Path) -> str:
    """Output of a command, or SystemExit with what it complained of."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(str(c) for c in command)}:\n{done.stderr or done.stdout}")
    return done.stdout


def opcodes_of(sass: str) -> list[str]:
    """Opcodes with their modifiers: `/*0040*/  @!P0 LDG.E.128 R4, ..` gives LDG.E.128."""
    line = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
    return line.findall(sass)


def read_cubin(
    cubin: Path, gpu: Gpu, threads: int | None = None, dynamic: int = 0
) -> dict[str, Facts]:
    """Facts of each kernel in a cubin, by its mangled name.

    `threads` per block (None: the kernels' launch bounds); `dynamic` bytes of shared memory are
    added at launch. cuobjdump counts CUDA's own share as soon as a kernel uses shared memory.
    """
    usage = run(tool("cuobjdump"), "-res-usage", cubin)
    resources = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:\d+ SHARED:(\d+)", usage)
    bounds = launch_bounds(run(tool("cuobjdump"), "-elf", cubin)) if threads is None else {}
    bodies = re.split(r"\bFunction : (\S+)", run(tool("cuobjdump"), "-sass", cubin))
    sass = dict(zip(bodies[1::2], bodies[2::2], strict=True))
    facts = {}
    for name, registers, shared in resources:
        opcodes, code = opcodes_of(sass[name]), read_code(sass[name])
        block = threads or bounds[name]
        static = int(shared) - RESERVED if int(shared) >= RESERVED else int(shared)
        facts[name] = Facts(
            registers=int(registers),
            spills=count(opcodes, r"LDL|STL"),
            shared=static + dynamic,
            warps=gpu.occupancy(int(registers), static + dynamic, block),
            wide_loads=count(opcodes, r"LDG\S*\.(128|256)\b"),
            loads=count(opcodes, r"LDG"),
            wide_stores=count(opcodes, r"STG\S*\.(128|256)\b"),
            stores=count(opcodes, r"STG"),
            tensor_ops=count(opcodes, r"[A-Z]*(MMA)\b"),
            instructions=len(opcodes),
            copies=count(opcodes, "LDGSTS"),
            per_16_bytes=code.per_16_bytes,
            tensor_share=code.tensor_share,
        )
    return facts


def launch_bounds(elf: str) -> dict[str, int]:
    """Threads per block of each kernel in the output of `cuobjdump -elf`."""
    sections = re.split(r"^\.nv\.info\.(\S+)", elf, flags=re.MULTILINE)
    found = {}
    for name, body in zip(sections[1::2], sections[2::2], strict=True):
        threads = re.search(r"EIATTR_MAX_THREADS.*?Value:\s*0x([0-9a-f]+)", body, re.DOTALL)
        if threads:
            found[name] = int(threads[1], 16)
    return found


def triton_version() -> str:
    import triton

    return f"triton {triton.__version__}"


def nvcc_version(nvcc: str) -> str:
    release = re.search(r"release ([\d.]+)", run(nvcc, "--version"))
    return f"nvcc {release[1] if release else 'of an unknown version'}"


def triton_facts(capability: int) -> dict[str, Facts]:
    """Facts of every Triton workload, by its name."""
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise SystemExit("TRITON_INTERPRET is 1: kernels are interpreted, not compiled; unset it")
    from fastbg.kernels.workloads import workloads

    facts = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in workloads().values():
            for work in family:
                cubin = Path(folder) / "kernel.cubin"
                compiled = work.launch.compile(capability)
                cubin.write_bytes(compiled.asm["cubin"])
                threads, dynamic = 32 * work.launch.num_warps, compiled.metadata.shared
                found = read_cubin(cubin, GPUS[capability], threads, dynamic)
                (facts[work.name],) = found.values()
    return facts


def cuda_facts(nvcc: str, capability: int) -> dict[str, Facts]:
    """Facts of every kernel instance in csrc/cuda/*.cu, by its name and template arguments."""
    facts = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
            cubin = Path(folder) / f"{source.stem}.cubin"
            run(*nvcc_command(nvcc, source, capability), "-o", cubin)
            for mangled, found in read_cubin(cubin, GPUS[capability]).items():
                facts[readable(run("c++filt", mangled).strip())] = found
    return facts


def nvcc_command(nvcc: str, source: Path, capability: int) -> list[str]:
    """Compiles a file of csrc/cuda to a cubin, with the flags of csrc/cuda/CMakeLists.txt."""
    csrc = ROOT / "csrc"
    return [
        *(nvcc, "-O3", "-std=c++17", "-cubin", f"-arch=sm_{capability}"),
        *("-I", str(csrc), "-I", str(csrc / "common"), str(source)),
    ]


def readable(demangled: str) -> str:
    """`fastbg::(..)::composite_fwd_kernel<float, 4>(..)` as `composite_fwd_kernel fp32 4`."""
    match = re.search(r"(\w+_kernel)(?:<(.*?)>)?\(", demangled)
    if match is None:
        raise SystemExit(f"{demangled!r} is no kernel's name: expected NAME_kernel<..>(..)")
    arguments = re.sub(r"\(\w+\)", "", match[2] or "").split(", ")
    return " ".join([match[1], *(CUDA_DTYPES.get(a, a) for a in arguments)]).strip()


def works() -> dict[str, tuple[int, int]]:
    """Necessary bytes and operations of the paper's workload, by workload name."""
    from fastbg.kernels.workloads import workloads

    return {w.name: (w.bytes, w.operations) for family in workloads().values() for w in family}


def table(facts: dict[str, Facts], gpu: Gpu) -> str:
    """One line per kernel; `limit` is what its bytes and operations need at the GPU's peak."""
    work = works()
    head = (
        f"{'kernel':<44}regs spill shared warps  LDG(128b)  STG(128b) copies MMA instr "
        "MMA/loop instr/16B    limit"
    )
    lines = [head]
    for name, f in facts.items():
        # A CUDA instance is named KERNEL IN [OUT] VECTOR: the input's dtype tells its workload.
        known = work.get(name) or work.get(" ".join(name.split()[:2]))
        limit = ""
        if known:
            moved, computed = known[0] / gpu.bandwidth, known[1] / rate(name, f, gpu)
            bound = "bytes" if moved >= computed else "operations"
            limit = f"{1e6 * max(moved, computed):7.1f} us, {bound}"
        lines.append(
            f"{name:<44}{f.registers:4} {f.spills:5} {f.shared:6} {f.warps:5} "
            f"{f.loads:4}({f.wide_loads:4}) {f.stores:4}({f.wide_stores:4}) "
            f"{f.copies:6} {f.tensor_ops:3} {f.instructions:5} "
            f"{f.tensor_share:8.0%} {f.per_16_bytes:9.1f} {limit}"
        )
    return "\n".join(lines)


def rate(name: str, facts: Facts, gpu: Gpu) -> float:
    """Operations a second at the peak; on tensor cores a product of float32 takes three of TF32."""
    if not facts.tensor_ops:
        return gpu.rate
    kinds = {*name.split()}
    if kinds & {"bf16", "fp16"}:
        return 2 * gpu.tensor
    return gpu.tensor / 3 if "fp32" in kinds else gpu.tensor


def regressions(facts: dict[str, Facts], budget: dict[str, dict[str, float]]) -> list[str]:
    """Regressions against the budget, in words. Fewer registers and more warps are none."""
    gone = sorted(budget.keys() - facts.keys())
    worse = [f"{name}: in the budget, but no such kernel exists" for name in gone]
    for name, found in facts.items():
        if name not in budget:
            worse.append(f"{name}: not in the budget")
            continue
        allowed = budget[name]
        for key in ("shared", "instructions", "per_16_bytes"):
            if getattr(found, key) > 1.1 * allowed[key]:
                worse.append(f"{name}: {key} {getattr(found, key)}, budget {allowed[key]}")
        least = {"warps": 1.0, "tensor_ops": 1.0, "copies": 1.0, "tensor_share": 0.9}
        for key, part in least.items():
            if getattr(found, key) < part * allowed[key]:
                worse.append(f"{name}: {key} {getattr(found, key)}, budget {allowed[key]}")
        for kind in ("loads", "stores"):
            share = getattr(found, f"wide_{kind}") / max(getattr(found, kind), 1)
            target = allowed[f"wide_{kind}"] / max(allowed[kind], 1)
            if share < 0.9 * target:
                worse.append(f"{name}: {share:.0%} of {kind} have 128 bits, budget {target:.0%}")
    return worse


def spilling(facts: dict[str, Facts]) -> list[str]:
    """Kernels whose registers overflow into memory."""
    return [
        f"{name}: {f.spills} accesses to spilled registers"
        for name, f in facts.items()
        if f.spills > 0
    ]


def check(compiler: str, facts: dict[str, Facts], path: Path) -> list[str]:
    """Spills and regressions; a budget binds only the compiler version that set it."""
    stored = json.loads(path.read_text()) if path.exists() else None
    if stored is None:
        return [*spilling(facts), f"{path.name} is missing; run with --update"]
    if stored["compiler"] != compiler:
        print(f"{path.name} is for {stored['compiler']}, this is {compiler}: spills only")
        return spilling(facts)
    return spilling(facts) + regressions(facts, stored["kernels"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, default=90, choices=GPUS, help="compute capability")
    parser.add_argument("--compiler", choices=("triton", "nvcc"), help="only that one's kernels")
    parser.add_argument("--check", action="store_true", help="exit 1 on a spill or a regression")
    parser.add_argument("--update", action="store_true", help="rewrite the budget")
    options = parser.parse_args(arguments)

    problems: list[str] = []
    for kind in [options.compiler] if options.compiler else ["triton", "nvcc"]:
        if kind == "triton":
            compiler, facts = triton_version(), triton_facts(options.arch)
        else:
            nvcc = shutil.which("nvcc")
            if nvcc is None:
                print("nvcc is not on PATH: the CUDA kernels are left out")
                continue
            compiler, facts = nvcc_version(nvcc), cuda_facts(nvcc, options.arch)
        gpu = GPUS[options.arch]
        print(f"\n{compiler}, sm_{options.arch} ({gpu.name})\n{table(facts, gpu)}")
        path = BASELINES / f"gpu_static_{kind}_sm{options.arch}.json"
        if options.update:
            kernels = {name: asdict(found) for name, found in sorted(facts.items())}
            path.write_text(json.dumps({"compiler": compiler, "kernels": kernels}, indent=1) + "\n")
            problems += spilling(facts)
        elif options.check:
            problems += check(compiler, facts, path)
    print("\n".join(["", *(f"FAIL {problem}" for problem in problems)]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
