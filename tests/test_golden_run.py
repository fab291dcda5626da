"""The numbers of a small run of all experiments are those that are committed."""

import json
from pathlib import Path

import pytest
from golden_run import GOLDEN, measured

from fastbg.experiments import EXPERIMENTS

# Between the instruction sets (baseline, AVX2, AVX-512) records differ by up to 2e-4 of their
# value, ends of intervals by up to 2e-3 of it, or 3e-5 where they lie near 0, PSNR by less than
# 1e-4 dB.
DECIBELS, SHARE, ENDS = 1e-3, 5e-4, 2e-3
# A grey level of the window that is rounded the other way moves a causal effect by 1e-4 dB, and
# most blocks have no more: rank correlations differ by up to 5e-3, an image's mean effect and mean
# standard error by up to 2.4e-5 dB (baseline against AVX2).
RANKS, EFFECTS = 1e-2, 5e-5


def test_a_small_run_gives_the_committed_numbers(tmp_path: Path) -> None:
    golden, found = json.loads(GOLDEN.read_text(encoding="utf-8")), measured(tmp_path / "run")
    assert len({key.partition(" ")[0] for key in found["records"]}) == len(EXPERIMENTS)
    for part in ("records", "intervals"):
        assert found[part].keys() == golden[part].keys()
    for key, values in golden["records"].items():
        assert found["records"][key].keys() == values.keys()
        for name, value in values.items():
            decibels = name.startswith(("psnr", "inner", "mean of psnr"))
            close = {"abs": DECIBELS, "rel": 0} if decibels else {"rel": SHARE, "abs": 1e-9}
            if key.startswith("effect ") and name in ("mean of effect", "mean of error"):
                close = {"abs": EFFECTS, "rel": 0}
            assert found["records"][key][name] == pytest.approx(value, **close), (key, name)
    for key, ends in golden["intervals"].items():
        got, near = found["intervals"][key], 5e-5
        if key.startswith("effect"):
            # Over three photographs an end is 4.3 standard errors away, and moves by more: by up to
            # 0.011 of a rank correlation, and of effect_shares, in percent, by 0.029.
            assert got["value"] == pytest.approx(ends["value"], rel=ENDS, abs=RANKS), key
            near = 0.03 if key.startswith("effect ") else 0.1
        assert got == pytest.approx(ends, rel=ENDS, abs=near), key
    assert found["verdicts"] == golden["verdicts"]
