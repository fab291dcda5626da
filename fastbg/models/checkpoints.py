"""Weights files: load_model() reads the built-in ones and the field's, save_model() writes ours.

Ours is one safetensors file: float16 tensors under the network's own names, and in the metadata,
under the key ``fastbg``, JSON with the architecture, its constructor's keywords and a card (where
the weights come from).
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.models.edsr import EDSR
from fastbg.models.formats import LayoutError, Recipe, UnknownNetworkError, recognise, unwrap
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.sizes import BUILT_IN
from fastbg.models.swinir import SwinIR
from fastbg.models.zoo import load_zoo

ARCHITECTURES: dict[str, type[Network]] = {net.architecture: net for net in (EDSR, RCAN, SwinIR)}
WEIGHTS = Path(__file__).parents[1] / "assets" / "weights"


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
    """A network ready to be analysed: frozen, eval mode, channels_last weights.

    `name_or_path` is "edsr", "rcan" or "swinir" (trained here, x4), or a weights file.
    Architecture and sizes are found in the file. `scale` is only compared with the file's. The
    other keywords say, or overrule, what a file does not tell. `pooling` N makes an RCAN take its
    channel means over N x N LR pixels instead of the whole map, see `RCAN`.

    The network maps RGB (B,3,h,w) in [0,1] to (B,3,s*h,s*w), not clamped, and has `.scale` and
    `.name`. Raises CheckpointError, which names the file and what is wrong with it.
    """
    path = built_in_path(name_or_path) or Path(name_or_path)
    given = {"res_scale": res_scale, "img_range": img_range, "mean": mean}
    model = _read(path, {key: value for key, value in given.items() if value is not None})
    if scale is not None and scale != model.scale:
        raise CheckpointError(f"{path} magnifies x{model.scale}, not x{scale}")
    if pooling is not None:
        if not isinstance(model, RCAN):
            raise CheckpointError(f"{path} as {model.architecture} has no pooling, got {pooling}")
        model.pool_over(pooling)
    model.name = str(name_or_path) if str(name_or_path) in BUILT_IN else path.stem
    model.requires_grad_(False).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device, dtype)


def load_models(
    names_or_paths: Sequence[str | os.PathLike[str]], device: str | torch.device = "cpu"
) -> list[Network]:
    """Several networks of `load_model`; where names repeat, a number tells them apart."""
    models: list[Network] = []
    for number, name_or_path in enumerate(names_or_paths, 1):
        model = load_model(name_or_path, device)
        if model.name in (other.name for other in models):
            model.name = f"{model.name} ({number})"
        models.append(model)
    return models


def save_model(
    model: Network,
    path: str | os.PathLike[str],
    card: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `model` (or its weights `state`, as training averages them) to `path` in float16.

    `card` is anything that JSON can hold: data, steps, scores, licence. Raises CheckpointError
    if a weight is not finite in float16, or if the file cannot be written, and InvalidArgument
    for a wrapped network.
    """
    if model.architecture not in ARCHITECTURES:
        raise InvalidArgument("model", model.architecture, f"one of {[*ARCHITECTURES]}")
    path = Path(path)
    state = model.state_dict() if state is None else state
    half = {
        key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()
    }
    _check_finite(path, half)
    about = {"architecture": model.architecture, "config": model.config, "card": dict(card or {})}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(half, partial, {"fastbg": json.dumps(about)})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def read_card(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card that save_model() stored; raises CheckpointError."""
    path = built_in_path(name_or_path) or Path(name_or_path)
    card: dict[str, Any] = _read_safetensors(path)[1].get("card", {})
    return card


def installed() -> list[str]:
    """The built-in networks whose weights are in this installation, in the paper's order."""
    return [name for name in BUILT_IN if _built_in(name).is_file()]


def _built_in(name: str) -> Path:
    return WEIGHTS / f"{name}_x4.safetensors"


def built_in_path(name: str | os.PathLike[str]) -> Path | None:
    """The file of a built-in network, None if `name` is none; CheckpointError if it is missing."""
    if str(name) not in BUILT_IN:
        return None
    path = _built_in(str(name))
    if not path.is_file():
        raise CheckpointError(
            f"the weights of {name!r} are not in this installation ({path}); pass a weights file"
        )
    return path


def _read(path: Path, given: dict[str, Any]) -> Network:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; the built-in networks are {[*BUILT_IN]}")
    if path.suffix == ".safetensors":
        tensors, about = _read_safetensors(path)
        if about:
            return _build(path, Recipe(about["architecture"], about["config"], tensors), given)
        content: object = tensors
    else:
        content = _read_pickle(path)
    try:
        state = unwrap(content)
    except LayoutError as error:
        raise CheckpointError(f"{path} {error}") from error
    try:
        return _build(path, recognise(state), given)
    except UnknownNetworkError as error:
        if given:
            raise CheckpointError(f"{path} {error}, so {', '.join(given)} cannot be set") from error
        return load_zoo(path, state)
    except LayoutError as error:
        raise CheckpointError(f"{path} {error}") from error


def _read_pickle(path: Path) -> object:
    """Tensors and plain containers; code in a pickle is never run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which is never run: {reason}"
        ) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and our metadata (empty if the file is somebody else's)."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("fastbg", "{}"))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error
    if about and not (isinstance(about, dict) and about.keys() >= {"architecture", "config"}):
        raise CheckpointError(f"{path}: its 'fastbg' metadata lacks the architecture or its config")
    return tensors, about


def _build(path: Path, recipe: Recipe, given: dict[str, Any]) -> Network:
    """The network of `recipe`, with the keywords `given` by the caller in place of its own."""
    architecture, config, state = recipe
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: unknown architecture {architecture!r}, expected {[*ARCHITECTURES]}"
        )
    strange = (key for key, value in state.items() if value.is_complex() or not value.numel())
    _complain(f"{path} as {architecture}: no real numbers in", strange)
    for key, value in given.items():
        if key not in config:
            raise CheckpointError(f"{path}: {architecture} has no {key}, got {value}")
    config = {**config, **given}
    untold = [key for key, value in config.items() if value is None]
    _complain(f"{path} as {architecture} does not tell what you must pass to load_model:", untold)
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
            model = ARCHITECTURES[architecture](**config)
    except (InvalidArgument, TypeError) as error:
        raise CheckpointError(f"{path} as {architecture}: {error}") from error
    wanted = model.state_dict()
    what = f"{path} as {architecture}"
    _complain(f"{what} lacks", wanted.keys() - state.keys())
    _complain(f"{what} has unknown", state.keys() - wanted.keys())
    wrong = [key for key in wanted if state[key].shape != wanted[key].shape]
    shapes = (f"{k} {tuple(state[k].shape)} for {tuple(wanted[k].shape)}" for k in wrong)
    _complain(f"{what} has wrong shapes:", shapes)
    _check_finite(path, state)
    model.load_state_dict(state)
    return model


def _complain(what: str, keys: Iterable[str]) -> None:
    """CheckpointError with the first few of `keys`, if there are any."""
    names = sorted(keys)
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise CheckpointError(f"{what} {', '.join(names[:4])}{more}")


def _check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    _complain(
        f"{path}: NaN or infinity in",
        (key for key, value in state.items() if not value.isfinite().all()),
    )
