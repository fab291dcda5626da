"""What a run found, kept in its folder."""

from fastbg.results.store import Record, RunStore

__all__ = ["Record", "RunStore"]
