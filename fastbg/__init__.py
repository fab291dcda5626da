"""fastbg: which pixels did a super-resolution network use, and did they help?"""

from fastbg.models.checkpoints import load_model, save_model
from fastbg.models.wrapped import wrap
from fastbg.ops.composite import Transform, composite, composite_lr, mosaic

__all__ = ["Transform", "composite", "composite_lr", "load_model", "mosaic", "save_model", "wrap"]
__version__ = "0.1.0"
