"""Winograd factors of the weights of conv3x3, cached as long as the weights' bytes are the same.

Frozen networks use a weight many times. Only its contents tell whether it is still the same:
several ways of writing to a tensor change neither its version, nor its address, nor its identity.
The kernel computes a fingerprint of the contents at every call (csrc/cpu/fingerprint.h) and reports
a difference.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastbg.backends.cpu import floats, native
from fastbg.backends.cpu.by_weight import ByWeight
from fastbg.backends.tensor_view import view

LANES = 16  # kConvLanes in csrc/cpu/conv.h: channels come in multiples of it


# Address and bytes of a weight, and the address of its fingerprint, for the kernel to compare.
Contents = tuple[int, int, int]
NOTHING: Contents = 0, 0, 0


class KnownWeight:
    """A copy of a weight (Co,Ci,3,3), its fingerprint, and the factors computed from it."""

    def __init__(self, weight: Tensor) -> None:
        self._copy = _in_one_piece(weight.detach()).clone()
        self._dtype, self._shape, self._strides = weight.dtype, weight.shape, self._copy.stride()
        self._bytes = self._copy.nbytes
        words = -(-self._bytes // native().fingerprint_piece) * native().fingerprint_state // 4
        self._fingerprint = torch.empty(words, dtype=torch.int32, device="cpu")
        self._place = self._fingerprint.data_ptr()
        native().conv_fingerprint(self._copy.data_ptr(), self._bytes, self._place)
        self._factors: dict[tuple[bool, int], Tensor] = {}
        self._taps: Tensor | None = None
        self.tail: object = None  # see conv_tail.py

    def lies_like(self, weight: Tensor) -> bool:
        """Whether `weight` has the copy's shape, dtype and layout; values are not compared."""
        return (
            weight.stride() == self._strides
            and weight.shape == self._shape
            and weight.dtype is self._dtype
        )

    def contents(self, weight: Tensor) -> Contents:
        """What the kernel compares, for a weight with the copy's layout."""
        return weight.data_ptr(), self._bytes, self._place

    def equals(self, weight: Tensor) -> bool:
        """Whether `weight` equals the copy bit by bit."""
        return self.lies_like(weight) and torch.equal(_bytes(weight), _bytes(self._copy))

    def factors(self, transposed: bool, upscale: int) -> Tensor:
        """Factors of the convolution with `upscale`, or of the transposed one (input gradient)."""
        made = self._factors.get((transposed, upscale))
        if made is None:
            made = _make_factors(self._copy, transposed, upscale)
            self._factors[transposed, upscale] = made
        return made

    @property
    def weight(self) -> Tensor:
        """The copy."""
        return self._copy

    def taps(self) -> Tensor:
        """(3,3,Ci,Co) contiguous."""
        if self._taps is None:
            self._taps = self._copy.permute(2, 3, 1, 0).contiguous()
        return self._taps


_KNOWN = ByWeight[KnownWeight]()  # entries are deleted with their weights


def known_weight(weight: Tensor) -> tuple[KnownWeight, Contents]:
    """The cached data of `weight`, and what the kernel compares; on a difference, call `learn`."""
    known = _KNOWN.get(weight)
    if known is None:
        return learn(weight), NOTHING
    if known.lies_like(weight):
        return known, known.contents(weight)
    if known.equals(_in_one_piece(weight)):
        return known, NOTHING
    return learn(weight), NOTHING


def learn(weight: Tensor) -> KnownWeight:
    """Compute and store the data of `weight` as it is now."""
    return _KNOWN.keep(weight, KnownWeight(weight))


def _in_one_piece(weight: Tensor) -> Tensor:
    """`weight`, or a copy if its elements are not dense in memory."""
    if weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last):
        return weight
    return weight.contiguous()


def _bytes(whole: Tensor) -> Tensor:
    return whole.flatten().view(torch.uint8)


def by_place(x: Tensor, places: int) -> Tensor:
    """Output channels (C * places, ...) in pixel-shuffle order as (places, C, ...)."""
    return x.unflatten(0, (-1, places)).transpose(0, 1)


def padded(x: Tensor, dim: int) -> Tensor:
    """`x` padded with zeros at the end of `dim` to whole vectors; `x` itself if none are needed."""
    if x.shape[dim] % LANES == 0:
        return x
    return pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, -x.shape[dim] % LANES))


def _make_factors(weight: Tensor, transposed: bool, upscale: int) -> Tensor:
    taps = padded(by_place(weight.float(), upscale**2), 1)  # [r*r, C, Ci, 3, 3]
    taps = padded(taps, 2)
    group = taps.shape[1]
    if transposed:
        group = taps.shape[2]
        taps = taps.flip(3, 4).flatten(0, 1).permute(0, 2, 3, 1)
    else:
        taps = taps.flatten(0, 1).permute(1, 2, 3, 0)
    taps = taps.contiguous()  # [in, 3, 3, out]
    factors = floats(36 * taps.shape[0] * taps.shape[3])
    native().conv_factors(view(taps), group, view(factors), torch.get_num_threads())
    return factors
