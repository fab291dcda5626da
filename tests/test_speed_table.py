"""The table of ratios in the documents is what `python bench/all.py` kept."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "bench" / "baselines" / "speed.json"


@pytest.mark.skipif(not KEPT.exists(), reason="an unpacked sdist has no records of benchmarks")
def test_the_documents_hold_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from bench import all as benchmarks

    expected = benchmarks.table(json.loads(KEPT.read_text()))
    documents = benchmarks.documents()
    assert documents
    for path in documents:
        assert expected in path.read_text(encoding="utf-8"), path
