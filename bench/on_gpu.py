"""Known answers, times and shares of measured ceilings on one GPU; bench/on_gpu.sh calls it.

    python bench/on_gpu.py backends      every operator's backends; fails where one is missing
    python bench/on_gpu.py smoke         answers against plain PyTorch in float32
    python bench/on_gpu.py time          and times, cold L2, and shares; on_gpu.json, on_gpu.md
    python bench/on_gpu.py once --only composite_fwd      one call of each, for a profiler

`--device cpu --tiny` runs the same lines on a CPU. A share is the time that the necessary bytes and
operations take at the rates measured here, over the time taken. bench/baselines/on_gpu.json, where
there is one, is what earlier times of the same GPU are compared with.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines.composite_torch import good_composite
from fastbg.models.registry import BUILT_IN
from fastbg.models.vgg import conv1_1
from fastbg.registration.dispatch import FAMILIES, Place, unavailable
from fastbg.vocabulary import PRECISIONS

BASELINE = Path(__file__).parent / "baselines" / "on_gpu.json"
NOT_WRITTEN = {  # operators that a GPU backend lacks
    "cuda": ("conv3x3_weight", "ChangeableStack", "swin_layers"),
    "triton": ("conv3x3_weight",),
}
SECONDS = 0.4  # of timing each way
GRAM_BOUND, PATH_BOUND, CONV_BOUND = (
    2e-5,
    1e-4,
    1e-5,
)  # of the largest entry; float32 sums in another order

Ways = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Case:
    """One call: its ways, what it must move and compute, and the reference's answer."""

    name: str
    bytes: int
    ways: Ways
    answer: Callable[[], Tensor]
    bound: float  # of the largest entry
    operations: int = 0  # on tensor cores, in TF32; thrice those of the result in float32
    torch: Ways = field(default_factory=dict)  # the same in plain PyTorch, to be timed only


class Setting:
    """The device and the size of the data."""

    def __init__(self, device: str, tiny: bool, backend: str) -> None:
        self.device, self.tiny = torch.device(device), tiny
        self.sources = 6 if tiny else 150
        gpu = self.device.type == "cuda"
        self.backends = [backend] if backend else ["cuda", "triton"] if gpu else ["cpu", "torch"]
        self._generator = torch.Generator().manual_seed(0)

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in [0,1), or grey levels."""
        values = torch.rand(shape, generator=self._generator)
        return (values * 256 if dtype == torch.uint8 else values).to(dtype).to(self.device)

    def ways(self, op: str, *arguments: Any, **options: Any) -> Ways:
        """`fastbg.op(..)` on every backend that has it here."""
        place = Place(self.device, torch.float32)
        able = [name for name in self.backends if unavailable(op, name, place) is None]
        call = getattr(fastbg, op)
        return {name: partial(call, *arguments, **options, backend=name) for name in able}


def reference(op: str, *arguments: Any, **options: Any) -> Callable[[], Tensor]:
    """The torch backend's answer."""
    return partial(getattr(fastbg, op), *arguments, **options, backend="torch")


def composites(s: Setting) -> Iterator[Case]:
    """All pairs of the paper's sources, and its mosaics."""
    side, box = 128, (48, 48, 80, 80)
    index = torch.arange(s.sources)
    pairs = torch.cartesian_prod(index, index).int().to(s.device)
    boxes = torch.tensor([box], dtype=torch.int32).repeat(len(pairs), 1).to(s.device)
    for dtype in (torch.float32, torch.uint8, torch.bfloat16):
        a, b = (s.rand(s.sources, 3, side, side, dtype=dtype) for _ in "ab")
        out = 2 if dtype == torch.bfloat16 else 4
        name = str(dtype).removeprefix("torch.")
        given = a, b, pairs, box
        plain: Ways = (
            {} if dtype == torch.uint8 else {"good_torch": partial(good_composite, *given)}
        )
        moved = a.nbytes + b.nbytes + len(pairs) * 3 * side**2 * out
        ways = s.ways("composite", *given)
        yield Case(
            f"composite_fwd {name}", moved, ways, reference("composite", *given), 0, 0, plain
        )
        moved = a.nbytes + b.nbytes + len(pairs) * 3 * (side // 4) ** 2 * out
        bound = 0.01 if dtype == torch.bfloat16 else 1e-5
        for label, inner in (("one box", box), ("a box each", boxes)):
            given = a, b, pairs, inner
            ways, answer = s.ways("composite_lr", *given), reference("composite_lr", *given)
            yield Case(f"composite_lr {name} {label}", moved, ways, answer, bound)
    tiles = s.rand(20 if s.tiny else 200, 3, 32, 32)
    codes = torch.randint(0, 8, (len(tiles), 4, 4), generator=torch.Generator().manual_seed(0))
    given = tiles, codes.int().to(s.device)
    moved = 17 * tiles.nbytes
    yield Case("mosaic 4x4", moved, s.ways("mosaic", *given), reference("mosaic", *given), 0)


def grams(s: Setting) -> Iterator[Case]:
    """Gram matrices of conv1_1, stored and not, whole and of two regions."""
    weight, bias = conv1_1(s.device, torch.float32)
    for count, side in ((4, 32),) if s.tiny else ((150, 128), (16, 128), (150, 32)):
        images, features = s.rand(count, 3, side, side) - 0.5, s.rand(count, 64, side, side)
        mask = torch.zeros(1, 2, side, side, device=s.device)
        mask[:, 0, 8:24, 8:24] = 1
        mask[:, 1] = 1 - mask[:, 0]
        triangle, size = count * side**2 * 64 * 65, f"{count}x{side}"
        for label, region in (("", None), (" two regions", mask)):
            given: tuple[Any, ...] = images, weight, bias, region
            ways, answer = s.ways("conv_gram", *given), reference("conv_gram", *given)
            plain: Ways = {} if region is not None else {"good_torch": partial(plain_gram, *given)}
            work = 3 * (count * side**2 * 64 * 54 + triangle)
            name = f"conv_gram_partial {size}{label}"
            yield Case(
                name, images.nbytes + count * 64**2 * 4, ways, answer, GRAM_BOUND, work, plain
            )
        flat = features.flatten(2)
        ways, answer = s.ways("gram", flat), reference("gram", flat)
        plain = {"bmm": partial(torch.bmm, flat, flat.mT)}
        name = f"gram_partial gram_reduce {size}"
        yield Case(name, flat.nbytes, ways, answer, GRAM_BOUND, 3 * triangle, plain)


def plain_gram(images: Tensor, weight: Tensor, bias: Tensor, _: None) -> Tensor:
    """The baseline: PyTorch as a skilled user writes it."""
    wide = images.contiguous(memory_format=torch.channels_last)
    flat = functional.conv2d(wide, weight, bias, padding=1).relu_().flatten(2)
    return torch.bmm(flat, flat.mT)


def paths(s: Setting) -> Iterator[Case]:
    """LAM's path for one image and for many."""
    sigmas = torch.linspace(1.2, 0, 17).tolist()
    for count in (1, 12 if s.tiny else 150):
        image, gradients = s.rand(count, 3, 32, 32), s.rand(count, 16, 3, 32, 32)
        given: tuple[Any, ...] = image, sigmas[:-1]
        ways, answer = s.ways("blur_path", *given), reference("blur_path", *given)
        yield Case(f"blur_path {count}x16", 17 * image.nbytes, ways, answer, PATH_BOUND)
        given = gradients, image, sigmas
        ways, answer = s.ways("path_integral", *given), reference("path_integral", *given)
        yield Case(f"path_integral {count}x16", 18 * image.nbytes, ways, answer, PATH_BOUND)


def convolutions(s: Setting) -> Iterator[Case]:
    """The second convolution of an EDSR block, with its residual, on a map and on a cut view."""
    count, side = (4, 16) if s.tiny else (100, 32)
    weight, bias = s.rand(64, 64, 3, 3) / 24 - 1 / 48, s.rand(64)
    whole = s.rand(count, side + 8, side + 8, 64).permute(0, 3, 1, 2)
    for label, x in (("", whole[..., :side, :side].clone()), (" cut", whole[..., 3:-5, 3:-5])):
        options = {"bias": bias, "residual": x}
        ways = s.ways("conv3x3", x, weight, **options)
        answer = reference("conv3x3", x, weight, **options)
        plain: Ways = {"conv2d and add": partial(plain_convolution, x, weight, bias)}
        work = 3 * 2 * 9 * 64 * 64 * count * side**2
        moved, name = 3 * x.numel() * 4 + weight.nbytes, f"conv3x3_fwd {count}x{side}{label}"
        yield Case(name, moved, ways, answer, CONV_BOUND, work, plain)


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a skilled user writes."""
    return functional.conv2d(x, weight, bias, padding=1).add_(x)


def cases(s: Setting) -> Iterator[Case]:
    """All of them, one after the other, so that no two share the memory."""
    for family in (composites, grams, paths, convolutions):
        yield from family(s)


def disagreement(case: Case) -> dict[str, float]:
    """Error of each way against the reference, relative to the reference's largest entry."""
    right = case.answer().double()
    assert right.isfinite().all(), case.name
    largest = float(right.abs().max())
    found = {}
    for name, way in case.ways.items():
        difference = (way().double() - right).abs().max()
        found[name] = float(difference) / largest
    return found


def seconds(way: Callable[[], object], device: torch.device, cold: bool = True) -> float:
    """Median of calls for SECONDS; on a CPU of one."""
    way()
    if device.type != "cuda":
        start = time.perf_counter()
        way()
        return time.perf_counter() - start
    way()
    torch.cuda.synchronize()
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 5 or (time.perf_counter() - start < SECONDS and len(found) < 100):
        found.append(measure.gpu_seconds(way, cold))
    return statistics.median(found)


def ceilings(s: Setting) -> dict[str, float]:
    """Bytes a second of a large copy, operations a second of a large product in each precision."""
    size, side = (1 << 20, 256) if s.tiny else (1 << 31, 8192)
    source, to = (torch.zeros(size, dtype=torch.uint8, device=s.device) for _ in range(2))
    found = {"bytes": 2 * size / seconds(lambda: to.copy_(source), s.device)}
    for kind in PRECISIONS:
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        a, b = (s.rand(side, side).to(dtype) for _ in "ab")
        with fastbg.use_precision(kind), fastbg.precision.held():
            found[kind] = 2 * side**3 / seconds(partial(torch.mm, a, b), s.device)
    return found


def timed(case: Case, s: Setting, limits: dict[str, float]) -> dict[str, Any]:
    """Times of all ways, and the share of the limit that each reaches."""
    times = {name: seconds(way, s.device) for name, way in case.ways.items()}
    for kind in ("ieee", "tf32"):
        with fastbg.use_precision(kind), fastbg.precision.held():
            times |= {f"{n} {kind}": seconds(way, s.device) for n, way in case.torch.items()}
    limit = max(case.bytes / limits["bytes"], case.operations / limits["tf32"])
    return {"seconds": times, "share": {name: limit / t for name, t in times.items()}}


def networks(s: Setting) -> Iterator[dict[str, Any]]:
    """Windows of composites in each precision, eager and as a CUDA graph; LAM of one and many."""
    window = (48, 48, 80, 80)
    x = s.rand(4 if s.tiny else 100, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for name in BUILT_IN:
        net = fastbg.load_model(name, device=s.device)
        truth = fastbg.load_model(name, device=s.device, dtype=torch.float64)
        with torch.inference_mode():
            exact = truth.forward_window(x[:4].double(), window)
            for kind in PRECISIONS:
                with fastbg.use_precision(kind):
                    call = partial(net.forward_window, x, window)
                    error = 255 * float((call()[:4].double() - exact).abs().max())
                    times = {"eager": seconds(call, s.device, cold=False)}
                    if s.device.type == "cuda":
                        graph = torch.cuda.CUDAGraph()
                        with torch.cuda.graph(graph):
                            call()
                        times["graph"] = seconds(graph.replay, s.device, cold=False)
                title = f"{name}, {len(x)} windows, {kind}"
                yield {"name": title, "seconds": times, "grey_levels_of_error": error}
        lam = fastbg.LocalAttribution(net)
        for count in (1,) if s.tiny else (1, 12):
            many = s.rand(count, 3, 32, 32)
            call = partial(lam.attribute, many, (56, 56, 16), accuracy="published")
            yield {
                "name": f"LAM {name}, {count} images, 16 nodes",
                "seconds": {"eager": seconds(call, s.device, cold=False)},
            }


def backends(s: Setting) -> int:
    """Print the backend of each operator; 1 if a GPU backend lacks an operator."""
    place, missing = Place(s.device, torch.float32), 0
    for op in FAMILIES:
        for name in s.backends:
            reason = unavailable(op, name, place)
            print(f"{op:28} {name:8} {reason or 'available'}")
            expected = not op.startswith(NOT_WRITTEN.get(name, ())) and s.device.type == "cuda"
            missing += expected and reason is not None
    print("all are there" if not missing else f"{missing} are MISSING")
    return int(missing > 0)


def table(results: list[dict[str, Any]], before: dict[str, dict[str, float]]) -> str:
    """Markdown: microseconds, share of the limit, and the time before over the time now."""
    lines = ["| call | way | us | share of the limit | before / now |", "|---|---|---|---|---|"]
    for result in results:
        for way, took in result.get("seconds", {}).items():
            share = result.get("share", {}).get(way)
            earlier = before.get(result["name"], {}).get(way)
            cells = (
                result["name"],
                way,
                f"{1e6 * took:.1f}",
                "" if share is None else f"{share:.0%}",
                "" if earlier is None else f"{earlier / took:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def earlier(device: str, path: Path = BASELINE) -> dict[str, dict[str, float]]:
    """Times of the baseline by call and way, if it is of the same GPU."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text())
    if kept["machine"]["gpu"] != device:
        print(f"{path.name} is of {kept['machine']['gpu']}, this is {device}: not compared")
        return {}
    return {result["name"]: result["seconds"] for result in kept["results"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("backends", "smoke", "time", "once"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="little data")
    parser.add_argument("--backend", default="", help="only that one")
    parser.add_argument("--only", default="", help="calls whose name has this word")
    parser.add_argument("--out", type=Path, default=Path("gpu-out"))
    options = parser.parse_args()
    s = Setting(options.device, options.tiny, options.backend)
    if options.what == "backends":
        return backends(s)
    limits = ceilings(s) if options.what == "time" else {}
    results, wrong, called = [], [], 0
    for case in cases(s):
        if options.only not in case.name or not case.ways:
            continue
        called += 1
        if options.what == "once":
            for way in case.ways.values():
                way()
            continue
        off = disagreement(case)
        result: dict[str, Any] = {"name": case.name, "disagreement": off, "bytes": case.bytes}
        wrong += [f"{case.name} {way}: {e:.2g}" for way, e in off.items() if not e <= case.bound]
        if options.what == "time":
            result |= timed(case, s, limits)
        results.append(result)
        print(json.dumps(result), flush=True)
    if not called:
        raise SystemExit(f"--only: got {options.only!r}; expected a word of a call's name")
    if options.what == "time":
        results += networks(s)
    if options.what != "once":
        write(options.out, options.what, results, limits)
    print(f"WRONG {wrong}" if wrong else f"{called} calls, all right")
    return int(bool(wrong))


def write(folder: Path, what: str, results: list[dict[str, Any]], limits: dict[str, float]) -> None:
    """on_gpu_smoke.json, or on_gpu_time.json and the table beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = measure.machine()
    record = {"machine": machine, "ceilings": limits, "results": results}
    (folder / f"on_gpu_{what}.json").write_text(json.dumps(record, indent=1) + "\n")
    if what == "time":
        text = table(results, earlier(str(machine["gpu"])))
        (folder / "on_gpu_time.md").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    sys.exit(main())
