"""Errors of each precision of float32 products, compared with float64.

    python bench/precision_errors.py [--update]

The built-in networks restore LR crops of the built-in photographs in float64, and in float32 with
each `fastbg.use_precision`. Errors of the SR images are in grey levels (1/255): the mean absolute
error, the largest, and the largest change of an image's PSNR.

Only GPUs have TF32. On a CPU it is imitated: the inputs of every convolution and matrix product are
rounded to 10 bits of mantissa (to nearest), then multiplied and summed in float32. Tensor cores
differ from this only in the order of sums. With `--device cuda` the GPU's own TF32 is measured.
`--update` writes the table into docs/gpu.md.
"""

import argparse
import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.data.degradation import downsample
from fastbg.measures.quality import psnr
from fastbg.models.conv import Conv3x3
from fastbg.models.registry import BUILT_IN
from fastbg.vocabulary import PRECISIONS

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu.md"
MARKS = "<!-- errors of precisions: bench/precision_errors.py -->", "<!-- end of errors -->"
SIDE = 48  # LR pixels of a crop
IMAGES = 8
aten = torch.ops.aten
PRODUCTS = {aten.convolution.default, aten.mm.default, aten.bmm.default, aten.addmm.default,
            aten.baddbmm.default, aten.linear.default}  # fmt: skip


def to_tf32(x: Tensor) -> Tensor:
    """`x` with 10 bits of mantissa, rounded to nearest (ties away from 0), as cvt.rna does."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


class Tf32(TorchDispatchMode):
    """Rounds the inputs of PyTorch's products; a bias is added, so it is not rounded."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "fastbg":
            raise RuntimeError(f"{func} multiplies unseen; it would not be rounded")
        if func in PRODUCTS:
            first = int(func in {aten.addmm.default, aten.baddbmm.default})
            factors = [to_tf32(x) for x in args[first : first + 2]]
            args = [*args[:first], *factors, *args[first + 2 :]]
        return func(*args, **(kwargs or {}))


class Error(NamedTuple):
    """Errors of one network in one precision."""

    mean: float  # grey levels
    largest: float  # grey levels
    psnr: float  # dB, largest change of an image's


def errors(net: nn.Module, lr: Tensor, hr: Tensor, precision: str) -> Error:
    """Errors of `net` in `precision` on the device of `lr`, against float64."""
    exact = copy.deepcopy(net).double()
    imitated = precision == "tf32" and lr.device.type == "cpu"
    rounding = imitated_tf32(net) if imitated else nullcontext()
    with torch.no_grad():
        truth = exact(lr.double())
        with fastbg.use_precision(precision), rounding:
            found = net(lr)
    difference = 255 * (found.double() - truth).abs()
    changed = (psnr(found.double(), hr) - psnr(truth, hr)).abs().max()
    return Error(float(difference.mean()), float(difference.max()), float(changed))


@contextmanager
def imitated_tf32(net: nn.Module) -> Iterator[None]:
    """Context in which `net` uses PyTorch's products only, and `Tf32` rounds them."""
    convolutions = [module for module in net.modules() if isinstance(module, Conv3x3)]
    before = os.environ.get("FASTBG_BACKEND")
    os.environ["FASTBG_BACKEND"] = "torch"
    for module in convolutions:
        module.fused = False
    try:
        with Tf32():
            yield
    finally:
        for module in convolutions:
            del module.fused
        os.environ.pop("FASTBG_BACKEND")
        if before is not None:
            os.environ["FASTBG_BACKEND"] = before


def crops(device: torch.device) -> tuple[Tensor, Tensor]:
    """LR (B,3,h,w) in [0,1] and HR (B,3,4*h,4*w) float64: centres of built-in photographs."""
    side = 4 * SIDE
    found = []
    for item in builtin_images().items:
        image = item.load()
        y, x = (max(0, n - side) // 2 for n in image.shape[:2])
        if min(image.shape[:2]) >= side:
            found.append(image[y : y + side, x : x + side])
    high = found[:IMAGES]
    low = [downsample(image, 4) for image in high]
    hr, lr = (torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).to(device) for x in (high, low))
    return lr.float() / 255, hr.double() / 255


def table(device: torch.device) -> str:
    """Rows of networks, columns of precisions."""
    lr, hr = crops(device)
    lines = [
        "| network | precision | mean error | largest error | largest change of PSNR |",
        "|---|---|---|---|---|",
    ]
    for name in BUILT_IN:
        net = fastbg.load_model(name, device=device)
        for precision in PRECISIONS:
            e = errors(net, lr, hr, precision)
            lines.append(
                f"| {name} | {precision} | {e.mean:.2g} | {e.largest:.2g} | {e.psnr:.1g} dB |"
            )
    where = "a CPU, TF32 imitated" if device.type == "cpu" else torch.cuda.get_device_name(device)
    shape = f"{len(lr)} LR images of {SIDE}x{SIDE}"
    return "\n".join(["", *lines, "", f"Grey levels of 255; {shape}; {where}.", ""])


def written(document: str, text: str) -> str:
    """`document` with `text` between the marks."""
    before, _, rest = document.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--update", action="store_true", help=f"write it into {DOCUMENT.name}")
    options = parser.parse_args()
    text = table(torch.device(options.device))
    print(text)
    if options.update:
        DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
