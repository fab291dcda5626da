"""For tests of operators: which backends can run on this machine, and on which device.

Without a GPU, Triton kernels run in Triton's interpreter and CUDA kernels in the emulation build,
both on CPU tensors; tests/conftest.py sets the environment for that.
"""

from dataclasses import dataclass

import torch

from fastbg.registration.dispatch import BACKENDS, Place, unavailable


@dataclass(frozen=True)
class BackendUnderTest:
    """A backend, the device of its tensors, and the reason if it cannot be tested here."""

    name: str
    device: torch.device
    skip_reason: str | None


def backend_under_test(name: str, op: str) -> BackendUnderTest:
    """`name` on the device where it runs `op` here; `skip_reason` says why it runs nowhere."""
    if name not in BACKENDS:
        raise ValueError(f"name: got {name!r}; expected one of {tuple(BACKENDS)}")
    reason: str | None = None
    devices = ["cuda", "cpu"] if torch.cuda.is_available() and name != "cpu" else ["cpu"]
    for kind in devices:
        device = torch.device(kind)
        reason = unavailable(op, name, Place(device, torch.float32))
        if reason is None:
            return BackendUnderTest(name, device, None)
    return BackendUnderTest(name, torch.device("cpu"), f"backend {name}: {reason}")
