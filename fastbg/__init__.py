"""fastbg: which pixels did a super-resolution network use, and did they help?"""

from typing import TYPE_CHECKING, Any

from fastbg.attribution import (
    AttributionResult,
    CustomObjective,
    CustomPath,
    GaussianBlurPath,
    GaussianLinearPath,
    GradientDetector,
    LinearPath,
    LocalAttribution,
    PixelSum,
)
from fastbg.measures.texture import gram_distance, texture_gram
from fastbg.models.checkpoints import load_model, save_model
from fastbg.models.wrapped import wrap
from fastbg.ops.composite import Transform, composite, composite_lr, mosaic
from fastbg.ops.conv import conv3x3
from fastbg.ops.gram import conv_gram, gram
from fastbg.ops.path import blur_path, gradient_detector, path_integral
from fastbg.precision import use_precision
from fastbg.version import __version__ as __version__

if TYPE_CHECKING:
    from fastbg.runs.running import run_experiments

__all__ = [
    "AttributionResult",
    "CustomObjective",
    "CustomPath",
    "GaussianBlurPath",
    "GaussianLinearPath",
    "GradientDetector",
    "LinearPath",
    "LocalAttribution",
    "PixelSum",
    "Transform",
    "blur_path",
    "composite",
    "composite_lr",
    "conv3x3",
    "conv_gram",
    "gradient_detector",
    "gram",
    "gram_distance",
    "load_model",
    "mosaic",
    "path_integral",
    "run_experiments",
    "save_model",
    "texture_gram",
    "use_precision",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """run_experiments brings figures and tables along: loaded by those who use it."""
    if name != "run_experiments":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastbg.runs.running import run_experiments

    return run_experiments
