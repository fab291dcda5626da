"""The key names of the field's checkpoints, and what their shapes tell about the network.

Three families: sanghyun-son's EDSR and yulunzhang's RCAN (``head``, ``body``, ``tail``, with the
mean shift as a 1x1 convolution), BasicSR's EDSR and RCAN, JingyunLiang's SwinIR.
"""

import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbg.models.network import DIV2K_MEAN

State = Mapping[str, Tensor]


class Recipe(NamedTuple):
    """A network as a file describes it."""

    architecture: str
    config: dict[str, Any]
    state: dict[str, Tensor]


class UnknownLayout(Exception):
    """The keys or shapes fit no network known here; says why."""


# Their names, ours. Patterns match whole keys without ".weight" / ".bias".
UPSAMPLING = [(r"tail\.0\.(\d+)", r"upsample.\1"), (r"tail\.1", "conv_last")]
SANGHYUN = [
    (r"head\.0", "conv_first"),
    (r"body\.(\d+)\.body\.0", r"body.\1.conv1"),
    (r"body\.(\d+)\.body\.2", r"body.\1.conv2"),
    (r"body\.\d+", "conv_after_body"),
    *UPSAMPLING,
]
YULUNZHANG = [
    (r"head\.0", "conv_first"),
    (r"body\.(\d+)\.body\.(\d+)\.body\.0", r"body.\1.blocks.\2.conv1"),
    (r"body\.(\d+)\.body\.(\d+)\.body\.2", r"body.\1.blocks.\2.conv2"),
    (r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.0", r"body.\1.blocks.\2.squeeze"),
    (r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.2", r"body.\1.blocks.\2.excite"),
    (r"body\.(\d+)\.body\.\d+", r"body.\1.conv"),
    (r"body\.\d+", "conv_after_body"),
    *UPSAMPLING,
]
BASICSR_RCAN = [
    (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.0", r"body.\1.blocks.\2.conv1"),
    (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.2", r"body.\1.blocks.\2.conv2"),
    (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.1", r"body.\1.blocks.\2.squeeze"),
    (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.3", r"body.\1.blocks.\2.excite"),
]
SWINIR = [
    (r"patch_embed\.norm", "norm_first"),
    (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.(fc[12])", r"layers.\1.blocks.\2.\3"),
    (
        r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.relative_position_bias_table",
        r"layers.\1.blocks.\2.attn.bias_table",
    ),
    (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(.+)", r"layers.\1.blocks.\2.\3"),
    (r"conv_before_upsample\.0", "conv_before_upsample"),
]
