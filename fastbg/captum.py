"""LAM as a Captum attribution class, for code that is written against Captum's interface.

Needs Captum: ``pip install 'fastbg[captum]'``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastbg.attribution import memory
from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.objectives import Objective
from fastbg.attribution.passes import WindowPasses, Windows, as_box, as_inputs, one_window_each
from fastbg.attribution.paths import LinearPath, Path
from fastbg.errors import InvalidArgument
from fastbg.precision import in_precision

try:
    from captum.attr import GradientAttribution
    from captum.log import log_usage
except ImportError as error:
    raise ImportError("fastbg.captum needs Captum: pip install 'fastbg[captum]'") from error


class LAM(GradientAttribution):  # type: ignore[misc]  # Captum has no types where it is missing
    """Local attribution maps under Captum's names: `target` is the window of the SR image.

    Works where Captum takes an attribution class, such as in its `NoiseTunnel`. Values are those of
    `fastbg.LocalAttribution`; with `baselines` given those of Captum's `IntegratedGradients`.

    Args:
        forward_func: SR network, as for `fastbg.LocalAttribution`.
        path: from the baseline to the image; default LAM's `fastbg.GaussianBlurPath()`.
        objective: of the window; default LAM's `fastbg.GradientDetector()`.
    """

    def __init__(
        self,
        forward_func: nn.Module,
        path: Path | None = None,
        objective: Objective | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._lam = LocalAttribution(forward_func, path, objective)
        super().__init__(forward_func)

    @log_usage()  # type: ignore[untyped-decorator]  # Captum's tools call what it wraps
    def attribute(
        self,
        inputs: Tensor,
        baselines: float | Tensor | None = None,
        target: Windows | None = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_right",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attributions (B,C,h,w) of the objective in each window, and the deltas (B) if asked for.

        Args:
            inputs: (B,C,h,w) LR in [0,1].
            baselines: None: the path's own, in LAM the blurred image. A grey level or images: the
                straight path from there (integrated gradients).
            target: the window ``(y, x, size)`` in SR pixels, or (B,3).
            additional_forward_args: None; networks here take the image alone.
            n_steps, method, internal_batch_size, return_convergence_delta: as Captum's, and as
                those of `fastbg.LocalAttribution.attribute`. (Captum's own riemann_trapezoid
                divides by n instead of n - 1, so that its values are (n - 1) / n of these.)

        Raises:
            InvalidArgument: as `fastbg.LocalAttribution`; a target that is missing.
        """
        target = self._checked(target, additional_forward_args)
        options = n_steps, method, internal_batch_size, return_convergence_delta
        if baselines is None:
            found = [self._lam.attribute(inputs, target, *options)]
        else:  # each image has a baseline of its own
            start = LinearPath(baselines).start(inputs)
            windows = one_window_each(target, len(inputs))
            found = [
                LocalAttribution(
                    self._lam.model, LinearPath(start[i : i + 1]), self._lam.objective
                ).attribute(inputs[i : i + 1], windows[i : i + 1], *options)
                for i in range(len(inputs))
            ]
        attribution = torch.cat([part.attribution for part in found])
        deltas = [part.convergence_delta for part in found if part.convergence_delta is not None]
        return (attribution, torch.cat(deltas)) if deltas else attribution

    def has_convergence_delta(self) -> bool:
        """True: the sum of an attribution is the objective's change along the path."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: gradients are multiplied with the steps of the path."""
        return True

    @in_precision
    @torch.no_grad()
    def compute_convergence_delta(
        self,
        attributions: Tensor,
        start_point: float | Tensor,
        end_point: Tensor,
        target: Windows | None = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Sum of each attribution less the objective's change from start to end (B), float64."""
        target = self._checked(target, additional_forward_args)
        start = LinearPath(start_point).start(end_point)
        change = self._values(end_point, target) - self._values(start, target)
        return attributions.double().flatten(1).sum(1) - change

    def _values(self, images: Tensor, target: Windows) -> Tensor:
        """Objective (B), float64, of each image's window."""
        model, objective = self._lam.model, self._lam.objective
        images, passes = as_inputs(images, model), WindowPasses(model)
        corners = one_window_each(target, len(images)).tolist()
        values = images.new_zeros(len(images), dtype=torch.float64)
        with memory.frozen(model):
            for i, box in enumerate(map(as_box, corners)):
                (patch,) = passes.patches(images[i : i + 1], [box], objective.margin)
                values[i] = objective(patch, box.y1 - box.y0, box.x1 - box.x0)[0]
        return values

    def _checked(self, target: Windows | None, additional_forward_args: Any) -> Windows:
        if additional_forward_args is not None:
            got = type(additional_forward_args).__name__
            raise InvalidArgument("additional_forward_args", got, "None")
        if target is None:
            raise InvalidArgument("target", None, "the window (y, x, size) in SR pixels")
        if torch.as_tensor(target).dim() > 2:
            raise InvalidArgument("target", "several windows of an image", "one for each image")
        return target
