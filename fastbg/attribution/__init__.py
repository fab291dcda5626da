"""Attribution of what an SR network did in a window to the pixels of its input."""

from fastbg.attribution.density import kde_density
from fastbg.attribution.effect import CausalEffectMap
from fastbg.attribution.effect_result import CausalEffectResult
from fastbg.attribution.interventions import Interventions, published_patches
from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.objectives import CustomObjective, GradientDetector, Objective, PixelSum
from fastbg.attribution.occlusion import Occlusion, OcclusionResult
from fastbg.attribution.paths import (
    CustomPath,
    GaussianBlurPath,
    GaussianLinearPath,
    LinearPath,
    NoisePath,
    Path,
)
from fastbg.attribution.result import AttributionResult

__all__ = [
    "AttributionResult",
    "CausalEffectMap",
    "CausalEffectResult",
    "CustomObjective",
    "CustomPath",
    "GaussianBlurPath",
    "GaussianLinearPath",
    "GradientDetector",
    "Interventions",
    "LinearPath",
    "LocalAttribution",
    "NoisePath",
    "Objective",
    "Occlusion",
    "OcclusionResult",
    "Path",
    "PixelSum",
    "kde_density",
    "published_patches",
]
