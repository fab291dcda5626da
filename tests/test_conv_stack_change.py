"""Stacks of convolutions on images of which a box changes, against the whole stack anew."""

from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from runnable_backend import runnable
from stack_cases import close, cut, image, largest, stacks, trimmed
from torch import Tensor

from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR
from fastbg.ops.conv_stack import StackLayer, conv_stack
from fastbg.ops.conv_stack_change import ChangeableStack

pytest.importorskip("fastbg._cpu")


@st.composite
def changes(draw: st.DrawFn, height: int, width: int) -> tuple[Box, int]:
    """A box of a (height, width) image, and how many images have something else there."""
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    y1 = draw(st.integers(y0 + 1, min(height, y0 + 5)))
    x1 = draw(st.integers(x0 + 1, min(width, x0 + 5)))
    return Box(y0, x0, y1, x1), draw(st.integers(0, 3))


def changed(x: Tensor, box: Box, pixels: Tensor) -> Tensor:
    y = x.repeat(len(pixels), 1, 1, 1)
    y[..., box.y0 : box.y1, box.x0 : box.x1] = pixels
    return y


@settings(max_examples=150, deadline=None)
@given(data=st.data(), stack=stacks())
def test_results_are_those_of_the_changed_images(
    data: st.DataObject, stack: tuple[Tensor, list[StackLayer], Box, bool]
) -> None:
    """All kinds of layers, odd sizes, any strides, several boxes in one call; cells bit for bit."""
    x, layers, window, whole_cells = stack
    # Where a layer looks at its whole map, a change has no end.
    assume(all(getattr(layer, "attention", None) is None for layer in layers))
    x = x[:1]
    layers = trimmed(x, layers, window, whole_cells)
    kept = ChangeableStack(x, layers, whole_cells=whole_cells)
    # Both sides round by up to 3e-6 of the largest of all maps.
    close(kept.result, conv_stack(x, layers, backend="cpu").double(), 6e-6, largest(x, layers))
    asked = data.draw(st.lists(changes(*x.shape[-2:]), min_size=1, max_size=3))
    pixels = [
        torch.randn(count, x.shape[1], box.y1 - box.y0, box.x1 - box.x0) for box, count in asked
    ]
    boxes = [box for box, _ in asked]
    results = kept.run(list(zip(boxes, pixels, strict=True)))
    for box, some, result in zip(boxes, pixels, results, strict=True):
        assert len(result) == len(some)
        images = changed(x, box, some)
        for n in range(len(some)):
            image_, got = images[n : n + 1], result[n : n + 1]
            expected = conv_stack(image_, layers, backend="cpu").double()
            close(got, expected, 6e-6, largest(image_, layers))
            if whole_cells:
                assert got.equal(ChangeableStack(image_, layers, whole_cells=True).result)
        if len(some):
            assert cut(result, layers, window).shape[-2:] == (
                window.y1 - window.y0,
                window.x1 - window.x0,
            )


def layers_of(depth: int, features: int = 16) -> list[StackLayer]:
    generator = torch.Generator().manual_seed(1)
    sizes = [3, *[features] * depth, 3]
    return [
        StackLayer(torch.randn(after, before, 3, 3, generator=generator) / 12, None, relu=i < depth)
        for i, (before, after) in enumerate(pairwise(sizes))
    ]


def test_nothing_is_left_of_an_earlier_call(poisoned_memory: None) -> None:
    """Buffers hold other calls' numbers, NaN among them, which reach nothing they should not."""
    x, layers = (
        image(1, 3, 30, 26),
        trimmed(image(1, 3, 30, 26), layers_of(4), Box(9, 9, 15, 17), False),
    )
    kept = ChangeableStack(x, layers)
    box, pixels = Box(7, 8, 10, 12), image(2, 3, 3, 4, seed=3)
    before = kept.run([(box, pixels)])[0]
    kept.run([(Box(0, 0, 30, 26), torch.full((5, 3, 30, 26), torch.nan))])
    assert kept.run([(box, pixels)])[0].equal(before)
    assert not before.isnan().any()


def test_writing_to_the_result_changes_no_later_one() -> None:
    x, layers = image(1, 3, 16, 16), [StackLayer(torch.randn(3, 3, 3, 3), None, relu=True)]
    kept = ChangeableStack(x, layers)
    asked = [(Box(4, 4, 6, 6), torch.zeros(1, 3, 2, 2))]
    (before,) = kept.run(asked)
    kept.result.fill_(torch.nan)
    (after,) = kept.run(asked)
    assert after.equal(before)


def test_what_a_change_does_not_reach_is_the_unchanged_result() -> None:
    x = image(1, 3, 40, 40)
    layers = trimmed(x, layers_of(2), Box(30, 30, 36, 36), False)
    kept = ChangeableStack(x, layers)
    (result,) = kept.run([(Box(0, 0, 8, 8), image(2, 3, 8, 8, seed=5))])
    assert result.equal(kept.result.repeat(2, 1, 1, 1))


DROP = 5e-7


def fading(
    whole_cells: bool, far: float = 0.02
) -> tuple[Tensor, ChangeableStack, list[StackLayer]]:
    """Eight residual layers: a change is about 50 times smaller a pixel further away."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(8, 16, 16, 3, 3, generator=generator) / 12
    layers = [
        StackLayer(weight, None, residual=i, residual_scale=far) for i, weight in enumerate(weights)
    ]
    x = image(1, 16, 40, 40)
    layers = trimmed(x, layers, Box(8, 8, 32, 32), whole_cells)
    return x, ChangeableStack(x, layers, whole_cells=whole_cells), layers


def test_what_fades_below_rounding_is_dropped() -> None:
    """If that is asked for, the result differs from the unchanged one in a smaller box."""
    x, kept, layers = fading(False)
    box, pixels = Box(20, 20, 21, 21), image(2, 16, 1, 1, seed=5)
    whole = conv_stack(changed(x, box, pixels), layers, backend="cpu")
    sides = []
    for negligible in (0.0, DROP):
        (result,) = kept.run([(box, pixels)], negligible)
        rows = (result != kept.result).any(3).any(1).any(0).nonzero()[:, 0]
        sides.append(int(rows[-1] - rows[0]) + 1)
        assert float((whole - result).abs().max()) < 8 * DROP * float(whole.abs().max())
    assert sides[0] > sides[1] > 1

    # One image's change does not fade.
    loud = torch.cat([pixels[:1], 1e6 * pixels[1:]])
    (result,) = kept.run([(box, loud)], DROP)
    whole = conv_stack(changed(x, box, loud), layers, backend="cpu")
    close(result, whole.double(), 1e-6)
    differs = (result[1] != kept.result[0]).any(0)
    assert bool(differs[9].any() and differs[15].any())


def test_what_is_dropped_depends_on_no_other_image() -> None:
    """Images of one box and of several have tiles in the same products, but edges of their own."""
    _, kept, _ = fading(False)
    boxes = [Box(20, 20, 21, 21), Box(13, 22, 15, 23)]
    pixels = [image(3, 16, 1, 1, seed=5), image(2, 16, 2, 1, seed=6)]
    pixels[0][1] *= 1e6
    together = kept.run(list(zip(boxes, pixels, strict=True)), DROP)
    for box, some, results in zip(boxes, pixels, together, strict=True):
        for one, result in zip(some, results, strict=True):
            assert result.equal(kept.run([(box, one[None])], DROP)[0][0])


def test_a_change_that_fades_before_the_result_leaves_it() -> None:
    """Of several changes only the others are computed on; NaN never fades."""
    _, kept, _ = fading(False)
    near, away = Box(20, 20, 21, 21), Box(3, 3, 4, 4)
    pixels = image(1, 16, 1, 1, seed=5)
    unreached, reached = kept.run([(away, pixels), (near, pixels)], DROP)
    assert unreached.equal(kept.result)
    assert reached.equal(kept.run([(near, pixels)], DROP)[0])
    assert not reached.equal(kept.result)
    (nan,) = kept.run([(near, torch.full((1, 16, 1, 1), torch.nan))], DROP)
    assert int(nan.isnan().any(1).sum()) == 17 * 17


@pytest.mark.parametrize("name", ["cpu", "torch", "triton"])
def test_negated_views_are_read_as_they_are(name: str) -> None:
    """Such as imaginary parts of conjugates: their memory holds the numbers with another sign."""
    device = runnable(name, "conv_stack").device
    torch.manual_seed(0)
    x, pixels = torch.randn(1, 3, 6, 5).to(device), torch.randn(2, 3, 2, 1).to(device)
    weight, bias, box = (
        torch.randn(4, 3, 3, 3).to(device),
        torch.randn(4).to(device),
        Box(2, 2, 4, 3),
    )
    kept = ChangeableStack(x, [StackLayer(weight, bias)], backend=name)
    expected = [kept.result, *kept.run([(box, pixels)])]
    x, weight, bias, pixels = (torch._neg_view(-t) for t in (x, weight, bias, pixels))
    kept = ChangeableStack(x, [StackLayer(weight, bias)], backend=name)
    for got, wanted in zip([kept.result, *kept.run([(box, pixels)])], expected, strict=True):
        assert torch.equal(got, wanted)


def test_whole_cells_drop_nothing() -> None:
    x, kept, layers = fading(True)
    box, pixels = Box(20, 20, 24, 24), image(1, 16, 4, 4, seed=5)
    (result,) = kept.run([(box, pixels)], DROP)
    anew = ChangeableStack(changed(x, box, pixels), layers, whole_cells=True)
    assert result.equal(anew.result)


def test_more_work_for_more_reach() -> None:
    """The kept maps are those that the window needs, whatever the image's size."""
    small, large = image(1, 3, 40, 40), image(1, 3, 400, 400)
    sizes = [
        ChangeableStack(x, trimmed(x, layers_of(2), Box(16, 16, 24, 24), False)).nbytes
        for x in (small, large)
    ]
    assert sizes[0] == sizes[1] > 0


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0, 0, 0, 4), torch.zeros(1, 3, 0, 4)),
        ((38, 0, 41, 4), torch.zeros(1, 3, 3, 4)),
        ((0, 0, 2, 2), torch.zeros(1, 3, 2, 3)),
        ((0, 0, 2, 2), torch.zeros(1, 4, 2, 2)),
        ((0, 0, 2, 2), torch.zeros(1, 3, 2, 2, dtype=torch.float64)),
    ],
)
def test_bad_changes_are_refused(box: tuple[int, ...], pixels: Tensor) -> None:
    kept = ChangeableStack(image(1, 3, 40, 40), layers_of(1))
    with pytest.raises(InvalidArgument, match="changes"):
        kept.run([(box, pixels)])


def test_what_the_kernel_cannot_take_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="one image"):
        ChangeableStack(image(2, 3, 8, 8), layers_of(1))
    layers = [layer._replace(weight=layer.weight.double()) for layer in layers_of(1)]
    with pytest.raises(BackendUnavailable, match="float64"):
        ChangeableStack(image(1, 3, 8, 8).double(), layers, backend="cpu")


class TestEdsr:
    """A network's window, as causal effect maps and occlusion ask for it."""

    @pytest.fixture(params=[1, 2, 3, 4])
    def network(self, request: pytest.FixtureRequest) -> EDSR:
        torch.manual_seed(0)
        net = EDSR(features=16, blocks=3, scale=request.param, res_scale=0.5)
        return net.eval().requires_grad_(False)

    @pytest.mark.parametrize("equal", [False, True])
    def test_a_kept_window_is_forward_window(self, network: EDSR, equal: bool) -> None:
        x, s = image(1, 3, 27, 30), network.scale
        network.equal_windows = equal
        window = (9 * s, 11 * s, 17 * s + 1, 20 * s)
        kept = network.keep_window(x, window)
        assert kept is not None
        torch.testing.assert_close(
            kept.unchanged, network.forward_window(x, window), rtol=0, atol=1e-6
        )
        boxes = [Box(0, 0, 2, 2), Box(10, 12, 13, 13), Box(25, 28, 27, 30), Box(0, 0, 27, 30)]
        pixels = [image(2, 3, b.y1 - b.y0, b.x1 - b.x0, seed=7) for b in boxes]
        for box, some, result in zip(
            boxes, pixels, kept.run(list(zip(boxes, pixels, strict=True))), strict=True
        ):
            y0, x0, y1, x1 = window
            expected = network(changed(x, box, some))[..., y0:y1, x0:x1]
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
            if equal:
                anew = [network.keep_window(i, window) for i in changed(x, box, some).split(1)]
                assert result.equal(torch.cat([one.unchanged for one in anew if one is not None]))

    def test_none_where_the_modules_must_run(self, network: EDSR) -> None:
        x, window = image(1, 3, 12, 12), (0, 0, 4, 4)
        hook = network.body[1].register_forward_hook(lambda *_: None)
        assert network.keep_window(x, window) is None
        hook.remove()
        assert network.keep_window(x, window) is not None
        network.native = False
        assert network.keep_window(x, window) is None
        network.native = True
        kept = network.double().keep_window(x.double(), window)
        assert kept is not None
        assert kept.backend == "torch"
        assert network.half().keep_window(x.half(), window) is None
