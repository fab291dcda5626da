"""The networks' forward pass against other runtimes: one image, LR 64x64, batch 1, float32.

    python bench/bench_peers.py [--record FILE] [--model NAME ...]

Peers: PyTorch in channels_last, torch.compile, ONNX Runtime, OpenVINO. A peer that is not installed
is left out, and the reason is printed. Each peer gets the plain network, a fixed shape, and as many
threads as fastbg. Its result is checked before a ratio is printed: the peer's time divided by
fastbg's, so above 1 fastbg is faster.
"""

import argparse
import io
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines.networks_torch import in_torch
from fastbg.models.network import Network
from fastbg.models.registry import BUILT_IN

TOLERANCE = 1e-5  # of the SR image's values, which lie in [0,1]
SIDE = 64  # LR pixels


def image() -> Tensor:
    """A smooth random image (1,3,64,64) in [0,1]."""
    coarse = torch.rand(1, 3, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


def onnx_model(net: Network, x: Tensor) -> bytes:
    """The network as an ONNX file for the shape of `x`."""
    file = io.BytesIO()
    warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the shape is fixed
    torch.onnx.export(net, (x,), file, input_names=["lr"], output_names=["sr"], dynamo=False)
    return file.getvalue()


def with_torch(net: Network, x: Tensor) -> measure.Way:
    """PyTorch, channels_last."""
    return partial(net, x.contiguous(memory_format=torch.channels_last))


def with_compile(net: Network, x: Tensor) -> measure.Way:
    """torch.compile of the channels_last network; compiled before it is timed."""
    compiled: Callable[[Tensor], Tensor] = torch.compile(net)
    return partial(compiled, x.contiguous(memory_format=torch.channels_last))


def with_onnxruntime(net: Network, x: Tensor) -> measure.Way:
    """ONNX Runtime's CPU provider with all optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        onnx_model(net, x), options, providers=["CPUExecutionProvider"]
    )
    given = {"lr": x.numpy()}
    return lambda: torch.from_numpy(session.run(None, given)[0])


def with_openvino(net: Network, x: Tensor) -> measure.Way:
    """OpenVINO's CPU plugin in float32."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(onnx_model(net, x))), "CPU", settings)
    given = x.numpy()
    return lambda: torch.from_numpy(compiled(given)[0].copy())


PEERS: dict[str, Callable[[Network, Tensor], measure.Way]] = {
    "torch channels_last": with_torch,
    "torch.compile": with_compile,
    "ONNX Runtime": with_onnxruntime,
    "OpenVINO": with_openvino,
}


def check(results: dict[str, Any]) -> None:
    """AssertionError unless every way gives PyTorch's image."""
    expected = results["torch channels_last"]
    for way, result in results.items():
        error = float((result - expected).abs().max())
        assert error <= TOLERANCE, f"{way}: differs by {error}"


@torch.inference_mode()
def report(name: str, runs: int, clock: measure.Clock) -> measure.Result:
    """Check and time one network; print its ratio over each peer and over the fastest peer."""
    net, x = fastbg.load_model(name), image()
    ways: dict[str, measure.Way] = {
        "fastbg": partial(net, x.contiguous(memory_format=torch.channels_last))
    }
    for label, prepare in PEERS.items():
        plain = in_torch(net)
        if label in ("ONNX Runtime", "OpenVINO"):
            plain = plain.to(memory_format=torch.contiguous_format)
        try:
            ways[label] = prepare(plain, x)
        except ImportError as error:
            print(f"{name} {label}: left out, as it is not installed ({error})")
    result = measure.compare(f"{name}_forward_peers", ways, check, runs, clock=clock)
    for label in ways:
        if label != "fastbg":
            key = label.lower().replace(" ", "_").replace(".", "_")
            measure.print_ratio(f"{name}_forward_over_{key}", result.ratio(label, "fastbg"))
    best = min((label for label in ways if label != "fastbg"), key=result.median)
    measure.print_ratio(f"{name}_forward_over_best_peer", result.ratio(best, "fastbg"))
    return result


def main() -> None:
    """Print the ratios; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, help="JSON file for all runs and the machine")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=measure.CLOCKS, default="cpu")
    parser.add_argument("--model", nargs="+", choices=BUILT_IN, default=list(BUILT_IN))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = measure.CLOCKS[arguments.clock]
    results = [report(name, arguments.runs, clock) for name in arguments.model]
    if arguments.record is not None:
        measure.write_record(arguments.record, results)


if __name__ == "__main__":
    main()
