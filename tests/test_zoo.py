"""Networks of spandrel: reached, chosen among several, and built in no more memory than needed."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.errors import CheckpointError
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")
State = dict[str, Tensor]


def architecture(name: str) -> Any:
    """spandrel's class of that name."""
    try:
        return getattr(import_module(f"spandrel.architectures.{name}"), name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs fastbg[zoo] with the torchvision of this torch: {error}")


def hat() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 8}
    rest = {"compress_ratio": 3, "squeeze_factor": 4, "mlp_ratio": 2, "upscale": 4}
    net: nn.Module = architecture("HAT")(img_size=16, **sizes, **rest)
    return net.eval()


def swinir(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8}
    told = {"upscale": 4, "upsampler": "pixelshuffle", "mlp_ratio": 2, **options}
    net: nn.Module = architecture("SwinIR")(img_size=16, **sizes, **told)
    return net.eval()


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "net.pth")
    return folder / "net.pth"


def same(path: Path, net: nn.Module) -> None:
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(fastbg.load_model(path)(x), net(x), rtol=0, atol=1e-5)


def under(prefix: str, state: State, add: float = 0.0) -> State:
    return {prefix + k: v + add if v.is_floating_point() else v for k, v in state.items()}


WRAPPERS: dict[str, Callable[[State], object]] = {
    "BasicSR": lambda s: {"params": under("", s, 0.1), "params_ema": s},
    "mmagic": lambda s: {
        "state_dict": {
            **under("generator.", s, 0.1),
            **under("generator_ema.", s),
            "discriminator.conv.weight": torch.rand(3),
        }
    },
    "compiled and parallel": lambda s: {"model": under("module._orig_mod.", s)},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_hat_in_wrappers(wrapper: str, tmp_path: Path) -> None:
    net = hat()
    same(saved(WRAPPERS[wrapper](net.state_dict()), tmp_path), net)


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({}, True),
        ({"upsampler": "pixelshuffledirect", "upscale": 2}, True),
        ({"upsampler": "nearest+conv"}, False),
        ({"resi_connection": "3conv"}, False),
        ({"upsampler": "", "upscale": 1}, False),
    ],
)
def test_variants_of_swinir(options: dict[str, Any], ours: bool, tmp_path: Path) -> None:
    net = swinir(**options)
    path = saved({"params": net.state_dict()}, tmp_path)
    same(path, net)
    assert isinstance(fastbg.load_model(path), SwinIR) == ours


def test_a_learned_mean_shift_is_built_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 8, "reduction": 4, "scale": 2}
    net = architecture("RCAN")(**sizes, norm=True).eval()
    with torch.no_grad():
        for layer in (net.sub_mean, net.add_mean):
            layer.weight.add_(0.1 * torch.randn(3, 3, 1, 1))
            layer.bias.add_(3 * torch.randn(3))
    path = saved(net.state_dict(), tmp_path)
    assert isinstance(fastbg.load_model(path), RCAN)
    same(path, net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm.weight": torch.full((12,), float("nan"))}, r"NaN or infinity in norm\.weight"),
        ({"conv_last.weight": torch.zeros(3, 10**6, 1, 1)}, "would take more than"),
        ({"conv_first.weight": torch.zeros(10**6, 3, 1, 1)}, "would take more than"),
        (
            {"layers.199999.residual_group.blocks.0.norm1.weight": torch.zeros(12)},
            r"numbers 3 layers layers\.N up to 199999",
        ),
        ({"norm.weight": torch.zeros(13)}, "spandrel cannot build it: .*size mismatch"),
    ],
)
def test_networks_that_lie(changes: State, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        fastbg.load_model(saved({**hat().state_dict(), **changes}, tmp_path))


def test_options_of_foreign_networks(tmp_path: Path) -> None:
    path = saved(hat().state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match="of other networks img_range cannot be set"):
        fastbg.load_model(path, img_range=255.0)
    grey = saved({"params": swinir(in_chans=1).state_dict()}, tmp_path)
    with pytest.raises(CheckpointError, match=r"maps 1 channels to 1 \(grey or luma images\)"):
        fastbg.load_model(grey)
