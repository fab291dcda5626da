"""Changes of the input in SwinIR: equal to whole passes, and computed only where they reach."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastbg
from fastbg.attribution.changed import Change, ChangedWindow
from fastbg.attribution.passes import WindowPasses
from fastbg.geometry import Box
from fastbg.models import swinir_change
from fastbg.models.swinir import Block, SwinIR
from fastbg.models.swinir_change import ChangeableSwinIR

SMALL: dict[str, Any] = {"width": 16, "depths": (2, 3), "heads": (2, 2), "window": 4, "scale": 2}
NETWORKS = {
    "direct": SMALL,
    "shuffled": SMALL | {"upsampler": "pixelshuffle", "features": 8, "scale": 4},
    "odd window": SMALL | {"window": 5, "depths": (2,), "heads": (4,)},
}


def network(name: str) -> SwinIR:
    torch.manual_seed(3)
    net = SwinIR(**NETWORKS[name]).eval().requires_grad_(False)
    for module in net.modules():  # a bias and a table of attention that are not 0
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.bias, std=0.2)
    return net


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def replaced(image: Tensor, box: Box, pixels: Tensor) -> Tensor:
    images = image.repeat(len(pixels), 1, 1, 1)
    images[(..., *box.slices())] = pixels
    return images


def kept(net: SwinIR, image: Tensor, window: Box) -> ChangeableSwinIR:
    found = net.keep_window(image, window)
    assert isinstance(found, ChangeableSwinIR)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(24, 28), (23, 26), (3, 50), (40, 9)])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_window_of_the_changed_image(
    name: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    """At borders and corners, and where padding to whole attention windows reflects the change."""
    net = network(name).to(dtype)
    height, width = size
    image = drawn(1, 3, *size).to(dtype)
    full = Box(0, 0, net.scale * height, net.scale * width)
    middle = Box(full.y1 // 2 - 2, full.x1 // 2 - 3, full.y1 // 2 + 2, full.x1 // 2 + 3)
    windows = [middle, full, Box(0, full.x1 - 5, 3, full.x1)]
    boxes = [
        Box(0, 0, 2, 2),
        Box(height - 2, width - 3, height, width),
        Box(height // 2, width // 2, height // 2 + 1, width // 2 + 4),
        Box(0, width - 4, height, width - 2),
    ]
    error = 2e-6 if dtype == torch.float32 else 1e-13
    for window in windows:
        once = kept(net, image, window)
        torch.testing.assert_close(
            once.unchanged, net.forward_window(image, window), rtol=0, atol=error
        )
        changes = [
            (box, drawn(2, 3, box.y1 - box.y0, box.x1 - box.x0, seed=i).to(dtype))
            for i, box in enumerate(boxes)
        ]
        for (box, pixels), found in zip(changes, once.run(changes), strict=True):
            expected = net.forward_window(replaced(image, box, pixels), window)
            torch.testing.assert_close(found, expected, rtol=0, atol=error)


def test_a_change_out_of_reach_changes_no_bit() -> None:
    net = network("direct")
    image, window = drawn(1, 3, 96, 96), Box(0, 0, 8, 8)
    once = kept(net, image, window)
    box = Box(90, 90, 92, 92)
    assert net.reach(window, 96, 96).y1 < box.y0
    (found,) = once.run([(box, drawn(3, 3, 2, 2))])
    assert torch.equal(found, once.unchanged.repeat(3, 1, 1, 1))


def test_the_image_as_it_is_changes_nothing() -> None:
    net = network("shuffled")
    image, window, box = drawn(1, 3, 24, 28), Box(30, 30, 50, 60), Box(5, 6, 9, 11)
    once = kept(net, image, window)
    (found,) = once.run([(box, image[(..., *box.slices())])])
    torch.testing.assert_close(found, once.unchanged, rtol=0, atol=1e-6)
    assert once.run([]) == []
    assert once.nbytes > image.nbytes


def test_negligible_parts_of_a_change_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("direct")
    image, window, box = drawn(1, 3, 64, 64), Box(60, 60, 68, 68), Box(30, 30, 32, 32)
    once = kept(net, image, window)
    slight = [(box, image[(..., *box.slices())] + 1e-3)]
    sizes: list[int] = []
    plain = Block.forward

    def watched(self: Block, x: Any, *rest: Any) -> Any:
        sizes.append(x.data[0, 0].numel())
        return plain(self, x, *rest)

    monkeypatch.setattr(Block, "forward", watched)
    counts, results = [], []
    for negligible in (0.0, 1e-5, 1.0):
        sizes.clear()
        results += once.run(slight, negligible)
        counts.append(sum(sizes))
    assert counts[0] > counts[1] > counts[2]
    assert 0 < float((results[0] - results[1]).abs().max()) < 1e-4
    assert torch.equal(results[2], once.unchanged)  # all of it is negligible
    (spoilt,) = once.run([(box, torch.full((1, 3, 2, 2), torch.nan))], 1.0)
    assert bool(spoilt.isnan().any())


def test_many_changes_of_a_box_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("shuffled")
    image, window, box = drawn(1, 3, 24, 28), Box(30, 30, 50, 60), Box(5, 6, 9, 11)
    once, pixels = kept(net, image, window), drawn(5, 3, 4, 5)
    (whole,) = once.run([(box, pixels)])
    monkeypatch.setattr(swinir_change, "BYTES", 2 * max(k.data.nbytes for k in once._kept))
    once = kept(net, image, window)
    sizes: list[int] = []
    plain = Block.forward

    def watched(self: Block, x: Any, *rest: Any) -> Any:
        sizes.append(len(x.data))
        return plain(self, x, *rest)

    monkeypatch.setattr(Block, "forward", watched)
    (parts,) = once.run([(box, pixels)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    assert sorted(set(sizes)) == [1, 2]


def test_blocks_run_where_the_change_is(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("direct")
    image, window = drawn(1, 3, 64, 64), Box(60, 60, 68, 68)
    once = kept(net, image, window)
    sizes: list[tuple[int, ...]] = []
    plain = Block.forward

    def watched(self: Block, x: Any, *rest: Any) -> Any:
        sizes.append(tuple(x.data.shape[-2:]))
        return plain(self, x, *rest)

    monkeypatch.setattr(Block, "forward", watched)
    once.run([(Box(30, 30, 32, 32), drawn(1, 3, 2, 2))])
    assert sizes[0] == (8, 8)  # the change and one pixel around touch two windows of 4 in each axis
    changed = sum(height * width for height, width in sizes)
    sizes.clear()
    monkeypatch.setattr(ChangeableSwinIR, "_padded", lambda self, box: Box(0, 0, 64, 64))
    once.run([(Box(30, 30, 32, 32), drawn(1, 3, 2, 2))])
    assert changed < 0.6 * sum(height * width for height, width in sizes)


def test_what_must_be_called_is_called() -> None:
    net = network("direct")
    image, window = drawn(1, 3, 24, 24), Box(0, 0, 8, 8)
    assert kept(net, image, window) is not None
    hook = net.layers[0].blocks[0].attn.register_forward_hook(lambda *_: None)  # type: ignore[union-attr,index]
    assert net.keep_window(image, window) is None
    hook.remove()
    with fastbg.use_precision("bf16"):
        assert net.keep_window(image, window) is None
    net.native = False
    assert net.keep_window(image, window) is None


def test_effects_are_those_of_whole_passes() -> None:
    net = network("direct")
    image, window = drawn(1, 3, 28, 30), Box(24, 20, 40, 36)
    changes = [
        Change(Box(y, x, y + 2, x + 2), drawn(3, 2, 2, seed=y * 40 + x))
        for y in range(0, 28, 6)
        for x in range(0, 30, 6)
    ]
    fast = torch.cat(list(ChangedWindow(WindowPasses(net), image, window).changed(changes)))
    net.native = False
    slow = torch.cat(list(ChangedWindow(WindowPasses(net), image, window).changed(changes)))
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-6)
