"""Triton kernels (fastbg.kernels), on NVIDIA GPUs, or on the CPU in Triton's interpreter."""

import os
from importlib.util import find_spec

import torch


def interpreted() -> bool:
    """Whether ``TRITON_INTERPRET=1`` asks for Triton's interpreter, which runs on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`, or None."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type != "cuda" and not interpreted():
        return f"it computes on NVIDIA GPUs (or in its interpreter), the tensors are on {device}"
    return None
