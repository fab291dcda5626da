"""How changes of an image are divided into batches, and the boxes that each layer computes."""

import pytest
import torch
from stack_cases import image

from fastbg.backends.change_boxes import Batch, StackBoxes
from fastbg.geometry import Box
from fastbg.models.conv_stack import link_layers
from fastbg.models.edsr import EDSR
from fastbg.ops.conv_stack_change import ChangeableStack


def boxes_of(side: int = 64) -> StackBoxes:
    net = EDSR(features=4, blocks=4, scale=2).eval().requires_grad_(False)
    x = image(1, 3, side, side)
    layers = link_layers(net.links(), Box(60, 60, 76, 76), side, side, False)
    return ChangeableStack(x, layers, backend="torch")._stack._boxes


def changes_of(count: int) -> list[tuple[Box, int]]:
    return [(Box(y, x, y + 2, x + 2), count) for y in range(16, 52, 2) for x in range(16, 52, 2)]


def bytes_of(boxes: StackBoxes, batch: Batch) -> int:
    """Peak of the parts of maps and of assembled ones, added up map by map."""
    images, most = batch.corners.shape[1], 0
    sizes = [h * w * n for (h, w), n in zip(batch.sides, boxes._pixel_bytes, strict=True)]
    for i, row in enumerate(boxes.rows, 1):
        alive = [m for m in range(i + 1) if boxes.last_use[m] >= i]
        height, width = (side // row.upscale + 2 for side in batch.sides[i])
        assembled = height * width * boxes._pixel_bytes[i - 1]
        if row.residual >= 0:
            assembled += sizes[i]
        most = max(most, sum(sizes[m] for m in alive) + assembled)
    return images * int(most)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_each_image_once_and_within_the_budget(count: int) -> None:
    boxes, changes, budget = boxes_of(), changes_of(count), 4_000_000
    seen: set[tuple[int, int]] = set()
    batches = list(boxes.batches(changes, budget))
    assert len(batches) > 1
    for batch in batches:
        assert bytes_of(boxes, batch) <= budget
        for part in batch.parts:
            images = {(part.change, k) for k in range(part.start, part.stop)}
            assert images
            assert not images & seen
            seen |= images
        assert batch.corners.shape[1] == sum(p.stop - p.start for p in batch.parts)
    reached = {n for n, (box, _) in enumerate(changes) if reaches(box)}
    assert 0 < len(reached) < len(changes)
    assert seen == {(n, k) for n in reached for k in range(count)}


def reaches(box: Box) -> bool:
    """A window of LR pixels 30 to 38, and 12 convolutions; the upper ones see half a pixel."""
    near = Box(30, 30, 38, 38).grow(11, 64, 64)
    return box.y0 < near.y1 and box.y1 > near.y0 and box.x0 < near.x1 and box.x1 > near.x0


def test_boxes_hold_what_changed_and_lie_in_the_layers() -> None:
    boxes, changes = boxes_of(), changes_of(2)
    computed, _ = boxes.reached(torch.tensor([box for box, _ in changes]).numpy())
    for batch in boxes.batches(changes, 1 << 30):
        owners = [p.change for p in batch.parts for _ in range(p.start, p.stop)]
        for i, row in enumerate(boxes.rows):
            height, width = batch.sides[i + 1]
            for (y, x), n in zip(batch.corners[i + 1].tolist(), owners, strict=True):
                y0, x0, y1, x1 = (row.upscale * computed[i][n]).tolist()
                outer = row.box.refine(row.upscale)
                assert outer.y0 <= y <= y0 < y1 <= y + height <= outer.y1
                assert outer.x0 <= x <= x0 < x1 <= x + width <= outer.x1


@pytest.mark.parametrize(
    ("blocks", "count", "times"), [(64, 3, 3.9), (16, 50, 4.3)], ids=["coarse", "fine"]
)
def test_multiplications_of_a_whole_map(blocks: int, count: int, times: float) -> None:
    """As docs/concepts/changes.md says: EDSR 16x64, LR 64, against `forward_window`."""
    net = EDSR().eval().requires_grad_(False)
    x, window = image(1, 3, 64, 64), Box(112, 112, 144, 144)
    layers = link_layers(net.links(), window, 64, 64, False)
    boxes = ChangeableStack(x, layers, backend="torch")._stack._boxes
    areas = [(row.y1 - row.y0) * (row.x1 - row.x0) for row in boxes.rows]
    whole = sum(s.weight.numel() * a for s, a in zip(layers, areas, strict=True))
    images, done = 0, 0
    places = [Box(y, z, y + 2, z + 2) for y in range(0, 64, 2) for z in range(0, 64, 2)]
    for start in range(0, len(places), blocks):
        asked = [(box, count) for box in places[start : start + blocks]]
        for batch in boxes.batches(asked, 1 << 30):
            images += batch.corners.shape[1]
            for layer, (h, w) in zip(layers, batch.sides[1:], strict=True):
                area = h * w // layer.upscale**2
                done += batch.corners.shape[1] * layer.weight.numel() * area
    assert round(images * whole / done, 1) == times


def test_large_batches_hold_similar_changes() -> None:
    boxes, changes = boxes_of(), changes_of(64)
    batches = list(boxes.batches(changes, 1 << 40))
    computed, _ = boxes.reached(torch.tensor([box for box, _ in changes]).numpy())
    work = sum((c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1]) for c in computed)
    for batch in batches:
        works = [int(work[p.change]) for p in batch.parts]
        assert max(works) <= 1.5**2 * min(works)
    assert len(batches) < len(changes) / 4
    assert len(list(boxes.batches(changes_of(1)[:60], 1 << 40))) == 1
