"""Networks that spandrel knows (HAT, DAT, OmniSR, ...): the extra ``fastbg[zoo]``.

spandrel's descriptor clamps and runs in inference mode when called, so only its `.model` is used.
"""

from importlib import import_module
from typing import Any

from torch import Tensor

from fastbg.errors import CheckpointError
from fastbg.models.network import Network
from fastbg.models.wrapped import Wrapped


def load_zoo(path: object, state: dict[str, Tensor]) -> Network:
    """The network of `state` as spandrel builds it; raises CheckpointError."""
    try:
        spandrel: Any = import_module("spandrel")
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise CheckpointError(
            f"{path} needs spandrel (pip install 'fastbg[zoo]'): {error}"
        ) from error
    try:
        descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise CheckpointError(f"{path}: spandrel does not know this network either") from error
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise CheckpointError(
            f"{path} maps {descriptor.input_channels} channels to {descriptor.output_channels},"
            " not RGB to RGB"
        )
    sizes = descriptor.size_requirements
    return Wrapped(
        descriptor.model,
        descriptor.scale,
        multiple=sizes.multiple_of or 1,
        minimum=sizes.minimum or 1,
        square=bool(sizes.square),
    )
