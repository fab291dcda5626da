"""A small run of all experiments, whose numbers are committed: `golden/run.json`.

    python tests/golden_run.py --write      # after a change that is meant to change numbers

Remake them only where a number was wrong before, and say in the commit why the new one is right.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import fastbg
from fastbg.experiments import EXPERIMENTS
from fastbg.runs.records import stored_experiments
from fastbg.runs.reporting import section
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import Interval

GOLDEN = Path(__file__).parent / "golden" / "run.json"
LIMIT = 6  # items of each experiment: enough photographs for verdicts
OPTIONS = {
    "ring.sizes": "0,32,48",
    "inward.sizes": "128,64,32",
    "swap.backgrounds": 6,
    "swap.groups": 6,
    "seam.backgrounds": 4,
    "seam.groups": 6,
    "ring.candidates": 40,
    "inward.candidates": 40,
    "surroundings.margins": "0,32,96",
    "effect.size": 64,
    "effect.border": 32,
    "effect.coarse": 2,
    "effect.fine": 2,
    "faithfulness.size": 96,
    "faithfulness.points": 3,
    "diffusion.size": 96,
}


def measured(folder: Path) -> dict[str, Any]:
    """Records, intervals of the tables and verdicts of the run, made in `folder`."""
    net = fastbg.load_model("edsr")
    fastbg.run_experiments({"edsr": net}, [*EXPERIMENTS], out=folder, options=OPTIONS, limit=LIMIT)
    with RunStore.read(folder) as store:
        records = {}
        for r in store.records():
            values = records[f"{r.experiment} {r.item}"] = dict(r.values)
            for item, name in sorted(store.arrays(r.experiment, r.model)):
                array = store.array(r.experiment, r.model, item, name)
                if item == r.item and array.dtype.kind == "f":  # curves; pictures are uint8
                    values[f"mean of {name}"] = float(array.mean())
        verdicts: dict[str, list[str]] = {}
        intervals: dict[str, dict[str, float]] = {}
        for experiment in stored_experiments(store):
            part = section(store, experiment)
            assert part is not None
            verdicts[experiment.name] = [
                f"{v.claim} {v.subject}: {v.outcome.value}" for v in part.verdicts
            ]
            for table in part.tables:
                for i, row in enumerate(table.rows):
                    for column, cell in zip(table.columns, row, strict=True):
                        if isinstance(cell, Interval):
                            ends = {"value": cell.value, "low": cell.low, "high": cell.high}
                            intervals[f"{table.name} {i} {column.title}"] = ends
    return {"records": records, "intervals": intervals, "verdicts": verdicts}


def main() -> None:
    """Compare, or write the numbers anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder) / "run")
    for values in [*found["records"].values(), *found["intervals"].values()]:
        for name, value in values.items():
            values[name] = float(f"{value:.7g}")
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
