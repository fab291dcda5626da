"""Key names of published checkpoints, and the network's sizes as their shapes show them.

Three families: sanghyun-son's EDSR and yulunzhang's RCAN (``head``, ``body``, ``tail``, with the
mean shift as a 1x1 convolution), BasicSR's EDSR and RCAN, JingyunLiang's SwinIR.
"""

import re
from collections.abc import Mapping
from math import inf, isqrt, nextafter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbg.models.network import DIV2K_MEAN
from fastbg.models.wrappers import LayoutError

State = Mapping[str, Tensor]


class Recipe(NamedTuple):
    """A network as a file describes it."""

    architecture: str
    config: dict[str, Any]
    state: dict[str, Tensor]


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
# Attention buffers in SwinIR files; fastbg's network computes them.
INDEX = re.compile(r"layers\.\d+\.residual_group\.blocks\.\d+\.attn\.relative_position_index")
MASK = re.compile(r"layers\.\d+\.residual_group\.blocks\.\d+\.attn_mask")

# First layers of the families' networks: candidates for the start of a network in a file.
FIRST_KEYS = ("conv_first.weight", "conv_first.bias", "head.0.weight", "head.0.bias")
EDSR_BODY = r"body\.(\d+)\.conv1\.weight"
RCAN_BODY = r"body\.(\d+)\.blocks\.(\d+)\.conv1\.weight"
SWINIR_BODY = r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight"


def recognise(state: State) -> Recipe:
    """The network whose key names `state` has, with fastbg's names; raises LayoutError.

    The caller compares whether all keys and shapes are there.
    """
    keys = " ".join(state)
    check_values(state)
    if "layers.0.residual_group." in keys:
        return _swinir(state)
    if "head.0." in keys and ".conv_du." in keys:
        return _with_mean_shift(state, YULUNZHANG, "rcan")
    if "head.0." in keys and "tail.1." in keys:
        return _with_mean_shift(state, SANGHYUN, "edsr")
    if ".rcab." in keys:
        return _recipe("rcan", _rename(state, BASICSR_RCAN), _input(255.0))
    if "conv_first." in keys and "body.0.conv1." in keys:
        return _recipe("edsr", dict(state), _input(255.0))
    raise LayoutError(f"is no EDSR, RCAN or SwinIR; its first keys are {', '.join([*state][:4])}")


def sizes_of(architecture: str, state: State) -> dict[str, Any]:
    """Keywords of the constructor that the shapes in `state` (fastbg's names) determine."""
    return {"edsr": _edsr, "rcan": _rcan, "swinir": _swinir_sizes}[architecture](state)


def _recipe(architecture: str, state: dict[str, Tensor], told: dict[str, Any]) -> Recipe:
    sizes = sizes_of(architecture, state)
    if architecture == "edsr":  # no file tells it; these are the two published nets
        features = sizes["features"]
        sizes["res_scale"] = 1.0 if features <= 64 else 0.1 if features == 256 else None
    elif architecture == "rcan":
        sizes["res_scale"] = 1.0
    return Recipe(architecture, {**sizes, **told}, state)


def _edsr(state: State) -> dict[str, Any]:
    features = _image_layers(state)
    return {"features": features, "blocks": _count(state, EDSR_BODY), "scale": _scale(state)}


def _rcan(state: State) -> dict[str, Any]:
    squeezed, features, _, _ = _shape(state, "body.0.blocks.0.squeeze.weight", 4)
    _image_layers(state)
    return {
        "features": features,
        "groups": _count(state, RCAN_BODY),
        "blocks": _count(state, RCAN_BODY.replace(r"(\d+)", "0", 1)),
        "squeezed": squeezed,
        "scale": _scale(state),
    }


def _swinir(state: State) -> Recipe:
    for key in ("conv_up1.weight", "layers.0.conv.0.weight", "absolute_pos_embed"):
        if key in state:
            raise LayoutError(f"is a SwinIR variant that is not built here (it has {key})")
    recomputed = {k: v for k, v in state.items() if INDEX.fullmatch(k) or MASK.fullmatch(k)}
    ours = _rename({k: v for k, v in state.items() if k not in recomputed}, SWINIR)
    recipe = _recipe("swinir", ours, _input(1.0))
    window = recipe.config["window"]
    if window == 7:  # published for JPEG only, with another range: not guessed
        recipe.config["img_range"] = None
    for key, value in recomputed.items():
        side = window**2
        fits = (
            value.shape == (side, side) if INDEX.fullmatch(key) else value.shape[1:] == (side,) * 2
        )
        if not fits:
            raise LayoutError(f"has {key} of shape {tuple(value.shape)} for windows of {window}")
    return recipe


def _swinir_sizes(state: State) -> dict[str, Any]:
    count = _count(state, SWINIR_BODY)
    layers = range(count)
    table = [_shape(state, f"layers.{i}.blocks.0.attn.bias_table", 2) for i in layers]
    hidden, width = _shape(state, "layers.0.blocks.0.fc1.weight", 2)
    direct = "conv_last.weight" not in state
    _image_layers(state, "conv_first.weight" if direct else "conv_last.weight")
    sizes = {
        "width": width,
        "depths": tuple(_count(state, SWINIR_BODY.replace(r"(\d+)", str(i), 1)) for i in layers),
        "heads": tuple(heads for _, heads in table),
        "window": (isqrt(table[0][0]) + 1) // 2,
        "mlp_ratio": _ratio(hidden, width),
        "upsampler": "pixelshuffledirect" if direct else "pixelshuffle",
    }
    if direct:
        return {**sizes, "scale": isqrt(_shape(state, "upsample.0.weight")[0] // 3)}
    return {
        **sizes,
        "scale": _scale(state),
        "features": _shape(state, "conv_last.weight", 4)[1],
    }


def _ratio(hidden: int, width: int) -> float:
    """A ratio of which the network makes `hidden` again: int(width * ratio)."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else nextafter(ratio, inf)


def _image_layers(state: State, last: str = "conv_last.weight") -> int:
    """Outputs of the first layer; LayoutError unless first and last layer work on RGB."""
    features, inputs, *_ = _shape(state, "conv_first.weight", 4)
    outputs = 3 if last == "conv_first.weight" else _shape(state, last, 4)[0]
    if (inputs, outputs) != (3, 3):
        grey = " (grey or luma images)" if inputs == outputs == 1 else ""
        raise LayoutError(
            f"maps {inputs} channels to {outputs}{grey}, and networks here map RGB to RGB; build"
            " it in PyTorch inside a module that does, and pass that to fastbg.wrap"
        )
    return features


def check_values(state: State) -> None:
    """LayoutError for tensors that hold no plain numbers, or fewer than their shape claims."""
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise LayoutError(f"has {key} without plain values (sparse, quantised or meta)")
        if not value.numel() or value.is_complex():
            raise LayoutError(f"has no real numbers in {key}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise LayoutError(f"has {key} of shape {tuple(value.shape)}, more than it stores")


def _input(img_range: float) -> dict[str, Any]:
    return {"img_range": img_range, "mean": DIV2K_MEAN}


def _with_mean_shift(state: State, names: list[tuple[str, str]], architecture: str) -> Recipe:
    """Recipe of a network with ``sub_mean`` and ``add_mean``: range and mean are what they hold.

    Where they are more than subtracting and adding one mean (a learned shift), the rest of them
    is folded into the first and last convolution, which is exact.
    """
    rest = {k: v for k, v in state.items() if not k.startswith(("sub_mean.", "add_mean."))}
    ours = _rename(rest, names)
    if len(rest) == len(state):  # removed from the file, or never there: not guessed
        return _recipe(architecture, ours, {"img_range": None, "mean": None})
    _image_layers(ours)
    try:
        sub, subtracted, add, added = (
            state[f"{name}.{kind}"].double().view(shape)
            for name in ("sub_mean", "add_mean")
            for kind, shape in (("weight", (3, 3)), ("bias", (3,)))
        )
    except (KeyError, RuntimeError) as error:
        raise LayoutError(f"has an incomplete mean shift ({error})") from error
    identity = torch.eye(3, dtype=torch.float64)
    plain = torch.allclose(sub, identity) and torch.allclose(add, identity)
    if plain and torch.allclose(subtracted, -added):
        mean, digits = added, 6
    else:
        mean, digits = _fold(ours, sub, subtracted, add, added), 17
    if not bool(mean.any()):
        return _recipe(architecture, ours, {"img_range": None, "mean": (0.0, 0.0, 0.0)})
    img_range = 255.0 if mean.abs().max() > 1 else 1.0
    shares = (mean / img_range).tolist()
    told = {"img_range": img_range, "mean": tuple(round(v, digits) for v in shares)}
    return _recipe(architecture, ours, told)


def _fold(
    state: dict[str, Tensor], sub: Tensor, subtracted: Tensor, add: Tensor, added: Tensor
) -> Tensor:
    """Put the matrices of a mean shift into the first and last layer; the mean that is left.

    ``sub x + subtracted = sub (x - mean)``, so that the first layer's zero padding is that of
    ``x - mean``, as in a network that only subtracts it.
    """
    if not float(torch.linalg.cond(sub)) < 1e6:
        raise LayoutError("has a mean shift that cannot be undone (its matrix is singular)")
    mean = -torch.linalg.solve(sub, subtracted)
    _shape(state, "conv_last.bias", 1)
    first, last, bias = (
        state[key].double() for key in ("conv_first.weight", "conv_last.weight", "conv_last.bias")
    )
    state["conv_first.weight"] = torch.einsum("oihw,ij->ojhw", first, sub)
    state["conv_last.weight"] = torch.einsum("oi,ijhw->ojhw", add, last)
    state["conv_last.bias"] = add @ bias + added - mean
    return mean


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
    """How many numbers 0, 1, 2 ... the first group takes in keys; LayoutError for gaps."""
    found = {int(match[1][:9]) for key in state if (match := re.fullmatch(pattern, key))}
    missing = next(i for i in range(len(found) + 1) if i not in found)
    if missing != len(found) or not found:
        key = pattern.replace(r"(\d+)", str(missing), 1).replace(r"(\d+)", "0").replace("\\", "")
        raise LayoutError(f"lacks {key}")
    return len(found)


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
