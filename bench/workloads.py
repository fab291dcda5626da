"""Shapes of the paper that the benchmarks use."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.measure import device


@dataclass(frozen=True)
class Workload:
    """All pairs of foregrounds and backgrounds, in chunks (sections 3.2 and 3.3 of the paper)."""

    a: Tensor  # (A,C,H,W) float32: 150 foreground sources
    b: Tensor  # (B,C,H,W) float32: 150 background sources
    inner: tuple[int, int, int, int]  # the foreground: the centre 32x32
    chunks: tuple[Tensor, ...]  # (n,2) int32 each, foreground by foreground


def composites(chunk: int, sources: int = 150, size: int = 128, foreground: int = 32) -> Workload:
    """sources^2 (22,500) pairs of size x size images, `chunk` pairs at a time."""
    generator = torch.Generator().manual_seed(0)
    shape = sources, 3, size, size
    a, b = (torch.rand(shape, generator=generator).to(device()) for _ in range(2))
    index = torch.arange(sources, dtype=torch.int32)
    pairs = torch.cartesian_prod(index, index).to(device())
    low, high = (size - foreground) // 2, (size + foreground) // 2
    return Workload(a, b, (low, low, high, high), pairs.split(chunk))


def composite_bytes(work: Workload, pairs: Tensor) -> int:
    """Bytes that `composite` must move: each output pixel is written once, its source read once."""
    return 2 * len(pairs) * work.a[0].numel() * work.a.element_size()


def composite_lr_bytes(work: Workload, pairs: Tensor, scale: int = 4) -> int:
    """Bytes that `composite_lr` must move: the pixels used of each source, and the output."""
    (_, channels, height, width), (y0, x0, y1, x1) = work.a.shape, work.inner
    foreground = (y1 - y0) * (x1 - x0)
    firsts, seconds = (len(pairs[:, side].unique()) for side in range(2))
    read = firsts * foreground + seconds * (height * width - foreground)
    written = len(pairs) * (height // scale) * (width // scale)
    return (read + written) * channels * work.a.element_size()
