"""Weights of Swin layers, packed for their kernels, and cached as long as their bytes are the same.

The norm's affine part is multiplied into the layer behind it, the scale of the queries and log2(e)
into queries and position bias, all in float64; rows are packed in tiles (csrc/cpu/attention.h).
A change is detected by a fingerprint of all parameters at every call, as for conv3x3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.cpu.by_weight import ByWeight

LOG2_E = math.log2(math.e)


class KnownStep:
    """Packed weights of one step, and the fingerprints of the parameters they were made of."""

    def __init__(self, parameters: Sequence[Tensor], heads: int, window: int) -> None:
        self._settings = heads, window
        copies = [p.detach().clone(memory_format=torch.contiguous_format) for p in parameters]
        self._shapes = [p.shape for p in copies]
        self._fingerprints = [_fingerprint(copy) for copy in copies]
        doubles = [copy.double() for copy in copies]
        packed = _attention(doubles, heads, window) if heads else _mlp(doubles)
        self._packed = [p.float().contiguous() for p in packed]
        # Weight and bias of the first and of the second layer, both transposed, position bias.
        self.addresses = tuple(p.data_ptr() if p.numel() else 0 for p in self._packed)
        self.hidden = 0 if heads else len(copies[2])

    def still_holds(self, parameters: Sequence[Tensor], heads: int, window: int) -> bool:
        """Whether the parameters still have the same bytes."""
        if self._settings != (heads, window) or self._shapes != [p.shape for p in parameters]:
            return False
        whole = [p if p.is_contiguous() else p.detach().contiguous() for p in parameters]
        entries = tuple(
            (p.data_ptr(), p.nbytes, states.data_ptr())
            for p, states in zip(whole, self._fingerprints, strict=True)
        )
        same = not native().conv_contents_changed(entries, 1)
        return same


_KNOWN = ByWeight[KnownStep]()  # by the first layer's weight


def known_step(parameters: Sequence[Tensor], heads: int, window: int) -> KnownStep:
    """Packed weights of attention with `heads` heads, or of an MLP if they are 0."""
    known = _KNOWN.get(parameters[2])
    if known is None or not known.still_holds(parameters, heads, window):
        known = _KNOWN.keep(parameters[2], KnownStep(parameters, heads, window))
    return known


def _fingerprint(copy: Tensor) -> Tensor:
    pieces = max(1, -(-copy.nbytes // native().fingerprint_piece))
    states = torch.zeros(pieces * native().fingerprint_state // 4, dtype=torch.int32, device="cpu")
    native().conv_fingerprint(copy.data_ptr(), copy.nbytes, states.data_ptr())
    return states


def _pack(weight: Tensor) -> Tensor:
    """(rows, inputs) in tiles of rows, each (inputs, rows of the tile); the last may have fewer."""
    tile = native().attention_tile_rows
    whole = len(weight) // tile * tile
    tiles = weight[:whole].unflatten(0, (-1, tile)).transpose(1, 2)
    return torch.cat([tiles.flatten(), weight[whole:].T.flatten()])


def _normed(weight: Tensor, bias: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """A norm's affine part and the layer after it, as one layer."""
    return weight * scale, bias + weight @ offset


def _attention(parameters: Sequence[Tensor], heads: int, window: int) -> list[Tensor]:
    scale, offset, qkv, qkv_bias, table, proj, proj_bias = parameters
    width = len(proj)
    qkv, qkv_bias = _normed(qkv, qkv_bias, scale, offset)
    queries = (width // heads) ** -0.5 * LOG2_E
    qkv[:width] *= queries
    qkv_bias[:width] *= queries
    position = _position(table, window) * LOG2_E
    return [_pack(qkv), qkv_bias, _pack(proj), proj_bias, _pack(qkv.T), _pack(proj.T), position]


def _mlp(parameters: Sequence[Tensor]) -> list[Tensor]:
    scale, offset, fc1, fc1_bias, fc2, fc2_bias = parameters
    fc1, fc1_bias = _normed(fc1, fc1_bias, scale, offset)
    return [
        _pack(fc1),
        fc1_bias,
        _pack(fc2),
        fc2_bias,
        _pack(fc1.T),
        _pack(fc2.T),
        fc1.new_empty(0),
    ]


def _position(table: Tensor, window: int) -> Tensor:
    """(heads, 2n-1, 2n-1, key pixel, query pixel) by the query's cell relative to the key's."""
    side = native().attention_cell_side
    cells = window // side
    apart = side * torch.arange(1 - cells, cells, device="cpu")
    pixel = torch.arange(side, device="cpu")
    offset = apart[:, None, None] + pixel - pixel[:, None] + window - 1  # [cell, key, query]
    rows, columns = offset[:, None, :, None, :, None], offset[None, :, None, :, None, :]
    found = table[(rows * (2 * window - 1) + columns).flatten()]
    return found.T.contiguous()
