"""Measures of pyiqa (LPIPS, DISTS, FSIM, ...): the extra ``fastbg[iqa]``.

pyiqa downloads the weights of a measure that is a network on first use.
"""

import difflib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument

Measure = Callable[[Tensor, Tensor], float]
OWN = ("psnr", "ssim")  # always measured, in the field's conventions


def iqa_measures(names: Sequence[str], device: torch.device | str = "cpu") -> dict[str, Measure]:
    """Functions of SR and HR images (1,3,H,W) in [0,1], by pyiqa's names such as "lpips".

    Raises InvalidArgument if pyiqa is not installed, has no such measure, or cannot create it, for
    example because its weights cannot be downloaded.
    """
    if not names:
        return {}
    own = next((name for name in names if name in OWN), None)
    if own is not None:
        raise InvalidArgument(
            "measures", repr(own), "others than psnr and ssim, which are always measured"
        )
    try:
        pyiqa: Any = import_module("pyiqa")
    except ImportError as error:
        expected = f"pyiqa to be installed: pip install 'fastbg[iqa]' ({_first_line(error)})"
        raise InvalidArgument("measures", ", ".join(names), expected) from error
    except RuntimeError as error:
        expected = f"the torchvision of this torch, which pyiqa imports ({_first_line(error)})"
        raise InvalidArgument("measures", ", ".join(names), expected) from error
    known = pyiqa.list_models()
    return {name: _measure(pyiqa, name, known, device) for name in names}


def _measure(pyiqa: Any, name: str, known: Sequence[str], device: torch.device | str) -> Measure:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise InvalidArgument("measures", repr(name), f"one of pyiqa.list_models(){meant}")
    try:
        metric = pyiqa.create_metric(name, device=device)
    except Exception as error:  # networks, downloads and optional packages raise any type
        raise InvalidArgument(
            "measures", repr(name), f"a measure that pyiqa can make here ({_first_line(error)})"
        ) from error
    compares = metric.metric_mode == "FR"

    def measure(sr: Tensor, hr: Tensor) -> float:
        with torch.no_grad():
            sr, hr = sr.float().to(device), hr.float().to(device)
            return float(metric(sr, hr) if compares else metric(sr))

    return measure


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
