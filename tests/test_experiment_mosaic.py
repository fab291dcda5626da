"""The mosaic and test-time augmentation: what they measure, and what C9 follows from."""

import dataclasses

import numpy as np
import pytest
import torch
from small_run import plain_psnr, rounded_once
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.mosaic import Mosaic, MosaicOptions, cut, inside
from fastbg.experiments.study import Item, Study
from fastbg.experiments.tta import average, restored_copies
from fastbg.models.edsr import EDSR
from fastbg.ops.composite import Transform
from fastbg.reports.sections import report_of
from fastbg.stats.intervals import Outcome

SMALL = MosaicOptions(count=6, region=32)
HARD = MosaicOptions(seam="hard")


def plain_copy(tile: Tensor, code: int) -> Tensor:
    """`tile` (1,3,h,h) as a cell of the mosaic holds it, by torch's own functions."""
    if code in (Transform.ZOOM_2, Transform.ZOOM_4):
        factor = 2 if code == Transform.ZOOM_2 else 4
        large = torch.nn.functional.interpolate(tile, scale_factor=factor, mode="nearest")
        border = (large.shape[-1] - tile.shape[-1]) // 2
        return large[..., border : border + tile.shape[-2], border : border + tile.shape[-1]]
    if code in (Transform.FLIP_HORIZONTAL, Transform.FLIP_VERTICAL):
        return tile.flip(-1 if code == Transform.FLIP_HORIZONTAL else -2)
    return torch.rot90(tile, {0: 0, 3: 1, 4: 2, 5: 3}[code], (-2, -1))


def plain_tta(net: EDSR, tile: Tensor, codes: list[int]) -> Tensor:
    """The mean over one call for each of `codes`."""
    restored = []
    for code in codes:
        sr = net(plain_copy(tile, code))
        back = {Transform.ROTATE_90: 5, Transform.ROTATE_270: 3}.get(Transform(code), code)
        restored.append(plain_copy(sr, back))
    return torch.stack(restored).mean(0)


def test_measures_what_a_plain_loop_measures(study: Study, net: EDSR) -> None:
    experiment = Mosaic(SMALL)
    items = experiment.plan(study)
    columns = experiment.measure(net, items, study)
    cells, counts = experiment.draws(items, study)
    for i, item in enumerate(items):
        hr = study.images[item.source].load()
        lr = torch.from_numpy(rounded_once(hr, 4)).permute(2, 0, 1)[None].float() / 255
        y0, x0, y1, x1 = item.box
        tile = lr[..., y0 // 4 : y1 // 4, x0 // 4 : x1 // 4]
        rows = [torch.cat([plain_copy(tile, c) for c in row], -1) for row in cells[i].tolist()]
        codes = [code for code in range(8) for _ in range(int(counts[i, code]))]
        assert len(codes) == 25
        expected = {
            "whole": net(lr)[..., y0:y1, x0:x1],
            "alone": net(tile),
            "mosaic": net(torch.cat(rows, -2))[..., 64:96, 64:96],
            "tta": plain_tta(net, tile, codes),
        }
        truth = hr[y0:y1, x0:x1]
        for way, sr in expected.items():
            assert columns[f"psnr_{way}"][i] == pytest.approx(plain_psnr(sr[0], truth), abs=1e-3)
            inner = plain_psnr(sr[0, :, 8:24, 8:24], truth[8:24, 8:24])
            assert columns[f"inner_{way}"][i] == pytest.approx(inner, abs=1e-3)
        assert (columns["height"][i], columns["width"][i]) == (80, 96)


def test_the_image_around_can_be_smaller_than_the_photograph(study: Study, net: EDSR) -> None:
    experiment = Mosaic(dataclasses.replace(SMALL, size=64))
    items = experiment.plan(study)
    around = [experiment.surroundings(item, study).box for item in items]
    for item, outer in zip(items, around, strict=True):
        assert inside(item.box, outer) == (16, 16, 48, 48)
        assert 0 <= outer[0] < outer[2] <= 80
        assert 0 <= outer[1] < outer[3] <= 96
    columns = experiment.measure(net, items, study)
    assert columns["height"].tolist() == columns["width"].tolist() == [64] * 6


def test_draws_depend_on_seed_and_region_only(study: Study) -> None:
    experiment = Mosaic(SMALL)
    items = experiment.plan(study)
    cells, counts = experiment.draws(items, study)
    again, _ = experiment.draws(items[3:4], study)
    assert torch.equal(again[0], cells[3])
    assert not torch.equal(cells[0], cells[1])
    assert cells.shape == (6, 5, 5)
    assert (cells[:, 2, 2] == Transform.IDENTITY).all()
    assert set(cells.unique().tolist()) == set(range(8))
    assert counts.sum(1).tolist() == [25] * 6
    assert counts[:, [Transform.ZOOM_2, Transform.ZOOM_4]].sum() == 0
    other, _ = experiment.draws(items, dataclasses.replace(study, seed=1))
    assert not torch.equal(other, cells)


def test_tta_can_zoom(study: Study, net: EDSR) -> None:
    experiment = Mosaic(dataclasses.replace(SMALL, tta="zooms"))
    _, counts = experiment.draws(experiment.plan(study), study)
    assert (counts.sum(0) > 0).all()
    tile = torch.rand(1, 3, 8, 8)
    copies = restored_copies(net, tile, zooms=True, backend="torch")
    assert len(copies) == 8
    large = net(tile.repeat_interleave(4, 2).repeat_interleave(4, 3))
    means = large.reshape(1, 3, 32, 4, 32, 4).mean(dim=(3, 5))
    torch.testing.assert_close(copies[Transform.ZOOM_4], means)
    only = torch.zeros(1, 8)
    only[0, Transform.ZOOM_4] = 25
    torch.testing.assert_close(average(copies, only), means)


def test_the_hot_loop_never_waits_for_the_device(net: EDSR) -> None:
    """Under fake tensors an .item(), a nonzero or a branch on data raises."""
    experiment = Mosaic(SMALL)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = [torch.zeros(1, 3, 20, 24), torch.zeros(1, 3, 16, 16)]
        windows = [(0, 4, 32, 36), (16, 16, 48, 48)]
        cells = torch.zeros(2, 5, 5, dtype=torch.int64)
        counts = torch.zeros(2, 8, dtype=torch.int64)
        restored = experiment.restored(net, images, windows, cells, counts, "torch")
        hr = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        columns = experiment.compare(hr, restored)
    assert {len(column) for column in columns.values()} == {2}


def test_pictures_show_the_mosaic_around_the_region(study: Study, net: EDSR) -> None:
    experiment = Mosaic(SMALL)
    item = experiment.plan(study)[0]
    pictures = experiment.exhibit(net, item, study)
    assert set(pictures) == set(experiment.shown)
    assert pictures["mosaic_lr"].shape == (40, 40, 3)
    hr = study.ground_truth([experiment.surroundings(item, study)])
    tile = cut(study.degrade(hr, "matlab"), item.box, 4)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(pictures["mosaic_lr"][16:24, 16:24], (tile * 255).round())


def test_cases_are_the_largest_gains_then_the_largest_losses() -> None:
    found = result("edsr", [0.3, -0.2, 0.1, 0.5, -0.4, 0.0], [0.0] * 6)
    assert Mosaic(HARD).cases(found) == [3, 0, 4, 1]
    assert Mosaic(HARD).cases(result("edsr", [0.1, 0.2, 0.3], [0.0] * 3)) == [2, 1, 0]


def test_the_copies_can_be_bridged_to_the_region(study: Study, net: EDSR) -> None:
    """Only pixels beside the region change, and meet it without a jump."""
    experiment = Mosaic(dataclasses.replace(SMALL, seam="hard,4"))
    tile = torch.rand(1, 3, 8, 8)
    cells = torch.from_numpy(np.random.default_rng(0).integers(8, size=(1, 5, 5)))
    cells[:, 2, 2] = Transform.IDENTITY
    hard, bridged = (experiment.assembled(tile, cells, seam, 4, "torch") for seam in ("hard", 4.0))
    assert torch.equal(bridged[..., 16:24, 16:24], tile)
    torch.testing.assert_close(bridged[..., 15, 16:24], tile[..., 0, :])
    torch.testing.assert_close(bridged[..., 16:24, 24], tile[..., 7])
    assert not torch.equal(hard[..., 15, 16:24], tile[..., 0, :])
    assert torch.equal(bridged[..., :3, :], hard[..., :3, :])  # beyond the bridge's reach
    items = experiment.plan(study)[:1]
    columns = experiment.measure(net, items, study)
    hr = study.ground_truth([experiment.surroundings(items[0], study)])
    lr = cut(study.degrade(hr, "matlab"), items[0].box, 4)
    cells, _ = experiment.draws(items, study)
    sr = net(experiment.assembled(lr, cells, 4.0, 4, "torch"))[0, :, 64:96, 64:96]
    truth = study.ground_truth(items)[0].permute(1, 2, 0).numpy()
    assert columns["psnr_mosaic_seam_4"][0] == pytest.approx(plain_psnr(sr, truth), abs=1e-3)
    assert columns["psnr_mosaic_seam_4"][0] != columns["psnr_mosaic"][0]


def test_the_mirrored_layout_has_no_jumps(study: Study) -> None:
    """Both pixels of every seam are copies of one: there is nothing to bridge."""
    experiment = Mosaic(dataclasses.replace(SMALL, layout="mirrored"))
    items = experiment.plan(study)[:2]
    cells, _ = experiment.draws(items, study)
    assert torch.equal(cells[0], cells[1])
    tile = torch.rand(2, 3, 8, 8)
    laid = experiment.assembled(tile, cells, "hard", 4, "torch")
    assert torch.equal(laid[..., 16:24, 16:24], tile)
    for at in (8, 16, 24, 32):
        assert torch.equal(laid[..., at - 1, :], laid[..., at, :])
        assert torch.equal(laid[..., at - 1], laid[..., at])
    assert torch.equal(experiment.assembled(tile, cells, 4.0, 4, "torch"), laid)


def test_c9_is_tested_with_each_seam() -> None:
    """A hard mosaic harms, a bridged one helps; TTA has no seam."""
    found = result("edsr", [-0.3] * 60, [0.05] * 60)
    for part in ("psnr", "inner"):
        found.columns[f"{part}_mosaic_seam_4"] = found.columns[f"{part}_whole"] + 0.3
    summary = report_of(Mosaic()).summarise([found])
    outcomes = [(v.about, v.outcome) for v in summary.verdicts]
    assert outcomes[0] == ("hard seam", Outcome.FAILS)
    assert outcomes[2] == ("bridged over 4 pixels", Outcome.HOLDS)
    assert [about for about, _ in outcomes[4:]] == ["", ""]
    assert len(summary.tables[0].rows) == 5
    assert len(summary.tables[1].columns) == 2 + 2 * 2 + 1


def result(net: str, mosaic: list[float], tta: list[float]) -> Measured:
    """A network whose mosaic and TTA gain so many dB."""
    count = len(mosaic)
    flat = np.full(count, 30.0)
    psnr = {"whole": flat, "alone": flat - 1, "mosaic": flat + mosaic, "tta": flat - 1 + tta}
    columns = {f"{part}_{way}": psnr[way] for part in ("psnr", "inner") for way in psnr}
    columns |= {"height": np.full(count, 128.0), "width": np.full(count, 256.0)}
    items = [Item(f"{i}", f"photo {i // 2}", (0, 0, 64, 64)) for i in range(count)]
    return Measured(NetLabel(net, net), items, columns)


@pytest.mark.parametrize(
    ("mosaic", "tta", "outcomes"),
    [
        ([0.3] * 60, [0.05] * 59 + [-0.1], "holds, holds, holds, holds"),
        ([-0.3] * 60, [0.2] * 60, "fails, fails, fails, fails"),
        ([0.3] * 59 + [-0.1], [0.05] * 60, "holds, fails, holds, fails"),
        ([1.0, 1.0, -1.0, -1.0] * 3, [0.5, 0.5, 0.0, 0.0] * 3, "open, fails, open, open"),
        ([0.3] * 8, [0.05] * 8, "few, few, few, few"),
        ([0.3] * 10, [0.05] * 10, "holds, open, holds, open"),
    ],
)
def test_c9_follows_from_the_gains(mosaic: list[float], tta: list[float], outcomes: str) -> None:
    names = {"holds": Outcome.HOLDS, "fails": Outcome.FAILS, "open": Outcome.UNDECIDED}
    names["few"] = Outcome.TOO_FEW
    verdicts = report_of(Mosaic(HARD)).summarise([result("edsr", mosaic, tta)]).verdicts
    assert {verdict.claim for verdict in verdicts} == {"C9"}
    assert [v.outcome for v in verdicts] == [names[word] for word in outcomes.split(", ")]
    assert verdicts[0].paper == "23.02 to 23.28 dB"


def test_tables_hold_gains_harm_and_cost() -> None:
    summary = report_of(Mosaic(HARD)).summarise(
        [result("rcan", [0.3] * 57 + [-0.6] * 3, [0.1] * 60)]
    )
    quality, inner, cost = summary.tables
    whole, alone, mosaic, tta = quality.rows
    assert whole[3:6] == (23.11, None, None)
    assert mosaic[3] == 23.39
    assert mosaic[4].value == pytest.approx(0.255)  # type: ignore[union-attr]
    assert mosaic[5] == pytest.approx(5.0)
    assert alone[6:] == (None, None)
    assert tta[7] == 0
    assert [row[1] for row in inner.rows] == ["region", "inner half"]
    assert [row[1:] for row in cost.rows] == [(1, 8.0), (1, 1.0), (1, 25.0), (25, 25.0)]
    zooming = report_of(Mosaic(MosaicOptions(seam="hard", tta="zooms"))).summarise(
        [result("rcan", [0.3], [0.1])]
    )
    assert zooming.tables[2].rows[3][1:] == (25, 25 * (6 + 4 + 16) / 8)


def test_a_small_loss_may_be_allowed() -> None:
    losing = result("edsr", [-0.01] * 60, [-0.01] * 60)
    strict, mild = (
        report_of(Mosaic(MosaicOptions(seam="hard", harm=harm))).summarise([losing])
        for harm in (0.0, 0.02)
    )
    assert [s.verdicts[1].outcome for s in (strict, mild)] == [Outcome.FAILS, Outcome.HOLDS]


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        (MosaicOptions(region=30), "mosaic.region"),
        (MosaicOptions(size=32), "mosaic.size"),
        (MosaicOptions(size=68), "mosaic.size"),
        (MosaicOptions(shave=32), "mosaic.shave"),
        (MosaicOptions(grid=4), "mosaic.grid"),
    ],
)
def test_sizes_off_the_grid_are_refused(
    options: MosaicOptions, argument: str, study: Study
) -> None:
    with pytest.raises(InvalidArgument, match="expected") as caught:
        Mosaic(options).plan(study)
    assert caught.value.argument == argument
