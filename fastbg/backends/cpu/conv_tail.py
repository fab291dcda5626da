"""The tail of a stack, convolutions and pixel shuffles only, as one convolution.

Convolution, shuffle, convolution, shuffle, convolution (the up-sampling end of SR networks) are
linear, so together they are one 5x5 convolution on the LR grid that computes all pixels of a block
at once. For RGB, x4 and 64 features it maps 64 channels to 48, with 76,800 multiplications per LR
pixel instead of 765,000. At the border this does not hold, as every convolution pads its own map
with zeros, so the outermost pixels of the grid have their own kernels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d, pad, pixel_unshuffle

from fastbg.backends.cpu import floats, native
from fastbg.backends.cpu.conv_weight import LANES, KnownWeight, padded
from fastbg.backends.stack_layers import Layer
from fastbg.backends.tensor_view import view
from fastbg.geometry import Box

PANEL = 64  # kConvPanel in csrc/cpu/conv.h
ZONES = 16  # kStackZones in csrc/cpu/conv_stack.h: bits for a neighbour above, below, left, right
INSIDE = ZONES - 1
RADIUS = 2  # of the whole tail, for any factors: see `tail_start`


def tail_start(layers: Sequence[Layer], weights: Sequence[Tensor]) -> int:
    """Index of the tail's first layer; the number of layers if there is no useful tail.

    All layers but the last enlarge. So a pixel of any map in between and its neighbours lie in the
    block of one grid pixel or of its neighbour, whose convolution reads one pixel more.
    """
    start, last = len(layers), layers[-1]
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        if layer.relu or layer.residual >= 0 or layer.attention >= 0:
            break
        if layer.upscale == 1 and layer is not last:
            break
        start = i
    if len(layers) - start < 2:
        return len(layers)
    separate, scale = 0, 1
    for layer, weight in zip(layers[start:], weights[start:], strict=True):
        separate += scale**2 * weight.shape[1] * len(weight)
        scale *= layer.upscale
    outputs = len(weights[-1]) // last.upscale**2 * scale**2
    together = 4 * weights[start].shape[1] * (-(-outputs // LANES) * LANES)
    return start if together < separate else len(layers)


class Kernel(NamedTuple):
    """The tail's kernel (O,C,5,5) in float64 for a pixel, O = (channels, upscale, upscale)."""

    weight: Tensor
    bias: Tensor


def compose(
    weights: Sequence[Tensor], biases: Sequence[Tensor], factors: Sequence[int], zone: int
) -> Kernel:
    """The tail's kernel at a pixel of this zone, computed by the transposed layers."""
    scale = 1
    for factor in factors:
        scale *= factor
    channels = len(weights[-1]) // factors[-1] ** 2
    outputs = channels * scale**2
    # One gradient per output, in the block of the pixel at (0, 0).
    grad = torch.eye(outputs, dtype=torch.float64, device="cpu").view(
        outputs, channels, scale, scale
    )
    there, bias = Box(0, 0, scale, scale), torch.zeros(outputs, dtype=torch.float64, device="cpu")
    for weight, of_layer, factor in zip(
        reversed(weights), reversed(biases), reversed(factors), strict=True
    ):
        scale //= factor
        box = there.coarsen(factor)
        wide = box.refine(factor)
        sides = (there.x0 - wide.x0, wide.x1 - there.x1, there.y0 - wide.y0, wide.y1 - there.y1)
        grad = pixel_unshuffle(pad(grad, sides), factor)
        bias = bias + grad.sum((2, 3)) @ of_layer.double()
        grad = conv_transpose2d(grad, weight.double())
        grown = Box(box.y0 - 1, box.x0 - 1, box.y1 + 1, box.x1 + 1)
        there = _common(grown, _map(zone, scale))
        grad = grad[
            ...,
            there.y0 - grown.y0 : there.y1 - grown.y0,
            there.x0 - grown.x0 : there.x1 - grown.x0,
        ]
    sides = (there.x0 + RADIUS, RADIUS + 1 - there.x1, there.y0 + RADIUS, RADIUS + 1 - there.y1)
    return Kernel(pad(grad, sides), bias)


def _map(zone: int, scale: int) -> Box:
    """The box of a map `scale` times as fine as the grid, as far as the kernel reaches."""
    above, below, left, right = (bool(zone >> bit & 1) for bit in range(4))
    far = RADIUS + 1
    return Box(
        -far * scale * above,
        -far * scale * left,
        (1 + far * below) * scale,
        (1 + far * right) * scale,
    )


def _common(a: Box, b: Box) -> Box:
    return Box(max(a.y0, b.y0), max(a.x0, b.x0), min(a.y1, b.y1), min(a.x1, b.x1))


class Tail:
    """The kernels of a tail, each computed on first use."""

    def __init__(
        self, known: Sequence[KnownWeight], biases: Sequence[Tensor], factors: Sequence[int]
    ) -> None:
        self._known, self._factors = tuple(known), tuple(factors)
        self._biases = [_bits(bias).clone() for bias in biases]
        self._weights = [one.weight for one in known]
        self._composed: dict[int, Kernel] = {}
        self._made: dict[tuple[bool, int], Tensor] = {}

    def is_of(
        self, known: Sequence[KnownWeight], biases: Sequence[Tensor], factors: Sequence[int]
    ) -> bool:
        """Whether it was made of these values."""
        return (
            self._factors == tuple(factors)
            and len(self._known) == len(known)
            and all(mine is other for mine, other in zip(self._known, known, strict=True))
            and all(
                torch.equal(mine, _bits(other))
                for mine, other in zip(self._biases, biases, strict=True)
            )
        )

    def factors(self, transposed: bool) -> Tensor:
        """For Winograd's F(4x4, 3x3), away from the border."""
        made = self._made.get((transposed, INSIDE))
        if made is None:
            made = _winograd_factors(self._weight(INSIDE, transposed))
            self._made[transposed, INSIDE] = made
        return made

    def kernel(self, zone: int, transposed: bool) -> Tensor:
        """(25, in, out) for every panel of `out`, for a zone at the border."""
        made = self._made.get((transposed, zone))
        if made is None:
            taps = self._weight(zone, transposed).flatten(2).permute(2, 1, 0).float()
            panels = (panel.reshape(-1) for panel in taps.split(PANEL, dim=2))
            made = self._made[transposed, zone] = torch.cat(list(panels))
        return made

    def biases(self, zones: Sequence[int]) -> Tensor:
        """(ZONES, O) in float32; only those of `zones` are filled."""
        rows = [self._kernel(zone).bias.float() for zone in zones]
        made = floats(ZONES, -(-len(rows[0]) // LANES) * LANES).zero_()
        for zone, row in zip(zones, rows, strict=True):
            made[zone, : len(row)] = row
        return made

    def _kernel(self, zone: int) -> Kernel:
        found = self._composed.get(zone)
        if found is None:
            biases = [bits.view(torch.float32) for bits in self._biases]
            found = compose(self._weights, biases, self._factors, zone)
            self._composed[zone] = found
        return found

    def _weight(self, zone: int, transposed: bool) -> Tensor:
        """The zone's weight (out, in, 5, 5), channels padded to whole vectors.

        `transposed`: (in, out, 5, 5), for gradients. Inside they are a convolution, whose taps are
        flipped; at the border each output's gradient is spread by the taps as they are.
        """
        weight = padded(padded(self._kernel(zone).weight, 0), 1)
        if not transposed:
            return weight
        weight = weight.transpose(0, 1)
        return weight.flip(2, 3) if zone == INSIDE else weight


def tail_of(known: Sequence[KnownWeight], biases: Sequence[Tensor], factors: Sequence[int]) -> Tail:
    """The tail cached with the first weight, or a new one if any values have changed."""
    kept = known[0].tail
    if isinstance(kept, Tail) and kept.is_of(known, biases, factors):
        return kept
    made = known[0].tail = Tail(known, biases, factors)
    return made


def described(
    tail: Tail, box: Box, upscale: int, channels: int, height: int, width: int, transposed: bool
) -> tuple[tuple[object, ...], list[Tensor]]:
    """The tail for the kernel, and the tensors that own its memory; `box` in pixels of the result,
    on a grid of (height, width)."""
    zones = zones_in(box.coarsen(upscale), height, width)
    factors, biases = tail.factors(transposed), tail.biases([*zones, INSIDE])
    kernels = {zone: tail.kernel(zone, transposed) for zone in zones}
    addresses = tuple(kernels[z].data_ptr() if z in kernels else 0 for z in range(ZONES))
    numbers = (tuple(box), upscale, channels, factors.data_ptr(), addresses, biases.data_ptr())
    return numbers, [factors, biases, *kernels.values()]


def zones_in(box: Box, height: int, width: int) -> list[int]:
    """The border zones that contain pixels of the box."""
    rows = _zones_of_axis(box.y0, box.y1, height)
    columns = _zones_of_axis(box.x0, box.x1, width)
    return sorted({row + 4 * column for row in rows for column in columns} - {INSIDE})


def _zones_of_axis(start: int, stop: int, size: int) -> set[int]:
    """1 for a pixel before, 2 for one behind."""
    ends = {start, stop - 1, min(start + 1, stop - 1)}
    return {(v > 0) + 2 * (v + 1 < size) for v in ends}


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int32)


def _winograd_factors(weight: Tensor) -> Tensor:
    """Factors of (out, in, 5, 5) as four 3x3 convolutions, centred one pixel above or below and
    left or right: the first has taps 0 to 2 of an axis, the second taps 3 and 4."""
    split = pad(weight, (0, 1, 0, 1)).clone()
    rows = [split[:, :, 0:3], pad(split[:, :, 3:5], (0, 0, 1, 0))]
    parts = [half[..., 0:3] for half in rows], [pad(half[..., 3:5], (1, 0)) for half in rows]
    corners = torch.cat([parts[j][i] for i in range(2) for j in range(2)], dim=1)
    taps = corners.permute(1, 2, 3, 0).float().contiguous()  # [4 in, 3, 3, out]
    factors = floats(36 * taps.shape[0] * taps.shape[3])
    native().conv_factors(view(taps), taps.shape[3], view(factors), torch.get_num_threads())
    return factors
