"""Argument checks of the operators; each error names the argument, its value, what was expected.

Shapes and dtypes are checked here. The values of indices, boxes and codes are checked by the
operator when it runs (fastbg.registration.indices).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastbg.errors import InvalidArgument
from fastbg.filters.constants import is_recorded

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

BoxLike = Tensor | Sequence[int] | Sequence[Sequence[int]]


def check_images(name: str, value: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """A dense (B,C,H,W) tensor of one of `dtypes`."""
    if not isinstance(value, Tensor):
        raise InvalidArgument(name, type(value).__name__, "a torch.Tensor")
    if value.is_nested or value.layout is not torch.strided:
        kind = "a nested tensor" if value.is_nested else f"layout {value.layout}"
        raise InvalidArgument(name, kind, "a dense tensor (layout torch.strided)")
    if value.dim() != 4:
        raise InvalidArgument(name, f"shape {tuple(value.shape)}", "shape (B, C, H, W)")
    if value.dtype not in dtypes:
        raise InvalidArgument(name, value.dtype, f"one of {', '.join(map(str, dtypes))}")


def check_pixels(name: str, value: Tensor) -> None:
    """A dense tensor of floats in [0,1], or as far outside as `check_unit_range` allows.

    Waits for a GPU: for arguments that are checked once, not for images.
    """
    if value.is_nested or value.layout is not torch.strided or value.is_meta:
        kind = "a meta tensor" if value.is_meta else f"layout {value.layout}"
        raise InvalidArgument(name, kind, "a dense tensor (layout torch.strided) with values")
    if value.dtype not in FLOATS:
        raise InvalidArgument(name, value.dtype, f"one of {', '.join(map(str, FLOATS))}, in [0, 1]")
    check_unit_range(name, value.detach().cpu())


def check_unit_range(name: str, value: Tensor) -> None:
    """InvalidArgument for values outside of [-0.5, 1.5]: [0,1], and what filters overshoot it."""
    if not values_are_known(value) or not value.numel():
        return
    low, high = (float(v) for v in torch.aminmax(value.detach()))
    if not (low >= -0.5 and high <= 1.5):
        hint = "; divide 8-bit grey levels by 255" if high > 1.5 else ""
        got = "NaN" if low != low else f"values from {low:g} to {high:g}"
        raise InvalidArgument(name, got, f"values in [0, 1]{hint}")


def check_no_other_range(name: str, value: Tensor, beyond: float = 0.5) -> None:
    """InvalidArgument for floats more than `beyond` outside of [0,1], such as 0..255.

    NaN passes, as it shows in the result. Checked on CPUs only: on a GPU it would need a
    synchronisation.
    """
    if not value.is_floating_point() or not values_are_known(value) or not value.numel():
        return
    low, high = (float(v) for v in torch.aminmax(value.detach()))
    if low != low and (known := value.detach()[~value.isnan()]).numel():
        low, high = (float(v) for v in torch.aminmax(known))
    if low < -beyond or high > 1 + beyond:
        hint = "; divide 8-bit grey levels by 255" if low >= -beyond else ""
        raise InvalidArgument(name, f"values from {low:g} to {high:g}", f"values in [0, 1]{hint}")


def check_finite(name: str, value: Tensor, what: str) -> None:
    """InvalidArgument for argument `name` if `value`, `what` it gave, is not finite everywhere."""
    if isinstance(value, FakeTensor):
        return
    # A sum is finite only if all numbers are, and takes one pass without a mask; it may overflow.
    if not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
        raise InvalidArgument(name, f"{what} that is NaN or infinite", "finite numbers")


def check_same(name: str, value: Tensor, like: str, other: Tensor) -> None:
    """`value` has the device, dtype and (C,H,W) of `other`."""
    if value.device != other.device:
        raise InvalidArgument(name, f"device {value.device}", f"{like}'s device {other.device}")
    if value.dtype != other.dtype:
        raise InvalidArgument(name, value.dtype, f"{like}'s dtype {other.dtype}")
    if value.shape[1:] != other.shape[1:]:
        raise InvalidArgument(
            name, f"shape {tuple(value.shape)}", f"{like}'s (C, H, W) = {tuple(other.shape[1:])}"
        )


def values_are_known(value: Tensor) -> bool:
    """Whether `value` can be read without a synchronisation, and is not being traced."""
    if torch.compiler.is_compiling() or isinstance(value, FakeTensor) or is_recorded():
        return False
    if is_functorch_wrapped_tensor(value):  # under vmap it stands for many tensors
        return False
    return value.device.type == "cpu"


def integers(name: str, value: Tensor | Sequence[object], device: torch.device) -> Tensor:
    """`value` as an integer tensor, on the device it came on or else on the CPU."""
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, device="cpu")
        if value.numel() == 0:
            value = value.to(torch.int32)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise InvalidArgument(name, value.dtype, "integers")
    if value.device not in (torch.device("cpu"), device):
        raise InvalidArgument(name, f"device {value.device}", f"cpu or {device}")
    return value


def index_pairs(pairs: Tensor | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """`pairs` as integers (N,2); their values are checked by the operator."""
    value = integers("pairs", pairs, device)
    if value.dim() == 1 and value.numel() == 0:
        value = value.reshape(0, 2)
    if value.dim() != 2 or value.shape[1] != 2:
        raise InvalidArgument("pairs", f"shape {tuple(value.shape)}", "shape (N, 2)")
    return value


def boxes(name: str, value: BoxLike, count: int, device: torch.device) -> Tensor:
    """`value` as integers (4) or (count,4); their values are checked by the operator."""
    box = integers(name, value, device)
    if box.shape not in ((4,), (count, 4)):
        raise InvalidArgument(
            name, f"shape {tuple(box.shape)}", f"(4,) or ({count}, 4): y0, x0, y1, x1 per pair"
        )
    return box
