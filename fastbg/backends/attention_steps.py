"""Swin Transformer layers as integers, one row for each step, to pass to a backend."""

from collections.abc import Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """x + attention(norm(x)), or x + MLP(norm(x)) where `heads` is 0, on a box of the map."""

    heads: int
    window: int
    shift: int
    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Half-open, in pixels of the map."""
        return self[3:]

    @property
    def parameters(self) -> int:
        """Norm's weight and bias; qkv's, bias table, proj's or fc1's, fc2's."""
        return 7 if self.heads else 6


def split(numbers: Sequence[int]) -> list[Step]:
    """The steps in a flat list of their numbers."""
    n = len(Step._fields)
    return [Step(*numbers[i : i + n]) for i in range(0, len(numbers), n)]
