"""What only the CUDA kernels of stacks do: launches, sums, wide accesses, what they refuse."""

import ctypes
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import emulation_build
import pytest
import torch
from runnable_backend import runnable
from stack_cases import close, image
from stack_launches import Launches
from torch import Tensor

import fastbg
from fastbg.backends.cuda import conv as single
from fastbg.backends.cuda import conv_stack as emulated
from fastbg.backends.cuda import native
from fastbg.backends.stack_layers import Attention, Layer
from fastbg.backends.tensor_view import view
from fastbg.backends.torch_reference import conv as reference
from fastbg.backends.torch_reference.conv_stack import channel_weights
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.kernels.conv_ending import Ending, Placed
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN
from fastbg.ops.conv_stack import ChannelAttention, StackLayer, conv_stack
from fastbg.registration import dispatch

REASON = emulation_build.missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures("poisoned_memory", "module"),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(*shape: int, seed: int = 0) -> Tensor:
    """(B,C,H,W), channels_last."""
    return random(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def row(upscale: int = 1) -> Layer:
    return Layer(0, upscale, -1, -1, 0, 0, 1, 1)


def emulated_launches() -> int:
    """Kernels that the emulation has started so far."""
    library = ctypes.CDLL(native().__file__)
    library.fastbg_emulated_launches.restype = ctypes.c_ulonglong
    count: int = library.fastbg_emulated_launches()
    return count


def launches(call: Callable[[], object]) -> Launches:
    """What a call starts."""
    found, before = Launches(), emulated_launches()
    with found:
        call()
    found.kernels = emulated_launches() - before
    return found


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks take the cuda backend, which "auto" would not take on CPU tensors."""
    monkeypatch.setenv("FASTBG_BACKEND", "cuda")


@pytest.mark.usefixtures("chosen")
def test_edsr_takes_less_than_45_launches() -> None:
    """Weights, 37 convolutions, and four functions of PyTorch's around them."""
    net = EDSR(features=4).eval().requires_grad_(False)
    found = launches(lambda: net(image(1, 3, 4, 4)))
    assert found.kernels == 38
    assert found.total < 45, found.torch


@pytest.mark.usefixtures("chosen")
def test_edsr_and_its_gradient_take_less_than_90() -> None:
    net = EDSR(features=4).eval().requires_grad_(False)
    x = image(1, 3, 4, 4).requires_grad_()
    found = launches(lambda: torch.autograd.grad(net(x).sum(), x))
    assert found.kernels == 2 * 38
    assert found.total < 90, found.torch


@pytest.mark.usefixtures("chosen")
def test_rcan_takes_three_launches_a_block() -> None:
    """Two convolutions and the attention in a block; a group's end; both ends, two shuffles.

    Of 48 weights each launch packs, here 79: 24 blocks, 2 groups and 5.
    """
    net = RCAN(features=4, groups=2, blocks=12, squeezed=2).eval().requires_grad_(False)
    found = launches(lambda: net(image(1, 3, 4, 4)))
    weights = 2 * 12 * 2 + 2 + 1 + 1 + 2 + 1
    assert found.kernels == 2 * 12 * 3 + 2 + 1 + 1 + 2 + 1 + -(-weights // 48)


def test_many_weights_are_packed_as_one() -> None:
    """In launches of 48, with shuffles and without, transposed and not, rounded and not."""
    weights = [random(16, 5, 3, 3, seed=i).transpose(2, 3) for i in range(50)]
    weights[49] = random(72, 20, 3, 3)  # more than a block of channels
    rows = [row(2 if i % 3 == 0 else 1) for i in range(50)]
    for transposed in (False, True):
        for precision in ("ieee", "tf32"):
            with fastbg.use_precision(precision):
                kernels = emulated.Kernels(0)
                before = emulated_launches()
                packed = kernels.pack(weights, rows, transposed)
                assert emulated_launches() - before == 2
            sizes = [
                native().conv3x3_packed_size(view(w), r.upscale, transposed)
                for w, r in zip(weights, rows, strict=True)
            ]
            starts = list(accumulate(sizes, initial=0))
            for i in (0, 1, 48, 49):
                own = packed[i].owner[starts[i] : starts[i + 1]]
                expected = torch.empty(sizes[i])
                native().conv3x3_pack(
                    view(weights[i]), rows[i].upscale, transposed, precision != "ieee",
                    view(expected), 0,
                )  # fmt: skip
                assert torch.equal(own, expected)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize(("inputs", "outputs", "upscale"), [(20, 20, 1), (64, 8, 2), (3, 65, 1)])
def test_a_layer_has_the_bits_of_conv3x3(
    inputs: int, outputs: int, upscale: int, precision: str
) -> None:
    """The same products in the same order, on a part of a map: the whole map's, cut."""
    x, weight = maps(2, inputs, 12, 21), random(outputs * upscale**2, inputs, 3, 3)
    bias = random(outputs * upscale**2)
    box = Box(2, 3, 11, 20)
    with fastbg.use_precision(precision):
        kernels = emulated.Kernels(0)
        expected = single.conv3x3(x, weight, bias, None, 1.0, True, upscale)
        (packed,) = kernels.pack([weight], [row(upscale)], False)
    assert kernels.rounded == (precision != "ieee")
    shuffled = box.refine(upscale)
    out = maps(2, outputs, shuffled.y1 - shuffled.y0, shuffled.x1 - shuffled.x0)
    kernels.convolve(Placed(x, box.y0, box.x0), packed, Ending(bias, relu=True), out)
    assert torch.equal(out, expected[(..., *shuffled.slices())])


@pytest.mark.parametrize("channels", [3, 16, 20, 64])
@pytest.mark.parametrize("wide", [True, False])
def test_endings_equal_float64(channels: int, wide: bool) -> None:
    """A scale, a smaller residual at either side of the result, a gate; channels side by side."""
    x, weight = maps(2, 6, 9, 17), random(channels, 6, 3, 3) / 8
    (packed,) = emulated.Kernels(0).pack([weight], [row()], False)
    gate = maps(2, channels, 11, 19, seed=2).relu()
    product = reference.conv3x3(
        torch.nn.functional.pad(x.double(), [1] * 4), weight.double(), None, None, 1.0, False, 1
    )
    for box in (Box(0, 0, 11, 19), Box(2, 3, 6, 18), Box(5, 0, 11, 4)):
        residual = maps(2, channels, box.y1 - box.y0, box.x1 - box.x0, seed=3)
        given = [t if wide else t.contiguous() for t in (gate, residual)]
        out = torch.full((2, channels, 11, 19), float("nan"))
        out = out.contiguous(memory_format=torch.channels_last) if wide else out
        end = Ending(None, False, -0.3, Placed(given[1], -box.y0, -box.x0), given[0])
        emulated.Kernels(0).convolve(Placed(x, -1, -1), packed, end, out)
        added = torch.zeros(out.shape, dtype=torch.float64)
        added[(..., *box.slices())] = residual.double()
        close(out, torch.where(gate <= 0, 0, added - 0.3 * product), 2e-6)


@pytest.mark.parametrize(("channels", "height", "width"), [(5, 3, 4), (16, 9, 33), (70, 17, 16)])
def test_sums_of_blocks(channels: int, height: int, width: int) -> None:
    """Of 8 x 16 pixels and every channel; padding channels have none."""
    x, weight, bias = maps(2, 4, height, width), random(channels, 4, 3, 3), random(channels)
    kernels = emulated.Kernels(0)
    (packed,) = kernels.pack([weight], [row()], False)
    sums, out = kernels.empty_sums(x, packed, height, width), maps(2, channels, height, width)
    kernels.convolve(Placed(x), packed, Ending(bias, relu=True, scale=7.0, sums=sums), out)
    exact = out.double() / 7
    tiles = [
        exact[..., y : y + 8, x0 : x0 + 16].sum((2, 3))
        for y in range(0, height, 8)
        for x0 in range(0, width, 16)
    ]
    assert sums.shape[1] == len(tiles)
    close(sums[..., :channels], torch.stack(tiles, 1), 1e-6)
    assert not sums[..., channels:].any()


def attention(channels: int, squeezed: int) -> Attention:
    shapes = (squeezed, channels, 1, 1), (squeezed,), (channels, squeezed, 1, 1), (channels,)
    return Attention(*(random(*shape, seed=i) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize(
    ("channels", "squeezed", "height", "width"),
    [(1, 1, 1, 1), (20, 9, 5, 7), (64, 4, 48, 49), (100, 3, 3, 50), (300, 17, 2, 9)],
)
def test_attention_equals_float64(
    channels: int, squeezed: int, height: int, width: int, layout: str
) -> None:
    """With fewer channels than threads, and more; of more pixels than all blocks take at once."""
    make: Callable[..., Tensor] = maps if layout == "channels_last" else random
    kernels, values = emulated.Kernels(0), attention(channels, squeezed)
    y, box = make(2, channels, height, width), Box(0, width // 3, -(-height // 2), width)
    rows = (..., *box.slices())
    sums = y.reshape(2, channels, height, width).sum(3).permute(0, 2, 1).contiguous()
    residual, means = make(2, channels, *y[rows].shape[2:], seed=1), torch.empty(2, channels)
    out = make(*residual.shape)
    kernels.attend(y[rows], residual, sums, values, 0.5, height * width, means, out)
    exact = y.double().requires_grad_()
    weights = channel_weights(exact, Attention(*(p.double() for p in values)))
    expected = residual.double() + 0.5 * (exact * weights)[rows]
    close(means, y.double().mean((2, 3)), 1e-6)
    close(out, expected.detach(), 2e-6)
    grad, to_y = make(*out.shape, seed=2), make(*y.shape)
    kernels.attend_gradient(grad, box.y0, box.x0, y, means, values, 0.5, to_y)
    close(to_y, torch.autograd.grad(expected, exact, grad.double())[0], 3e-6)


def test_no_order_of_threads_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a forward pass and its gradient, with attention, in blocks of 16 channels and of 64."""
    layers = [
        StackLayer(random(16, 3, 3, 3), None, relu=True),
        StackLayer(random(17, 16, 3, 3), random(17)),
        StackLayer(
            random(17, 17, 3, 3),
            None,
            residual=2,
            attention=ChannelAttention(*attention(17, 3)),
        ),
    ]
    x = image(1, 3, 5, 17).requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        y = conv_stack(x, layers, backend="cuda")
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    expected = both()
    for seed in range(1, 21):
        monkeypatch.setenv("FASTBG_EMULATION_SEED", str(seed))
        assert all(torch.equal(got, wanted) for got, wanted in zip(both(), expected, strict=True))


@pytest.mark.parametrize("sanitizer", ["memory", "races"])
def test_stacks_are_clean_under_sanitizers(sanitizer: str) -> None:
    reason = emulation_build.sanitizer_missing(sanitizer)
    if reason is not None:
        pytest.skip(reason)
    done = emulation_build.run_sanitized(sanitizer, "emulation_campaign_stack.py")
    assert "cases agree with the reference" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def test_a_weight_written_to_is_used_in_the_next_pass(chosen: None) -> None:
    net = EDSR(features=4, blocks=1, scale=1).eval().requires_grad_(False)
    x = image(1, 3, 4, 5)
    first = net(x)
    net.conv_last.weight.data.zero_()
    assert not torch.equal(net(x), first)


def test_auto_takes_cuda_for_stacks_and_triton_for_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose kernels are Triton's only."""
    runnable("triton", "ChangeableStack")
    monkeypatch.setattr(dispatch, "PREFERENCE", {"cpu": dispatch.PREFERENCE["cuda"]})
    place = dispatch.Place(torch.device("cpu"), torch.float32)
    assert dispatch.select("conv_stack", place) == "cuda"
    assert dispatch.select("conv_stack_gradient", place) == "cuda"
    assert dispatch.select("ChangeableStack", place) == "triton"
    with pytest.raises(BackendUnavailable, match=r"ChangeableStack: .*not written"):
        dispatch.select("ChangeableStack", place, "cuda")


def test_what_a_launch_cannot_compute_is_refused() -> None:
    values: Any = attention(4000, 33)
    y = maps(1, 4000, 1, 1)
    with pytest.raises(InvalidArgument, match=r"3 C \+ S of at most 12032 on the cuda backend"):
        emulated.Kernels(0).attend(y, y, y[:, :, 0].mT, values, 1.0, 1, y[:, :, 0, 0], y)
    small = attention(1, 1)
    with pytest.raises(InvalidArgument, match="x: got 2147483648 pixels; expected at most"):
        emulated.Kernels(0).attend(y, y, y, small, 1.0, 2**31, y, y)
    x, weight = maps(1, 4, 5, 5), random(4, 4, 3, 3)
    (packed,) = emulated.Kernels(0).pack([weight], [row()], False)
    for wrong in (torch.empty(3), torch.empty(1, 1, 15)):
        with pytest.raises(RuntimeError, match="conv_stack_layer: cudaErrorInvalidValue"):
            emulated.Kernels(0).convolve(Placed(x), packed, Ending(sums=wrong), maps(1, 4, 5, 5))
    short = packed._replace(memory=view(torch.empty(9 * 16 * 16 - 4)))
    with pytest.raises(RuntimeError, match="conv_stack_layer: cudaErrorInvalidValue"):
        emulated.Kernels(0).convolve(Placed(x), short, Ending(), maps(1, 4, 5, 5))
    with pytest.raises(RuntimeError, match="conv_stack_pack: cudaErrorInvalidValue"):
        native().conv_stack_pack(((view(weight), 1, 4),), False, False, view(packed.owner), 0)
