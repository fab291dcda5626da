"""Attribution of what an SR network did in a window to the pixels of its input."""

from fastbg.attribution.density import kde_density
from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.objectives import CustomObjective, GradientDetector, Objective, PixelSum
from fastbg.attribution.paths import (
    CustomPath,
    GaussianBlurPath,
    GaussianLinearPath,
    LinearPath,
    Path,
)
from fastbg.attribution.result import AttributionResult

__all__ = [
    "AttributionResult",
    "CustomObjective",
    "CustomPath",
    "GaussianBlurPath",
    "GaussianLinearPath",
    "GradientDetector",
    "LinearPath",
    "LocalAttribution",
    "Objective",
    "Path",
    "PixelSum",
    "kde_density",
]
