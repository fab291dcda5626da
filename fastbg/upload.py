"""Data of the host on a device that does not wait for them, such as row indices or a baseline."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def uploaded(
    table: Sequence[int] | NDArray[Any], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`table` as a tensor on `device`; to a GPU from pinned memory, so that nobody waits."""
    pinned = device.type == "cuda" and torch.cuda.is_available()
    host = torch.tensor(table, dtype=dtype, device="cpu", pin_memory=pinned)
    return host.to(device, non_blocking=True)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; from the host to a GPU through pinned memory, so that nobody waits.

    For what may change between calls, or is large; `filters.constants` keeps small constants.
    """
    from_host = tensor.device.type == "cpu"
    pinned = from_host and device.type == "cuda" and torch.cuda.is_available()
    if pinned and not isinstance(tensor, FakeTensor):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=from_host)  # others may be read before they have arrived
