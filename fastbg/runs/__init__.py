"""Runs of experiments: the folder that keeps what was measured, and the engines that measure."""

from fastbg.runs.store import Record, RunStore

__all__ = ["Record", "RunStore"]
