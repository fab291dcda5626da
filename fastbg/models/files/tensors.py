"""Reads safetensors files: the tensors, and fastbg's metadata in the header."""

import json
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastbg.errors import CheckpointError
from fastbg.printable import printable

MOST_HEADER = 4 << 20  # bytes: some 30,000 tensors


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and fastbg's metadata, empty if another program wrote the file."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
        if length > MOST_HEADER:
            raise ValueError(f"its header of {length:,} bytes is longer than {MOST_HEADER:,}")
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("fastbg", "{}"))
            _check_about(path, about)
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, about
    except (OSError, struct.error, SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{printable(path)} is no readable safetensors file: {error}"
        ) from error
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:  # of dtypes torch lacks
        raise CheckpointError(
            f"{printable(path)} holds tensors that cannot be read: {error}"
        ) from error


def _check_about(path: Path, about: object) -> None:
    """fastbg's metadata is nothing, or {"architecture": text, "config": {...}, "card": {...}}."""
    if about == {}:
        return
    if not isinstance(about, dict) or not about.keys() >= {"architecture", "config"}:
        raise CheckpointError(
            f"{printable(path)}: its 'fastbg' metadata lacks the architecture or its config"
        )
    kinds = {"architecture": str, "config": dict, "card": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key, kind()), kind):
            raise CheckpointError(
                f"{printable(path)}: {key} of its 'fastbg' metadata is a "
                f"{type(about[key]).__name__}; expected a {kind.__name__}"
            )
