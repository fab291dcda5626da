"""EDSR, RCAN and SwinIR against the public implementations, and in a window against themselves."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.data.degradation import downsample
from fastbg.errors import InvalidArgument
from fastbg.models.checkpoints import installed
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network, pad_to_multiple
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR

GOLDEN = Path(__file__).parent / "golden" / "networks.safetensors"
PUBLIC = {
    "edsr_sanghyun_16x4": {},
    "edsr_basicsr_16x4": {},
    "edsr_basicsr_24x3_rs01": {"res_scale": 0.1},
    "rcan_yulunzhang_2x3x16": {},
    "rcan_basicsr_2x3x16": {},
    "swinir_light": {},
}
SMALL: dict[str, Callable[[], Network]] = {
    "edsr": lambda: EDSR(features=8, blocks=3),
    "edsr_x3": lambda: EDSR(features=8, blocks=1, scale=3),
    "rcan": lambda: RCAN(features=8, groups=2, blocks=2, squeezed=2),
    "rcan_one_block": lambda: RCAN(features=8, groups=1, blocks=1, squeezed=2, scale=2),
    "rcan_pooled": lambda: RCAN(features=8, groups=2, blocks=2, squeezed=2, pooling=10),
    "swinir_light": lambda: SwinIR(width=8, depths=(2, 3), heads=(2, 1)),
    "swinir_classical": lambda: SwinIR(
        width=8, depths=(2, 2), heads=(2, 2), upsampler="pixelshuffle", features=6
    ),
    "swinir_window_4": lambda: SwinIR(width=8, depths=(4,), heads=(2,), window=4),
    "wrapped": lambda: fastbg.wrap(nn.Upsample(scale_factor=4, mode="bilinear"), scale=4),
}


def small(name: str) -> Network:
    torch.manual_seed(0)
    return SMALL[name]().eval().requires_grad_(False)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def as_file(tmp_path: Path, tensors: dict[str, Tensor], name: str) -> Path:
    prefix = f"{name}/"
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    path = tmp_path / f"{name}.pth"
    torch.save({"params": state} if "basicsr" in name or "swinir" in name else state, path)
    return path


@pytest.mark.parametrize("name", PUBLIC)
def test_equals_the_public_implementation(name: str, tmp_path: Path) -> None:
    golden = load_file(GOLDEN)
    model = fastbg.load_model(as_file(tmp_path, golden, name), **PUBLIC[name])
    sr = model(golden["lr"])
    assert sr.shape == (1, 3, 256, 256)
    assert relative_error(sr[..., 3::8, 5::8], golden[f"outputs/{name}"]) < 1e-5


@pytest.mark.parametrize("name", [*PUBLIC, "swinir_classical"])
def test_equals_the_public_implementation_everywhere(
    name: str, tmp_path: Path, shared: Path
) -> None:
    weights = load_file(shared / "golden" / "weights.safetensors")
    with np.load(shared / "golden" / "lam_and_nets.npz") as stored:
        lr, sr = (torch.from_numpy(stored[key]) for key in ("lr", f"{name}/sr"))
    model = fastbg.load_model(as_file(tmp_path, weights, name), **PUBLIC.get(name, {}))
    assert relative_error(model(lr), sr) < 1e-5


def test_classical_swinir_ends_like_edsr() -> None:
    net = small("swinir_classical")
    assert isinstance(net, SwinIR)
    x = torch.rand(1, 3, 8, 8)
    seen: list[Tensor] = []
    net.conv_before_upsample.register_forward_hook(lambda _, __, out: seen.append(out))
    sr = net(x)
    expected = net.conv_last(net.upsample(leaky_relu(seen[0], 0.01))) + net.mean
    torch.testing.assert_close(sr, expected, rtol=0, atol=1e-6)


# fastbg's convolution rounds a pixel by its place in a tile, which a cut moves; PyTorch's does not.
@pytest.mark.parametrize(("backend", "error"), [("torch", 1e-6), ("auto", 5e-6)])
@pytest.mark.parametrize("size", [(24, 32), (21, 13), (8, 8), (3, 5)])
@pytest.mark.parametrize("name", SMALL)
def test_window_equals_the_whole_image(
    name: str, size: tuple[int, int], backend: str, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTBG_BACKEND", backend)
    net = small(name)
    x = torch.rand(2, 3, *size, requires_grad=True)
    sr = net(x)
    height, width = sr.shape[-2:]
    y, x0 = height // 2, width // 2
    for window in [
        (0, 0, 5, 6),
        (height - 5, width - 8, height, width),
        (0, width - 3, 4, width),
        (height - 2, 0, height, 1),
        (y, x0, y + 1, x0 + 1),
        (y - 3, x0 - 2, y + 3, x0 + 3),
        (0, 0, height, width),
    ]:
        y0, x0_, y1, x1 = window
        whole = sr[..., y0:y1, x0_:x1]
        part = net.forward_window(x, window)
        torch.testing.assert_close(part, whole, rtol=0, atol=error * float(sr.detach().abs().max()))
        upstream = torch.rand_like(part)
        (expected,) = torch.autograd.grad(whole, x, upstream, retain_graph=True)
        (gradient,) = torch.autograd.grad(part, x, upstream)
        tolerance = 2 * error * float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", installed())
def test_windows_of_a_shipped_network_are_exact(name: str) -> None:
    """On a photograph: values to 1e-6 of the largest, gradients to 1e-4 in the L2 norm.

    Of EDSR's 4 million ReLUs about one lies so near its kink that rounding decides, in PyTorch's
    own convolution too, which turns single entries by 1e-4. Else gradients agree to 3e-6.
    """
    net = fastbg.load_model(name)
    photograph = builtin_images().items[0].load()[:192, :192]
    x = torch.from_numpy(downsample(photograph, 4)).permute(2, 0, 1)[None] / 255
    x.requires_grad_()
    sr = net(x)
    for window in [(97, 93, 113, 109), (0, 0, 16, 16), (150, 176, 192, 192)]:
        y0, x0, y1, x1 = window
        whole, part = sr[..., y0:y1, x0:x1], net.forward_window(x, window)
        assert (part - whole).abs().max() <= 1e-6 * sr.abs().max()
        upstream = torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
        (expected,) = torch.autograd.grad(whole, x, upstream, retain_graph=True)
        (gradient,) = torch.autograd.grad(part, x, upstream)
        assert (gradient - expected).norm() <= 1e-4 * expected.norm()


def test_edsr_and_swinir_leave_far_pixels_out() -> None:
    """The gain of forward_window: pixels out of reach are not even read."""
    for net in (small("edsr"), small("swinir_light")):
        x = torch.rand(1, 3, 64, 64)
        x[..., 40:] = math.nan
        assert net.forward_window(x, (0, 0, 16, 16)).isfinite().all()


def test_rcan_sees_the_whole_image_through_its_pooling() -> None:
    x = torch.rand(1, 3, 32, 32)
    x[..., -1, -1] = math.nan
    assert small("rcan").forward_window(x, (0, 0, 16, 16)).isnan().all()


@pytest.mark.parametrize("side", [1, 4, 5, 9])
def test_rcan_pools_over_the_window_around_each_position(side: int) -> None:
    net = small("rcan")
    assert isinstance(net, RCAN)
    block = net.body[0].blocks[0]
    y = torch.rand(2, 8, 7, 12)
    height, width = y.shape[-2:]
    block.pooling = side
    weight = block.attention(y)
    block.pooling = 0
    for row in range(height):
        for column in range(width):
            top = max(min(row - side // 2, height - side), 0)
            left = max(min(column - side // 2, width - side), 0)
            expected = block.attention(y[..., top : top + side, left : left + side])
            torch.testing.assert_close(weight[..., row, column], expected[..., 0, 0])


def test_pooled_rcan_is_plain_rcan_up_to_a_patch_and_local_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTBG_BACKEND", "torch")  # fastbg's convolution spreads a NaN over a tile
    plain, pooled = small("rcan"), small("rcan_pooled")
    x = torch.rand(1, 3, 10, 8)
    assert torch.equal(pooled(x), plain(x))
    x = torch.rand(1, 3, 8, 64)
    far = x.clone()
    far[..., -1, -1] = math.nan
    # Four blocks look 5 + 2 pixels far each, the other convolutions 4 together.
    assert torch.equal(pooled(x)[..., : 4 * 31], pooled(far)[..., : 4 * 31])
    assert not torch.allclose(pooled(x), plain(x))


@pytest.mark.parametrize("window", [(0, 0, 0, 4), (-1, 0, 4, 4), (0, 0, 33, 32), (0, 0, 4)])
@pytest.mark.parametrize("name", SMALL)
def test_bad_windows_are_named(name: str, window: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="window"):
        small(name).forward_window(torch.rand(1, 3, 8, 8), window)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 8), (9, 17)])
def test_padding_reflects_only_where_needed(size: tuple[int, int]) -> None:
    x = torch.rand(1, 3, *size)
    padded = pad_to_multiple(x, 8)
    target = [-(-side // 8) * 8 for side in size]
    mode = "reflect"
    expected = np.pad(
        x.numpy(), [(0, 0), (0, 0), *((0, t - s) for s, t in zip(size, target, strict=True))], mode
    )
    assert np.array_equal(padded.numpy(), expected)
    assert pad_to_multiple(padded, 8) is padded


def test_config_rebuilds_the_network() -> None:
    for name in SMALL:
        if name != "wrapped":
            net = small(name)
            again = type(net)(**net.config).requires_grad_(False)
            again.load_state_dict(net.state_dict())
            x = torch.rand(1, 3, 8, 8)
            assert torch.equal(again(x), net(x))


def test_swinir_trains_with_the_arithmetic_it_is_used_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training writes attention out (its bias needs a gradient), inference calls a fused kernel."""
    monkeypatch.setenv("FASTBG_BACKEND", "torch")  # whose convolution adds little to the difference
    net = small("swinir_light")
    x = torch.rand(2, 3, 16, 16)
    frozen = net(x)
    net.requires_grad_(True)
    trained = net(x)
    torch.testing.assert_close(trained, frozen, rtol=0, atol=1e-6)
    trained.sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert missing == []


class Doubler(nn.Module):
    """Changes its input in place, as spandrel's RCAN does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x *= self.gain
        return interpolate(x, scale_factor=2, mode="nearest")


def test_wrapped_modules_get_their_range_and_mean() -> None:
    module = Doubler()
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    net = fastbg.wrap(module, scale=2, mean=(0.1, 0.2, 0.3), range=255.0)
    x = torch.rand(1, 3, 5, 4, dtype=torch.float64)
    kept = x.clone()
    sr = net(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(sr, interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(seen[0], (x - net.mean) * 255)
    assert net.name == "Doubler"
    assert (net.scale, net.training) == (2, False)
    assert not module.gain.requires_grad


def test_wrapping_with_a_wrong_scale_is_an_error_on_use() -> None:
    net = fastbg.wrap(Doubler(), scale=4)
    with pytest.raises(InvalidArgument, match=r"module: got an output of shape \(1, 3, 8, 8\)"):
        net(torch.rand(1, 3, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("keywords", [{"scale": 0}, {"range": 0.0}, {"mean": (0.5,)}])
def test_bad_wrapping_is_named(keywords: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(keywords))):
        fastbg.wrap(Doubler(), **keywords)


def _halved(module: nn.Module, args: object, result: Tensor) -> Tensor:
    return result / 2


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: EDSR(features=8, blocks=2), ""),
        (lambda: EDSR(features=8, blocks=2), "body"),
        (lambda: EDSR(features=8, blocks=2), "upsample"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), ""),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "body"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "body.1"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "body.1.conv"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "body.1.blocks"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "body.1.blocks.1"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "conv_after_body"),
        (lambda: RCAN(features=8, groups=2, blocks=2, squeezed=4), "upsample"),
        (lambda: SwinIR(width=12, depths=(2,), heads=(2,), window=4), ""),
    ],
)
def test_a_hook_changes_a_window_as_the_whole_image(make: Callable[[], Network], part: str) -> None:
    """A trimmed window does not call every module."""
    torch.manual_seed(0)
    net = make().eval().requires_grad_(False)
    x, (y0, x0, y1, x1) = torch.rand(1, 3, 12, 16), (16, 20, 28, 36)
    plain = net(x)
    net.get_submodule(part).register_forward_hook(_halved)
    whole = net(x)
    assert (whole - plain).abs().max() > 1e-3
    found = net.forward_window(x, (y0, x0, y1, x1))
    torch.testing.assert_close(found, whole[..., y0:y1, x0:x1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_network_can_be_traced_by_torch_jit(name: str) -> None:
    net, x = fastbg.load_model(name), torch.rand(1, 3, 16, 16)
    traced = torch.jit.trace(net, x)
    torch.testing.assert_close(traced(1 - x), net(1 - x), rtol=1e-4, atol=1e-4)
