"""Checksums and differences of a run's JSON values."""

import hashlib
import json
from typing import Any, TypeAlias

Json: TypeAlias = Any  # dicts with string keys, lists, strings, numbers, booleans, None


def checksum(*parts: str | bytes) -> bytes:
    """A 16-byte digest of `parts` and of their boundaries."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else bytes(part)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def differences(old: Json, new: Json, key: str = "") -> list[str]:
    """A text for each leaf that differs, with its dotted key; floats must be equal bit for bit."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for name in [*old, *(name for name in new if name not in old)]
            for text in differences(
                old.get(name, _ABSENT), new.get(name, _ABSENT), f"{key}.{name}" if key else name
            )
        ]
    was, now = ("nothing" if v is _ABSENT else json.dumps(v, sort_keys=True) for v in (old, new))
    return [] if was == now else [f"{key}: stored {_shortened(was)}, now {_shortened(now)}"]


_ABSENT = object()


def listed(texts: list[str], shown: int = 8) -> str:
    """The first `shown` of `texts`, and how many more there are."""
    more = f"; and {len(texts) - shown} more" if len(texts) > shown else ""
    return "; ".join(texts[:shown]) + more


def _shortened(text: str, length: int = 120) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
