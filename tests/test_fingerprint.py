"""The fingerprint of memory (csrc/cpu/fingerprint.h) with each instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Float32 weights of `count` numbers, and changes of each; every change must change the fingerprint.
CHECK = """
import numpy as np
import torch
from fastbg.backends.cpu import native

rng = np.random.default_rng(0)

def fingerprint(values):
    pieces = -(-values.nbytes // native().fingerprint_piece)
    # Aligned to 64 bytes, as the kernel wants it.
    state = torch.zeros(pieces * native().fingerprint_state, dtype=torch.uint8)
    native().conv_fingerprint(values.ctypes.data, values.nbytes, state.data_ptr())
    return state.numpy().tobytes()

def changes(values):
    words = values.view(np.uint32)
    for place in range(len(words)):  # any one bit
        changed = words.copy()
        changed[place] ^= np.uint32(1) << np.uint32(rng.integers(32))
        yield f"bit of word {place}", changed
    # Two words exchanged, most of them a few stretches apart.
    for _ in range(2000 if len(words) > 1 else 0):
        apart = min(64 * int(rng.integers(1, 9)) + int(rng.integers(-1, 2)), len(words) - 1)
        place = int(rng.integers(len(words) - apart))
        changed = words.copy()
        changed[[place, place + apart]] = words[[place + apart, place]]
        yield f"words {place} and {place + apart}", changed
    yield "negated", words ^ np.uint32(1 << 31)
    yield "doubled", (2 * values).view(np.uint32)
    yield "rounded", values.astype(np.float16).astype(np.float32).view(np.uint32)
    yield "reversed", words[::-1].copy()
    yield "rolled by a stretch", np.roll(words, 64)
    yield "zeros", np.zeros_like(words)

for count in 1, 63, 64, 65, 200, 6144, 6145, 9216:
    values = rng.standard_normal(count).astype(np.float32)
    before = fingerprint(values)
    apart = np.zeros(count + 1, np.float32)[1:]  # at another address, aligned otherwise
    apart[:] = values
    assert fingerprint(apart) == before, count
    for name, changed in changes(values):
        same = np.array_equal(changed, values.view(np.uint32))
        assert (fingerprint(changed) == before) == same, (count, name)
print(native().isa())
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_change_is_seen(isa: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        env=os.environ | {"FASTBG_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    if f"FASTBG_CPU_ISA: this machine or build has no {isa}" in done.stderr:
        pytest.skip(f"this machine or build has no {isa}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa
