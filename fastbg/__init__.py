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
from fastbg.models.checkpoints import load_model, save_model
from fastbg.models.wrapped import wrap
from fastbg.ops.attention import pixel_mlp, window_attention
from fastbg.ops.composite import Transform, composite, composite_lr, mosaic
from fastbg.ops.conv import conv3x3
from fastbg.ops.gram import conv_gram, gram
from fastbg.ops.path import blur_path, gradient_detector, path_integral
from fastbg.texture import gram_distance, texture_gram

if TYPE_CHECKING:
    from fastbg.running import run_experiments

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
    "pixel_mlp",
    "run_experiments",
    "save_model",
    "texture_gram",
    "window_attention",
    "wrap",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """run_experiments brings figures and tables along: loaded by those who use it."""
    if name != "run_experiments":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastbg.running import run_experiments

    return run_experiments
