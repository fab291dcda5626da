"""Plain PyTorch: the specification that every other backend is tested against."""

import torch


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`, or None: it always can."""
    return None
