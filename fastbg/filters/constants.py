"""Small tables on the device that computes with them: copied there once, then kept.

A copy per call costs more than most kernels here, and one from memory that is freed meanwhile must
not stand in a CUDA graph, which would read that address again at every replay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fastbg.upload import sent

MOST = 1 << 16  # bytes of a table that is kept
_collecting: list[list[Tensor]] = []


def on_device(table: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`table` in `dtype` on `device`, contiguous; the same tensor for equal tables: do not write.

    What is on the device already, or has no values (traced, fake), is converted as `Tensor.to`
    does; what is too large to be kept is copied through pinned memory.
    """
    dtype = dtype or table.dtype
    if table.device == device or table.device.type != "cpu" or not _has_values(table):
        return table.to(device, dtype).contiguous()
    if table.nbytes > MOST:
        return sent(table.to(dtype).contiguous(), device)
    plain = table.detach().clone(memory_format=torch.contiguous_format)  # with strides of its own
    raw = plain.flatten().view(torch.uint8).numpy().tobytes()
    kept = _kept(raw, table.dtype, tuple(table.shape), device, dtype)
    for tables in _collecting:
        tables.append(kept)
    return kept


@contextmanager
def collected() -> Iterator[list[Tensor]]:
    """A list of the tables that `on_device` gives meanwhile, in any thread.

    For CUDA graphs, which read the tables' addresses at every replay: only the last tables are kept
    here, and the memory of the others is given away.
    """
    tables: list[Tensor] = []
    _collecting.append(tables)
    try:
        yield tables
    finally:
        _collecting[:] = [others for others in _collecting if others is not tables]


def is_recorded() -> bool:
    """Whether make_fx, or what is built on it, records operations: it refuses that values are read.

    Not while an operator runs that is recorded as a whole.
    """
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _has_values(table: Tensor) -> bool:
    return (
        table.nbytes > 0
        and type(table) is Tensor
        and not table.requires_grad
        and not isinstance(table, FakeTensor)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _get_current_dispatch_mode() is None
    )


@lru_cache(maxsize=256)
def _kept(
    raw: bytes,
    stored: torch.dtype,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Waits until it is there, so that any stream may read it; autograd may save it."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.frombuffer(bytearray(raw), dtype=stored).reshape(shape).to(device, dtype)
