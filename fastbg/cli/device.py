"""The device named by --device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastbg.errors import InvalidArgument
from fastbg.precision import check_precision, use_precision


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise InvalidArgument(
            "--device", repr(name), f"a device of this machine ({cause})"
        ) from error
    return device


@contextmanager
def device_and_precision(name: str, precision: str) -> Iterator[torch.device]:
    """The device of that name; inside ``with`` networks run in `precision`."""
    device = pick_device(name)
    with use_precision(check_precision(precision, device, name="--precision")):
        yield device
