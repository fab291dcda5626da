"""fastbg: which pixels did a super-resolution network use, and did they help?

Every name is loaded when it is first used, PyTorch with it: `fastbg --help` needs neither. The
operators are in `torch.ops.fastbg` after ``import torch, fastbg``, in this order, or after the
first use of one of the names below, or after ``import fastbg.ops``.
"""

import sys
from typing import TYPE_CHECKING

from fastbg import users_line
from fastbg.version import __version__ as __version__
from fastbg.working_folder import load_torch

load_torch()

if TYPE_CHECKING:
    from fastbg.attribution import (
        AttributionResult,
        CausalEffectMap,
        CausalEffectResult,
        CustomObjective,
        CustomPath,
        GaussianBlurPath,
        GaussianLinearPath,
        GradientDetector,
        Interventions,
        LinearPath,
        LocalAttribution,
        NoisePath,
        Occlusion,
        OcclusionResult,
        PixelSum,
        published_patches,
    )
    from fastbg.attribution.expected import ExpectedGradients
    from fastbg.attribution.faithfulness import FaithfulnessResult, faithfulness
    from fastbg.attribution.gradient import window_gradient
    from fastbg.attribution.receptive_field import ReceptiveField, receptive_field
    from fastbg.attribution.sanity import SanityResult, sanity_checks
    from fastbg.data.degradation import downsample
    from fastbg.data.opening import open_images
    from fastbg.evaluation import evaluate
    from fastbg.measures.quality import psnr, ssim
    from fastbg.measures.texture import gram_distance, texture_gram
    from fastbg.models.checkpoints import load_model, save_model
    from fastbg.models.wrapped import wrap
    from fastbg.ops.attention import pixel_mlp, window_attention
    from fastbg.ops.composite import Transform, composite, composite_lr, mosaic
    from fastbg.ops.conv import conv3x3
    from fastbg.ops.gram import conv_gram, gram
    from fastbg.ops.path import blur_path, gradient_detector, path_integral
    from fastbg.precision import use_precision
    from fastbg.runs.running import run_experiments
    from fastbg.training import TrainConfig, train

__all__ = [
    "AttributionResult",
    "CausalEffectMap",
    "CausalEffectResult",
    "CustomObjective",
    "CustomPath",
    "ExpectedGradients",
    "FaithfulnessResult",
    "GaussianBlurPath",
    "GaussianLinearPath",
    "GradientDetector",
    "Interventions",
    "LinearPath",
    "LocalAttribution",
    "NoisePath",
    "Occlusion",
    "OcclusionResult",
    "PixelSum",
    "ReceptiveField",
    "SanityResult",
    "TrainConfig",
    "Transform",
    "blur_path",
    "composite",
    "composite_lr",
    "conv3x3",
    "conv_gram",
    "downsample",
    "evaluate",
    "faithfulness",
    "gradient_detector",
    "gram",
    "gram_distance",
    "load_model",
    "mosaic",
    "open_images",
    "path_integral",
    "pixel_mlp",
    "psnr",
    "published_patches",
    "receptive_field",
    "run_experiments",
    "sanity_checks",
    "save_model",
    "ssim",
    "texture_gram",
    "train",
    "use_precision",
    "window_attention",
    "window_gradient",
    "wrap",
]

# Where each name is; the imports above say the same to type checkers.
_NAMES = {
    "attribution": (
        "AttributionResult CausalEffectMap CausalEffectResult CustomObjective CustomPath "
        "GaussianBlurPath GaussianLinearPath GradientDetector Interventions LinearPath "
        "LocalAttribution NoisePath Occlusion OcclusionResult PixelSum published_patches"
    ),
    "attribution.expected": "ExpectedGradients",
    "attribution.faithfulness": "FaithfulnessResult faithfulness",
    "attribution.gradient": "window_gradient",
    "attribution.receptive_field": "ReceptiveField receptive_field",
    "attribution.sanity": "SanityResult sanity_checks",
    "data.degradation": "downsample",
    "data.opening": "open_images",
    "evaluation": "evaluate",
    "measures.quality": "psnr ssim",
    "measures.texture": "gram_distance texture_gram",
    "models.checkpoints": "load_model save_model",
    "models.wrapped": "wrap",
    "ops.attention": "pixel_mlp window_attention",
    "ops.composite": "Transform composite composite_lr mosaic",
    "ops.conv": "conv3x3",
    "ops.gram": "conv_gram gram",
    "ops.path": "blur_path gradient_detector path_integral",
    "precision": "use_precision",
    "runs.running": "run_experiments",
    "training": "TrainConfig train",
}
_HOMES = {name: f"{__name__}.{home}" for home, names in _NAMES.items() for name in names.split()}

_MOVED = {"statistics": "stats.intervals"}  # modules that users may know by an older name


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]


if not TYPE_CHECKING:  # which would find any name at all

    def __getattr__(name: str) -> object:
        """A public name or a module of the package, loaded at its first use."""
        from importlib import import_module
        from importlib.util import find_spec

        if name in _HOMES:
            import_module(f"{__name__}.ops")  # so that torch.ops.fastbg is complete
            found = getattr(import_module(_HOMES[name]), name)
        elif name in _MOVED:
            home = f"{__name__}.{_MOVED[name]}"
            users_line.warn(f"fastbg.{name} is {home} now", DeprecationWarning)
            return import_module(home)
        elif not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            found = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


if "torch" in sys.modules:  # then torch.ops.fastbg is expected to be there
    import fastbg.ops  # noqa: F401
