"""The key names of the field's checkpoints, and what their shapes tell about the network.

Three families: sanghyun-son's EDSR and yulunzhang's RCAN (``head``, ``body``, ``tail``, with the
mean shift as a 1x1 convolution), BasicSR's EDSR and RCAN, JingyunLiang's SwinIR.
"""

import re
from collections.abc import Mapping
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


class LayoutError(Exception):
    """The keys or shapes are not what their network has; says why."""


class UnknownNetworkError(LayoutError):
    """The keys are those of no network known here."""


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
# Attention buffers that SwinIR files carry; the network computes them itself.
RECOMPUTED = re.compile(r".*\.(relative_position_index|attn_mask)")

EDSR_BODY = r"body\.(\d+)\.conv1\.weight"
RCAN_BODY = r"body\.(\d+)\.blocks\.(\d+)\.conv1\.weight"
SWINIR_BODY = r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight"


def unwrap(content: object) -> dict[str, Tensor]:
    """The tensors of a loaded file, out of the dictionaries that training code puts around them."""
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise LayoutError(f"holds a {type(content).__name__}, no dictionary of tensors")
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise LayoutError(f"holds no tensors under {', '.join(strange[:4])}")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def recognise(state: State) -> Recipe:
    """What network `state` belongs to, under our key names; raises LayoutError."""
    keys = " ".join(state)
    if "layers.0.residual_group." in keys:
        return _swinir(state)
    if "head.0." in keys and ".conv_du." in keys:
        return _rcan(*_without_mean_shift(state, YULUNZHANG))
    if "head.0." in keys and "tail.1." in keys:
        return _edsr(*_without_mean_shift(state, SANGHYUN))
    if ".rcab." in keys:
        return _rcan(_rename(state, BASICSR_RCAN), {})
    if "conv_first." in keys and "body.0.conv1." in keys:
        return _edsr(dict(state), {})
    raise UnknownNetworkError(
        f"is no EDSR, RCAN or SwinIR; its first keys are {', '.join([*state][:4])}"
    )


def _edsr(state: dict[str, Tensor], shift: dict[str, Any]) -> Recipe:
    features = _shape(state, "conv_first.weight")[0]
    # No file tells it; these are the two published nets.
    res_scale = 1.0 if features <= 64 else 0.1 if features == 256 else None
    sizes = {"features": features, "blocks": _count(state, EDSR_BODY), "res_scale": res_scale}
    return Recipe("edsr", {**sizes, "scale": _scale(state), **_input(255.0), **shift}, state)


def _rcan(state: dict[str, Tensor], shift: dict[str, Any]) -> Recipe:
    squeezed, features, _, _ = _shape(state, "body.0.blocks.0.squeeze.weight", 4)
    sizes = {
        "features": features,
        "groups": _count(state, RCAN_BODY),
        "blocks": _count(state, RCAN_BODY.replace(r"(\d+)", "0", 1)),
        "squeezed": squeezed,
        "res_scale": 1.0,
    }
    return Recipe("rcan", {**sizes, "scale": _scale(state), **_input(255.0), **shift}, state)


def _swinir(state: State) -> Recipe:
    for key in ("conv_up1.weight", "layers.0.conv.0.weight", "absolute_pos_embed"):
        if key in state:
            raise UnknownNetworkError(f"is a SwinIR variant that is not built here (it has {key})")
    ours = _rename({k: v for k, v in state.items() if not RECOMPUTED.fullmatch(k)}, SWINIR)
    count = _count(ours, SWINIR_BODY)
    layers = range(count)
    table = [_shape(ours, f"layers.{i}.blocks.0.attn.bias_table", 2) for i in layers]
    first = "layers.0.blocks.0"
    hidden, width = _shape(ours, f"{first}.fc1.weight", 2)
    direct = "conv_last.weight" not in ours
    sizes = {
        "width": width,
        "depths": tuple(_count(ours, SWINIR_BODY.replace(r"(\d+)", str(i), 1)) for i in layers),
        "heads": tuple(heads for _, heads in table),
        "window": (isqrt(table[0][0]) + 1) // 2 if table else 8,
        "mlp_ratio": hidden / width,
        "upsampler": "pixelshuffledirect" if direct else "pixelshuffle",
    }
    if direct:
        scale = isqrt(_shape(ours, "upsample.0.weight")[0] // 3)
    else:
        scale = _scale(ours)
        sizes["features"] = _shape(ours, "conv_last.weight", 4)[1]
    return Recipe("swinir", {**sizes, "scale": scale, **_input(1.0)}, ours)


def _input(img_range: float) -> dict[str, Any]:
    return {"img_range": img_range, "mean": DIV2K_MEAN}


def _without_mean_shift(
    state: State, names: list[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Our names, and the image range and mean that ``sub_mean`` and ``add_mean`` hold, if any."""
    rest = {k: v for k, v in state.items() if not k.startswith(("sub_mean.", "add_mean."))}
    shift = {k: v.double() for k, v in state.items() if k not in rest}
    if not shift:
        return _rename(rest, names), {}
    identity = torch.eye(3, dtype=torch.float64)
    try:
        plain = all(
            torch.allclose(shift[f"{name}.weight"].view(3, 3), identity)
            for name in ("sub_mean", "add_mean")
        )
        subtracted, added = shift["sub_mean.bias"].view(3), shift["add_mean.bias"].view(3)
    except (KeyError, RuntimeError) as error:
        raise LayoutError(f"has an incomplete mean shift ({error})") from error
    if not plain or not torch.allclose(subtracted, -added):
        raise LayoutError("has a mean shift that is more than subtracting and adding a mean")
    img_range = 255.0 if added.abs().max() > 1 else 1.0
    mean = tuple(round(v, 6) for v in (added / img_range).tolist())
    return _rename(rest, names), {"img_range": img_range, "mean": mean}


def _rename(state: State, names: list[tuple[str, str]]) -> dict[str, Tensor]:
    """`state` under our names; a key that fits no pattern stays, and is unknown to the network."""
    renamed = {}
    for key, value in state.items():
        stem, dot, kind = key.rpartition(".")
        if kind not in ("weight", "bias"):
            stem, dot, kind = key, "", ""
        new = next(
            (re.sub(old, ours, stem) for old, ours in names if re.fullmatch(old, stem)), stem
        )
        renamed[new + dot + kind] = value
    return renamed


def _count(state: State, pattern: str) -> int:
    """1 + the largest number that the pattern's first group takes in a key; 0 if there is none."""
    matches = (re.fullmatch(pattern, key) for key in state)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _shape(state: State, key: str, dims: int | None = None) -> tuple[int, ...]:
    if key not in state:
        raise LayoutError(f"lacks {key}")
    shape = tuple(state[key].shape)
    if len(shape) == 0 or (dims is not None and len(shape) != dims):
        raise LayoutError(f"has {key} of shape {shape}, not of {dims or 'some'} dimensions")
    return shape


def _scale(state: State) -> int:
    """Magnification of the upsampler's pairs of convolution and pixel shuffle."""
    scale = 1
    for key in state:
        if re.fullmatch(r"upsample\.\d+\.weight", key):
            outputs, inputs, *_ = _shape(state, key, 4)
            scale *= isqrt(outputs // inputs)
    return scale
