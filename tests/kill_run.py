"""A run that can be killed: `python kill_run.py FOLDER LOG` stores records until all are there.

LOG gets one line when the run opens its store, one before and one after every commit.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastbg.runs.store import Record, RunStore

ITEMS = 120
BATCH = 5
EXPERIMENTS = ("batched", "single")


def measured(experiment: str, index: int) -> Record:
    """What a deterministic experiment would find for one item."""
    rng = np.random.default_rng((len(experiment), index))
    return Record(experiment, "edsr", f"item{index}", {"psnr": float(rng.normal()), "box": index})


def picture(index: int) -> np.ndarray:
    """A LAM map of one item."""
    return np.random.default_rng(index).random((16, 16), dtype=np.float32)


def run(folder: Path, log: Path) -> None:
    """Create or resume the run in `folder` and bring it to its end."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(word: str, experiment: str, items: Sequence[str]) -> None:
        os.write(descriptor, f"{word} {experiment} {' '.join(items)}\n".encode())

    say("opening", "-", ())
    with RunStore.open(folder, {"items": ITEMS}, seeds={"run": 1}) as store:
        for experiment in EXPERIMENTS:
            done = store.done(experiment, "edsr")
            left = [i for i in range(ITEMS) if f"item{i}" not in done]
            size = BATCH if experiment == "batched" else 1
            for start in range(0, len(left), size):
                batch = left[start : start + size]
                records = [measured(experiment, i) for i in batch]
                say("trying", experiment, [record.item for record in records])
                with store.transaction():
                    for i, record in zip(batch, records, strict=True):
                        store.put_array(experiment, "edsr", record.item, "lam", picture(i))
                    store.put_many(records)
                say("stored", experiment, [record.item for record in records])
    os.close(descriptor)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
