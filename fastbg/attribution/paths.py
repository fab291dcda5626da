"""Paths from a baseline to the image, along which gradients are integrated."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from fastbg.attribution.quadrature import Array, Cells
from fastbg.errors import InvalidArgument
from fastbg.filters.constants import on_device
from fastbg.filters.gaussian import gaussian_taps
from fastbg.models.arguments import check_number, check_whole
from fastbg.ops.checks import check_no_other_range, check_pixels, check_unit_range, values_are_known
from fastbg.ops.path import blur_path, path_integral
from fastbg.upload import sent, uploaded

ARC_GRID = 4096  # cells on which a kernel's arc length is summed
BEYOND = 7.0  # allowed beyond [0,1], as nodes may hold noise; values of 0..255 are far outside
END_OFF = 0.5 / 255  # of a path's end from the image, for functions that round
MOST_TAPS = 255  # more, and the square kernels of a path's nodes no longer fit into memory


class Path(ABC):
    """A path x(t), t in [0,1], from the baseline x(0) to the image x(1). Subclass it for your own.

    If functions for x(t) and dx/dt are enough, use `CustomPath`. Images are (B,C,h,w) in [0,1];
    positions t are float64 arrays (K).

    `radius` is how far, in pixels, a node's or step's pixel looks in the image; None: anywhere. If
    it is known, only the part of the image that a window depends on is computed. A subclass of
    one of the paths here has None too, as it may look farther, unless it sets its own.
    """

    radius: int | None = None

    @abstractmethod
    def nodes(self, images: Tensor, positions: Array) -> Tensor:
        """x at each of `positions`: (B,K,C,h,w)."""

    @abstractmethod
    def integral(self, gradients: Tensor, images: Tensor, cells: Cells) -> Tensor:
        """Sum over the cells of gradient times step: gradients (B,K,C,h,w) -> (B,C,h,w)."""

    def at_length(self, fractions: Array) -> Array:
        """The position t at each fraction (K) of the arc length; equal to it at constant speed."""
        return fractions

    def step_sizes(self, cells: Cells) -> Array:
        """Length (K) of each weighted step, as a fraction of the path's length."""
        return cells.weight * (cells.end - cells.start)


class GaussianBlurPath(Path):
    """LAM's path: the image blurred by a Gaussian whose width falls linearly from `sigma` to 0.

    Args:
        sigma: width at the baseline, in LR pixels; positive.
        kernel_size: odd number of taps, 3 to 255; borders as for `fastbg.blur_path`.
        backend: of `fastbg.blur_path` and `fastbg.path_integral`.

    Raises:
        InvalidArgument: `sigma` or `kernel_size`.

    Example:
        >>> import numpy as np, torch, fastbg
        >>> path = fastbg.GaussianBlurPath(sigma=1.2)
        >>> path.nodes(torch.rand(1, 3, 32, 32), np.array([0.0, 0.5, 1.0])).shape
        torch.Size([1, 3, 3, 32, 32])
    """

    def __init__(self, sigma: float = 1.2, kernel_size: int = 9, backend: str = "auto") -> None:
        _check_blur(sigma, kernel_size)
        self.sigma, self.kernel_size, self.backend = sigma, kernel_size, backend
        if type(self) is GaussianBlurPath:
            self.radius = kernel_size // 2

    def __repr__(self) -> str:
        return f"GaussianBlurPath(sigma={self.sigma}, kernel_size={self.kernel_size})"

    def sigmas(self, positions: Array) -> Array:
        """Width of the Gaussian at each position."""
        return self.sigma * (1 - positions)

    def nodes(self, images: Tensor, positions: Array) -> Tensor:
        """x at each of `positions`: (B,K,C,h,w)."""
        sigmas = torch.from_numpy(self.sigmas(positions))
        return blur_path(images, sigmas, self.kernel_size, backend=self.backend)

    def integral(self, gradients: Tensor, images: Tensor, cells: Cells) -> Tensor:
        """Sum over the cells of gradient times step: gradients (B,K,C,h,w) -> (B,C,h,w)."""
        ends = torch.from_numpy(self.sigmas(np.stack((cells.start, cells.end), 1)))
        weights = torch.from_numpy(cells.weight)
        return path_integral(
            gradients, images, ends, self.kernel_size, weights=weights, backend=self.backend
        )

    def at_length(self, fractions: Array) -> Array:
        """Position at each fraction of the arc length: the L1 length of the kernel's change."""
        length = _arc_length(self.sigma, self.kernel_size)
        grid = np.linspace(0, 1, ARC_GRID + 1)
        position = np.interp(fractions * length[-1], length, grid)
        # Near width 0 the kernel no longer changes in float64; the end is t = 1 nevertheless.
        return np.where(fractions >= 1, 1.0, position)

    def step_sizes(self, cells: Cells) -> Array:
        """L1 norm (K) of each weighted kernel step, as a fraction of the path's length."""
        start, end = (self._kernels(t) for t in (cells.start, cells.end))
        norms = np.abs(end - start).sum((1, 2))
        sizes: Array = cells.weight * norms / _arc_length(self.sigma, self.kernel_size)[-1]
        return sizes

    def _kernels(self, positions: Array) -> Array:
        return _kernels(self.sigmas(positions), self.kernel_size)


class LinearPath(Path):
    """The straight line from `baseline` to the image (integrated gradients, Sundararajan 2017).

    Args:
        baseline: grey level in [0,1], or a tensor of floats that broadcasts to the images
            (B,C,h,w).

    Raises:
        InvalidArgument: another type or dtype; values of another range, such as 0..255.

    Example:
        >>> import numpy as np, torch, fastbg
        >>> path = fastbg.LinearPath(baseline=0.5)
        >>> path.nodes(torch.ones(1, 1, 1, 1), np.array([0.0, 0.5, 1.0])).flatten()
        tensor([0.5000, 0.7500, 1.0000])
    """

    def __init__(self, baseline: float | Tensor = 0.0) -> None:
        self.baseline = _checked_baseline(baseline)
        shape = baseline.shape[-2:] if isinstance(baseline, Tensor) else ()
        if type(self) is LinearPath and all(side == 1 for side in shape):  # a colour, not an image
            self.radius = 0

    def __repr__(self) -> str:
        shown = tuple(self.baseline.shape) if isinstance(self.baseline, Tensor) else self.baseline
        return f"LinearPath(baseline={shown})"

    def start(self, images: Tensor) -> Tensor:
        """The baseline (B,C,h,w) of `images`."""
        if not isinstance(self.baseline, Tensor):
            return torch.full_like(images, self.baseline)
        try:
            baseline = sent(self.baseline, images.device).to(images.dtype)
            return baseline.expand_as(images)
        except RuntimeError:
            shape = tuple(self.baseline.shape)
            wanted = f"one that broadcasts to {tuple(images.shape)}"
            raise InvalidArgument("baseline", f"shape {shape}", wanted) from None

    def nodes(self, images: Tensor, positions: Array) -> Tensor:
        """x at each of `positions`: (B,K,C,h,w)."""
        t = _constant(positions, images)[:, None, None, None]  # [K,1,1,1]
        start = self.start(images)[:, None]
        return start + t * (images[:, None] - start)

    def integral(self, gradients: Tensor, images: Tensor, cells: Cells) -> Tensor:
        """Sum over the cells of gradient times step: gradients (B,K,C,h,w) -> (B,C,h,w)."""
        weight = _constant(cells.weight * (cells.end - cells.start), gradients)
        return torch.einsum("bkchw,k->bchw", gradients, weight) * (images - self.start(images))


class GaussianLinearPath(LinearPath):
    """The straight line from the blurred image to the image.

    Args:
        sigma: width of the Gaussian, in LR pixels; positive.
        kernel_size: odd number of taps, 3 to 255; borders as for `fastbg.blur_path`.
        backend: of `fastbg.blur_path`.

    Raises:
        InvalidArgument: `sigma` or `kernel_size`.

    Example:
        >>> import fastbg
        >>> fastbg.GaussianLinearPath(sigma=2.0, kernel_size=13)
        GaussianLinearPath(sigma=2.0, kernel_size=13)
    """

    def __init__(self, sigma: float = 1.2, kernel_size: int = 9, backend: str = "auto") -> None:
        _check_blur(sigma, kernel_size)
        self.sigma, self.kernel_size, self.backend = sigma, kernel_size, backend
        if type(self) is GaussianLinearPath:
            self.radius = kernel_size // 2

    def __repr__(self) -> str:
        return f"GaussianLinearPath(sigma={self.sigma}, kernel_size={self.kernel_size})"

    def start(self, images: Tensor) -> Tensor:
        """The baseline (B,C,h,w) of `images`."""
        return blur_path(images, [self.sigma], self.kernel_size, backend=self.backend)[:, 0]


class NoisePath(LinearPath):
    """The straight line from the image under more noise to the image: for denoising networks.

    ``x(t) = image + (1 - t) * sigma * n`` with n ~ N(0, 1), drawn once for each channel and pixel
    and the same for every t, so that the noise level falls linearly. LAM explains the structure
    that its baseline lacks (Gu and Dong, CVPR 2021, section 3). A blurred baseline lacks detail,
    which a denoiser's input already has; this baseline lacks what strong noise hides. Each seed
    gives one baseline: average maps over seeds, or pass several baselines to `ExpectedGradients`.

    Args:
        sigma: standard deviation of the added noise for images in [0,1], such as 50 / 255;
            positive. The baseline is not clipped to [0,1].
        seed: of the noise, which is the same for all images of one size, on every device.

    Raises:
        InvalidArgument: `sigma` or `seed`.

    Example:
        >>> import numpy as np, torch, fastbg
        >>> path = fastbg.NoisePath(sigma=25 / 255, seed=1)
        >>> nodes = path.nodes(torch.full((1, 1, 64, 64), 0.5), np.array([0.0, 0.5, 1.0]))
        >>> [round(float(node.std()) * 255) for node in nodes[0]]
        [25, 13, 0]
    """

    def __init__(self, sigma: float = 50 / 255, seed: int = 0) -> None:
        if not check_number("sigma", sigma, least=0):
            raise InvalidArgument("sigma", sigma, "a positive noise level for images in [0, 1]")
        self.sigma, self.seed = sigma, check_whole("seed", seed, least=0)

    def __repr__(self) -> str:
        return f"NoisePath(sigma={self.sigma}, seed={self.seed})"

    def start(self, images: Tensor) -> Tensor:
        """The baseline (B,C,h,w) of `images`."""
        noise = np.random.default_rng(self.seed).standard_normal(images.shape[1:])
        there = sent(torch.from_numpy(noise).to(images.dtype), images.device)
        return images + self.sigma * there


PathFunction = Callable[[Tensor, Tensor], Tensor]


class CustomPath(Path):
    """A path given by functions of (images (B,C,h,w), t (K)), each returning (B,K,C,h,w).

    Args:
        nodes: x(t).
        derivatives: dx/dt. If None, the steps are differences of `nodes` between the ends of each
            cell. The attribution is complete then, too, but the method "gausslegendre" needs
            derivatives.

    Raises:
        InvalidArgument: on use, if a function returns another shape or dtype, or derivatives are
            needed; on a CPU, if nodes are far outside of [0,1] or x(1) is not the image.

    Example:
        >>> import torch, fastbg
        >>> fade_in = fastbg.CustomPath(lambda x, t: t[:, None, None, None] * x[:, None])
        >>> small = fastbg.wrap(torch.nn.Upsample(scale_factor=4), scale=4)
        >>> lam = fastbg.LocalAttribution(small, fade_in)
        >>> lam.attribute(torch.rand(1, 3, 16, 16), (24, 24, 16), 4).map.shape
        torch.Size([1, 16, 16])
    """

    def __init__(self, nodes: PathFunction, derivatives: PathFunction | None = None) -> None:
        self._nodes, self._derivatives = nodes, derivatives

    def _call(self, name: str, function: PathFunction, images: Tensor, positions: Array) -> Tensor:
        # Not a kept constant, as the function might write to it.
        result = function(images, uploaded(positions, images.dtype, images.device))
        wanted = (images.shape[0], len(positions), *images.shape[1:])
        if not isinstance(result, Tensor) or result.dtype != images.dtype:
            kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
            raise InvalidArgument(name, kind, f"a tensor of the images' dtype {images.dtype}")
        if result.shape != wanted:
            raise InvalidArgument(
                name, f"shape {tuple(result.shape)}", f"(B, K, C, h, w) = {wanted}"
            )
        return result

    def nodes(self, images: Tensor, positions: Array) -> Tensor:
        """x at each of `positions`: (B,K,C,h,w)."""
        nodes = self._call("nodes", self._nodes, images, positions)
        check_no_other_range("nodes", nodes, BEYOND)
        last = np.flatnonzero(positions == 1)
        if len(last) and nodes.numel() and values_are_known(nodes):
            off = float((nodes[:, last[0]] - images).detach().abs().max())
            if not off <= END_OFF:
                got = f"x(1) that differs from the image by up to {off:.3g}"
                raise InvalidArgument("nodes", got, "a path that ends at the image, x(1) = image")
        return nodes

    def integral(self, gradients: Tensor, images: Tensor, cells: Cells) -> Tensor:
        """Sum over the cells of gradient times step: gradients (B,K,C,h,w) -> (B,C,h,w)."""
        weight, length = cells.weight, cells.end - cells.start
        if self._derivatives is not None:
            steps = self._call("derivatives", self._derivatives, images, cells.node)
            weight = weight * length
        elif cells.pointwise:
            raise InvalidArgument("derivatives", None, "a function, for the method gausslegendre")
        else:
            steps = self.nodes(images, cells.end) - self.nodes(images, cells.start)
        factor = _constant(weight, steps)[:, None, None, None]
        return (gradients * steps * factor).sum(1)


def _constant(values: Array, like: Tensor) -> Tensor:
    """`values` in the dtype and on the device of `like`, which keeps them: do not write."""
    return on_device(torch.from_numpy(values), like.device, like.dtype)


def _checked_baseline(value: float | Tensor) -> float | Tensor:
    """`value`; InvalidArgument for what is neither a grey level nor pixels in [0,1]."""
    if isinstance(value, Tensor):
        check_pixels("baseline", value)
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        expected = "a grey level in [0, 1], or a tensor that broadcasts to the images"
        raise InvalidArgument("baseline", type(value).__name__, expected)
    check_unit_range("baseline", torch.tensor(float(value), device="cpu"))
    return value


def _check_blur(sigma: float, kernel_size: int) -> None:
    if not check_number("sigma", sigma) > 0:
        raise InvalidArgument("sigma", sigma, "a positive width in LR pixels")
    if not 3 <= check_whole("kernel_size", kernel_size) <= MOST_TAPS or kernel_size % 2 == 0:
        expected = f"an odd number of taps from 3 to {MOST_TAPS}"
        raise InvalidArgument("kernel_size", kernel_size, expected)


def _kernels(sigmas: Array, kernel_size: int) -> Array:
    """The square kernels (K,k,k)."""
    taps = gaussian_taps(torch.from_numpy(sigmas), kernel_size).numpy()
    kernels: Array = taps[:, :, None] * taps[:, None, :]
    return kernels


@lru_cache(maxsize=16)
def _arc_length(sigma: float, kernel_size: int) -> Array:
    """L1 arc length of the kernel from the baseline on, at ARC_GRID + 1 equidistant positions."""
    sigmas = np.linspace(sigma, 0, ARC_GRID + 1)
    parts = range(0, ARC_GRID, 128)  # one after the other, to save memory
    kernels = (_kernels(sigmas[first : first + 129], kernel_size) for first in parts)
    steps = np.concatenate([np.abs(np.diff(some, axis=0)).sum((1, 2)) for some in kernels])
    length: Array = np.concatenate(([0.0], steps.cumsum()))
    length.setflags(write=False)
    return length
