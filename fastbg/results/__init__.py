"""What a run found: the store, and later its figures and report."""

from fastbg.results.store import Record, RunStore

__all__ = ["Record", "RunStore"]
