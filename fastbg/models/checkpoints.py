"""Weights files: load_model() reads fastbg's and published ones, save_model() writes fastbg's.

fastbg's own format is a safetensors file: float16 tensors under the network's parameter names, and
in the metadata, under the key ``fastbg``, JSON with the architecture, the keywords of its
constructor and a card (where the weights come from).
"""

import difflib
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.given_path import file_to_write, path_of
from fastbg.models.edsr import EDSR
from fastbg.models.files.kinds import SAFETENSORS, recognise_file
from fastbg.models.files.pickled import read_pickled
from fastbg.models.files.tensors import read_safetensors
from fastbg.models.formats import FIRST_KEYS, Recipe, check_values, recognise, sizes_of
from fastbg.models.network import Network, digest_of, made_in_float32
from fastbg.models.rcan import RCAN
from fastbg.models.registry import BUILT_IN
from fastbg.models.spandrel import ZooError, load_zoo
from fastbg.models.swinir import SwinIR
from fastbg.models.wrappers import (
    Found,
    LayoutError,
    choose,
    peeled,
    prefixes,
    strangers,
    tensor_dictionaries,
    under_prefix,
)
from fastbg.printable import printable
from fastbg.working_folder import elsewhere
from fastbg.writing import replacing

ARCHITECTURES: dict[str, type[Network]] = {net.architecture: net for net in (EDSR, RCAN, SwinIR)}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WEIGHTS = Path(__file__).parents[1] / "assets" / "weights"


@made_in_float32()
@torch.inference_mode(False)  # its weights outlive the caller's mode; gradients need them normal
def load_model(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    scale: int | None = None,
    res_scale: float | None = None,
    img_range: float | None = None,
    mean: Sequence[float] | None = None,
    pooling: int | None = None,
) -> Network:
    """Load a network for analysis: frozen, in eval mode, with channels_last weights.

    Args:
        name_or_path: "edsr", "rcan" or "swinir" (built in, x4), or a weights file, whose
            architecture and sizes are recognised.
        device, dtype: of the network.
        scale: the magnification that you expect; compared with the file's.
        res_scale, img_range, mean: options of the architecture that files usually do not contain;
            what is given here replaces what was recognised.
        pooling: an RCAN takes its channel means over windows of this many LR pixels a side instead
            of the whole image.

    Returns:
        A `Network`, RGB (B,3,h,w) in [0,1] to (B,3,s*h,s*w), not clamped, with `.scale` and
        `.name`.

    Raises:
        CheckpointError: names the file and what is wrong with it.
        InvalidArgument: neither a name nor a path.

    Example:
        >>> import torch, fastbg
        >>> net = fastbg.load_model("edsr")
        >>> net.name, net.scale
        ('edsr', 4)
        >>> with torch.inference_mode():
        ...     net(torch.rand(1, 3, 24, 32)).shape
        torch.Size([1, 3, 96, 128])
    """
    given_path = path_of("name_or_path", name_or_path)
    path = built_in_path(name_or_path) or given_path
    given = {"res_scale": res_scale, "img_range": img_range, "mean": mean}
    model = _read(path, {key: value for key, value in given.items() if value is not None})
    if scale is not None and scale != model.scale:
        raise CheckpointError(f"{printable(path)} magnifies x{model.scale}, not x{scale}")
    if pooling is not None:
        if not isinstance(model, RCAN):
            raise CheckpointError(
                f"{printable(path)} as {model.architecture} has no pooling, got {pooling}"
            )
        model.pool_over(pooling)
    model.name = str(name_or_path) if str(name_or_path) in BUILT_IN else printable(path.stem)
    model.requires_grad_(False).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device, dtype)


def save_model(
    model: Network,
    path: str | os.PathLike[str],
    card: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a network to a weights file, in float16.

    Args:
        model: an EDSR, RCAN or SwinIR of fastbg.
        path: file to write (.safetensors); replaced only when the new one is complete.
        card: anything that JSON can express about the weights: data, steps, scores, licence.
        state: weights to write instead of the model's own, such as a running average.

    Raises:
        CheckpointError: a weight is not finite in float16, or the file cannot be written.
        InvalidArgument: a wrapped network; a `path` that is none.

    Example:
        >>> import fastbg
        >>> fastbg.save_model(fastbg.load_model("edsr"), "copy.safetensors", {"data": "none"})
        >>> fastbg.load_model("copy.safetensors").name
        'copy'
    """
    if model.architecture not in ARCHITECTURES:
        raise InvalidArgument("model", model.architecture, f"one of {[*ARCHITECTURES]}")
    path = file_to_write("path", path)
    state = model.state_dict() if state is None else state
    half = {
        key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()
    }
    infinite = [key for key, value in half.items() if not value.isfinite().all()]
    if infinite:
        raise CheckpointError(f"{printable(path)}: NaN or infinity in {', '.join(infinite[:4])}")
    about = {
        "architecture": model.architecture,
        "config": model.config,
        "card": dict(card or {}),
        "sha256": digest_of(half),
    }
    try:
        with replacing(path) as partial:
            save_file(half, partial, {"fastbg": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{printable(path)} cannot be written: {error}") from error


def installed() -> list[str]:
    """The built-in networks whose weights are in this installation, in the paper's order."""
    return [name for name in BUILT_IN if _built_in(name).is_file()]


def _built_in(name: str) -> Path:
    return WEIGHTS / f"{name}_x4.safetensors"


def built_in_path(name: str | os.PathLike[str]) -> Path | None:
    """The file of a built-in network, None for another name; CheckpointError if it is missing."""
    if str(name) not in BUILT_IN:
        return None
    path = _built_in(str(name))
    if not path.is_file():
        raise CheckpointError(
            f"the weights of {name!r} are not in this installation ({printable(path)}); pass a "
            "weights file"
        )
    return path


def _read(path: Path, given: dict[str, Any]) -> Network:
    try:
        missing = not path.exists()
    except OSError as error:  # a name that no file can have
        raise CheckpointError(f"{path!s:.80}... cannot be read: {error.strerror}") from error
    if missing:
        near = difflib.get_close_matches(path.name.lower(), [*BUILT_IN], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(BUILT_IN)
        raise CheckpointError(
            f"{printable(path)}: no such file; the built-in networks are {known}{meant}"
        )
    kind = recognise_file(path)
    if kind != SAFETENSORS:
        content: object = read_pickled(path, kind)
    else:
        tensors, about = read_safetensors(path)
        if about:
            try:
                return _build(_own_recipe(about, tensors), given)
            except LayoutError as error:
                raise CheckpointError(f"{printable(path)} {error}") from error
        content = tensors
    try:
        dictionaries = tensor_dictionaries(content)
        _check_bytes(dictionaries, path.stat().st_size)
        return _find(dictionaries, given)
    except LayoutError as error:
        raise CheckpointError(f"{printable(path)} {error}") from error


def _own_recipe(about: dict[str, Any], tensors: dict[str, Tensor]) -> Recipe:
    """The recipe in the metadata of a file of save_model(), checked against its tensors."""
    architecture, config = about["architecture"], about["config"]
    if architecture not in ARCHITECTURES:
        known = [*ARCHITECTURES]
        raise LayoutError(f"has unknown architecture {architecture!r:.80}, expected {known}")
    what = f"as {architecture}"
    keywords = inspect.signature(ARCHITECTURES[architecture]).parameters
    _complain(f"{what} has unknown keywords", config.keys() - keywords.keys())
    if about.get("sha256", digest_of(tensors)) != digest_of(tensors):
        raise LayoutError("is damaged: its tensors are not those that were saved")
    try:
        check_values(tensors)
        sizes = sizes_of(architecture, tensors)
    except LayoutError as error:
        raise LayoutError(f"{what} {error}") from error
    for key, size in sizes.items():
        if key in config and not _same_size(config[key], size, sizes.get("width", 1)):
            raise LayoutError(f"{what} says {key} {config[key]!r:.80}, its tensors say {size}")
    _complain(f"{what} does not tell", keywords.keys() - config.keys() - {"pooling"})
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
    return Recipe(architecture, config, tensors)


def _same_size(said: object, found: object, width: int) -> bool:
    """Whether the constructor builds the same from the size stated and from the size found."""
    if isinstance(found, float):  # the MLPs' ratio, which is cut to whole channels
        plain = isinstance(said, int | float) and 0 < said < 1e6
        return plain and int(width * said) == int(width * found)  # type: ignore[operator]
    if isinstance(found, tuple):
        return isinstance(said, list) and [*map(repr, said)] == [*map(repr, found)]
    return type(said) is type(found) and said == found


def _find(dictionaries: Sequence[Found], given: dict[str, Any]) -> Network:
    """The network of a file's tensors: one of fastbg's if keys and shapes fit, else spandrel's.

    An EDSR, RCAN or SwinIR whose options are not all in the file is refused, and not passed on to
    spandrel, which would guess them.
    """
    fitting: list[tuple[Found, Recipe]] = []
    reasons: list[str] = []
    for dictionary in dictionaries:
        claimed = {}
        for prefix in prefixes(dictionary.state, FIRST_KEYS):
            part = under_prefix(dictionary, prefix)
            try:
                recipe = recognise(part.state)
                _compare(recipe)
                claimed[prefix] = part, recipe
            except LayoutError as error:
                reasons.append(str(error))
        others = strangers(dictionary.state, claimed)
        if claimed and others:
            reasons.append(f"holds more than a network: {', '.join(others[:4])}")
        elif claimed:
            fitting += claimed.values()
    if not fitting:
        return _of_zoo(dictionaries, given, reasons)
    part, recipe = fitting[choose([part for part, _ in fitting])]
    net = _build(recipe, given)
    net.origin = part.place
    return net


def _check_bytes(dictionaries: Sequence[Found], stored: int) -> None:
    """LayoutError if the tensors are far larger than the file, `stored` bytes (expanded views)."""
    for found in dictionaries:
        claimed = sum(value.numel() * value.element_size() for value in found.state.values())
        if claimed > 8 * stored + (1 << 20):
            raise LayoutError(f"claims {claimed:,} bytes of tensors, and is {stored:,} bytes long")


def _of_zoo(
    dictionaries: Sequence[Found], given: dict[str, Any], reasons: Sequence[str]
) -> Network:
    """spandrel's network; LayoutError with spandrel's reason and fastbg's own `reasons`."""
    first = ", ".join([*dictionaries[0].state][:4])
    why = reasons[0] if reasons else f"is no EDSR, RCAN or SwinIR; its first keys are {first}"
    if given:
        raise LayoutError(f"{why}; of other networks {', '.join(given)} cannot be set")
    try:
        return load_zoo([level for found in dictionaries for level in peeled(found)])
    except ZooError as error:
        raise LayoutError(f"{why}; {error}") from error


def _build(recipe: Recipe, given: dict[str, Any]) -> Network:
    """The network of `recipe`; keywords `given` by the caller replace the recipe's."""
    what, config = f"as {recipe.architecture}", {**recipe.config, **given}
    unknown = (f"{key}, got {given[key]}" for key in config.keys() - recipe.config.keys())
    _complain(f"{what} has no", unknown)
    untold = [key for key, value in config.items() if value is None]
    _complain(f"{what} does not tell what you must pass to load_model:", untold)
    _compare(recipe._replace(config=config))
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
        model = ARCHITECTURES[recipe.architecture](**config)
    model.load_state_dict(recipe.state)
    infinite = (key for key, value in model.state_dict().items() if not value.isfinite().all())
    _complain("has NaN or infinity in", infinite)
    return model


def _compare(recipe: Recipe) -> None:
    """LayoutError unless the keys and shapes of `recipe` are exactly those of its network.

    The network is built on PyTorch's meta device, without memory for its weights.
    """
    architecture, config, state = recipe
    what, told = f"as {architecture}", {k: v for k, v in config.items() if v is not None}
    try:
        with torch.device("meta"), elsewhere():  # SwinIR there loads PyTorch's compiler
            wanted = ARCHITECTURES[architecture](**told).state_dict()
    except (InvalidArgument, TypeError) as error:
        raise LayoutError(f"{what}: {error}") from error
    _complain(f"{what} lacks", wanted.keys() - state.keys())
    _complain(f"{what} has unknown", state.keys() - wanted.keys())
    wrong = [key for key in wanted if state[key].shape != wanted[key].shape]
    shapes = (f"{k} {tuple(state[k].shape)} for {tuple(wanted[k].shape)}" for k in wrong)
    _complain(f"{what} has wrong shapes:", shapes)
    kinds = {k: str(v.dtype).removeprefix("torch.") for k, v in state.items()}
    coded = (f"{k} {kinds[k]}" for k, v in state.items() if v.dtype not in FLOATS)
    _complain(f"{what} has other than floats (it may be quantised):", coded)


def _complain(what: str, keys: Iterable[str]) -> None:
    """LayoutError that names the first four `keys`, if there are any."""
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise LayoutError(f"{what} {', '.join(name[:80] for name in names[:4])}{more}")
