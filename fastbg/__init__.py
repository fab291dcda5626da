"""fastbg: which pixels did a super-resolution network use, and did they help?"""

from fastbg.models.checkpoints import load_model, save_model
from fastbg.models.wrapped import wrap
from fastbg.ops.composite import Transform, composite, composite_lr, mosaic
from fastbg.ops.gram import conv_gram, gram
from fastbg.texture import gram_distance, texture_gram

__all__ = [
    "Transform",
    "composite",
    "composite_lr",
    "conv_gram",
    "gram",
    "gram_distance",
    "load_model",
    "mosaic",
    "save_model",
    "texture_gram",
    "wrap",
]
__version__ = "0.1.0"
