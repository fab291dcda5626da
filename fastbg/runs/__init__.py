"""Runs of experiments: the run folder that stores results, and the engines that measure."""

from fastbg.runs.store import Record, RunStore

__all__ = ["Record", "RunStore"]
