"""Small tables of the host, such as row indices, on a device that does not wait for them."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def uploaded(
    table: Sequence[int] | NDArray[Any], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`table` as a tensor on `device`; to a GPU from pinned memory, so that nobody waits."""
    pinned = device.type == "cuda" and torch.cuda.is_available()
    host = torch.tensor(table, dtype=dtype, device="cpu", pin_memory=pinned)
    return host.to(device, non_blocking=True)
