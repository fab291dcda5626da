"""The device named by --device."""

import torch

from fastbg.errors import InvalidArgument


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
