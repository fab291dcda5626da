"""Expected gradients: integrated gradients averaged over a set of baselines."""

from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from fastbg.attribution.local import Integrals, LocalAttribution, integrate
from fastbg.attribution.objectives import Objective
from fastbg.attribution.passes import Windows, as_inputs, as_windows, leading_shape
from fastbg.attribution.paths import LinearPath
from fastbg.attribution.quadrature import Cells, quadrature
from fastbg.attribution.result import AttributionResult
from fastbg.attribution.unexplained import without
from fastbg.errors import InvalidArgument
from fastbg.models.arguments import check_whole
from fastbg.ops.checks import check_finite, check_images, check_unit_range
from fastbg.precision import in_precision


class ExpectedGradients:
    """Integrated gradients averaged over several baselines, so that no single baseline decides.

    ``A[i] = E[(x[i] - x'[i]) * dF/dx[i](x' + t (x - x'))]`` over baselines x' and t ~ U(0,1) (Erion
    et al., Nature Machine Intelligence 3, 2021, "Expected gradients"). The sum of A is F(x)
    minus the mean of F over the baselines.

    Args:
        model: as `LocalAttribution` takes it.
        baselines: (M,C,h,w) in [0,1], such as other images or blurred ones, or colours (M,C,1,1).
            The same baselines are used for every image.
        objective: as for `LocalAttribution`; default LAM's `GradientDetector()`.
        seed: of the draws of ``attribute(samples=...)``.
        memory_budget, autocast: as for `LocalAttribution`.

    Raises:
        InvalidArgument: an argument's type, shape or value.

    Example:
        >>> import torch, fastbg
        >>> greys = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 1, 1)
        >>> expected = fastbg.ExpectedGradients(fastbg.load_model("edsr"), greys)
        >>> expected.attribute(torch.rand(1, 3, 24, 24), (40, 40, 16), n_steps=4).map.shape
        torch.Size([1, 24, 24])
    """

    def __init__(
        self,
        model: nn.Module,
        baselines: Tensor,
        objective: Objective | Callable[[Tensor], Tensor] | None = None,
        *,
        seed: int = 0,
        memory_budget: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_images("baselines", baselines)
        if not len(baselines):
            raise InvalidArgument("baselines", "none", "at least one, (M, C, h, w)")
        check_finite("baselines", baselines, "an image")
        check_unit_range("baselines", baselines)
        self.baselines, self.seed = baselines, check_whole("seed", seed, least=0)
        self._lines = [
            LocalAttribution(
                model,
                LinearPath(baseline),
                objective,
                memory_budget=memory_budget,
                autocast=autocast,
            )
            for baseline in baselines.split(1)
        ]

    @in_precision
    @torch.inference_mode(False)
    @torch.enable_grad()
    def attribute(
        self,
        images: Tensor,
        windows: Windows,
        n_steps: int = 16,
        method: str = "arc_midpoint",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        samples: int | None = None,
    ) -> AttributionResult:
        """Attribute the objective in each window to the pixels of its image.

        Args:
            images, windows, internal_batch_size: as for `LocalAttribution.attribute`.
            n_steps, method: quadrature rule along the line from each baseline.
            return_convergence_delta: also return the sum of the attribution minus its exact value,
                the objective at the image minus its mean over the baselines.
            samples: number of random draws that replace the quadrature rule, as published. Each
                draw is a baseline and a point on its line. Draws are seeded, and the same for every
                image and window.

        Returns:
            An `AttributionResult` with one entry for each pair of image and window.

        Raises:
            InvalidArgument: as `LocalAttribution.attribute`; baselines of another size or number of
                channels than the images.
        """
        images = as_inputs(images, self._lines[0].model)
        self._check_baselines(images)
        corners = as_windows(windows, len(images))
        if samples is None:
            # On a straight line the arc length is proportional to the position.
            cells = quadrature(method, n_steps, lambda fractions: fractions)
            parts = [cells] * len(self._lines)
        else:
            parts = list(self._drawn(check_whole("samples", samples)))
        found = (
            integrate(line, images, corners, part, internal_batch_size, return_convergence_delta)
            for line, part in zip(self._lines, parts, strict=True)
        )
        mean = reduce(_sum, found).divided(len(self._lines))
        return mean.result(images, corners, leading_shape(windows, len(images)))

    def _drawn(self, samples: int) -> Iterator[Cells]:
        """The points drawn on each baseline's line, weighted so that the result is their mean."""
        generator, count = np.random.default_rng(self.seed), len(self._lines)
        chosen, places = generator.integers(count, size=samples), generator.random(samples)
        for m in range(count):
            nodes = places[chosen == m]
            ones = np.ones(len(nodes))
            yield Cells(nodes, 0 * ones, ones, ones * count / samples)

    def _check_baselines(self, images: Tensor) -> None:
        """InvalidArgument for baselines that are neither colours nor as large as the images."""
        channels, *sides = images.shape[1:]
        if tuple(self.baselines.shape[1:]) not in ((channels, *sides), (channels, 1, 1)):
            whole = f"(M, {channels}, {sides[0]}, {sides[1]}), as the images"
            got = f"shape {tuple(self.baselines.shape)}"
            raise InvalidArgument("baselines", got, f"{whole}; or (M, {channels}, 1, 1)")


def _sum(one: Integrals, other: Integrals) -> Integrals:
    """The sum of the integrals along the lines from two baselines."""
    return Integrals(
        total=one.total + other.total,
        ends=None if one.ends is None or other.ends is None else one.ends + other.ends,
        unexplained=(one.unexplained | other.unexplained) & without(one.total + other.total),
        scale=max(one.scale, other.scale),  # 0 for a line without draws
        passes=one.passes + other.passes,
    )
