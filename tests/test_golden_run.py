"""The numbers of a small run of all nine experiments are those that are committed."""

import json
from pathlib import Path

import pytest
from golden_run import GOLDEN, measured

# dB, diffusion index, shares: float32 networks differ by about 1e-4 dB between instruction sets.
TOLERANCE = 2e-3


def test_a_small_run_gives_the_committed_numbers(tmp_path: Path) -> None:
    golden, found = json.loads(GOLDEN.read_text(encoding="utf-8")), measured(tmp_path / "run")
    assert found["records"].keys() == golden["records"].keys()
    assert len({key.partition(" ")[0] for key in found["records"]}) == 9
    for key, values in golden["records"].items():
        assert found["records"][key] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), key
    assert found["verdicts"] == golden["verdicts"]
