"""What the experiments measure, and what they conclude from it."""

import dataclasses
import json
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from small_run import lr_tensor, plain_psnr
from torch._subclasses.fake_tensor import FakeTensorMode

from fastbg.errors import DataError, InvalidArgument, RunStoreError
from fastbg.experiments import EXPERIMENTS, experiment_type
from fastbg.experiments.experiment import Experiment, Measured, NetLabel
from fastbg.experiments.groups import GroupOptions
from fastbg.experiments.slicing import Slicing, SlicingOptions, cut, join, seam_distance
from fastbg.experiments.study import Item, Study, restore
from fastbg.experiments.swap import SwapOptions
from fastbg.experiments.table1 import Table1, Table1Options
from fastbg.models.edsr import EDSR
from fastbg.reports.sections import report_of
from fastbg.runs import records
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import Outcome

SMALL = Table1Options(count=6, size=64, region=32)


def test_table1_equals_a_plain_loop(study: Study, net: EDSR) -> None:
    experiment = Table1(SMALL)
    items = experiment.plan(study)
    columns = experiment.measure(net, items, study)
    for i, item in enumerate(items):
        y0, x0, y1, x1 = item.box
        hr = study.images[item.source].load()[y0:y1, x0:x1]
        lr = lr_tensor(hr)
        full, partial = net(lr)[0], net(lr[..., 4:12, 4:12])[0]
        truth = hr[20:44, 20:44]  # 32 pixels in the middle of 64, shaved by 4
        assert columns["psnr_full"][i] == pytest.approx(
            plain_psnr(full[:, 20:44, 20:44], truth), abs=1e-3
        )
        assert columns["psnr_partial"][i] == pytest.approx(
            plain_psnr(partial[:, 4:28, 4:28], truth), abs=1e-3
        )


def test_table1_can_cut_the_ground_truth_instead(study: Study, net: EDSR) -> None:
    experiment = Table1(dataclasses.replace(SMALL, domain="hr"))
    item = experiment.plan(study)[0]
    hr = study.ground_truth([item])
    alone = lr_tensor(hr[0, :, 16:48, 16:48].permute(1, 2, 0).numpy())
    torch.testing.assert_close(experiment.inputs([item], hr, study)[1], alone)


def test_table1_shows_the_region_with_its_background_and_alone(study: Study, net: EDSR) -> None:
    experiment = Table1(SMALL)
    item = experiment.plan(study)[0]
    y0, x0, y1, x1 = item.box
    hr = study.images[item.source].load()[y0:y1, x0:x1]
    lr = lr_tensor(hr)
    expected = {
        "hr": hr,
        "lr": grey_levels(lr[0]),
        "full": grey_levels(net(lr)[0, :, 16:48, 16:48]),
        "partial": grey_levels(net(lr[..., 4:12, 4:12])[0]),
    }
    shown = experiment.exhibit(net, item, study)
    assert list(shown) == list(expected)
    for name, picture in shown.items():  # a window's last bits may round to another level
        np.testing.assert_allclose(picture.astype(int), expected[name], atol=1, err_msg=name)


def grey_levels(image: torch.Tensor) -> np.ndarray:
    """8-bit pixels (h,w,3) of an image (3,h,w) in [0,1]."""
    return (image.clip(0, 1) * 255).round().permute(1, 2, 0).int().numpy()


def test_slicing_equals_a_plain_loop(study: Study, net: EDSR) -> None:
    experiment = Slicing(SlicingOptions(tile=32))
    item = experiment.plan(study)[0]
    assert item.box == (0, 0, 64, 96)
    columns = experiment.measure(net, [item], study)
    hr = study.images[item.source].load()[:64]
    lr = lr_tensor(hr)
    sliced = torch.zeros(3, 64, 96)
    for y in range(0, 16, 8):
        for x in range(0, 24, 8):
            part = net(lr[..., y : y + 8, x : x + 8])[0]
            sliced[:, 4 * y : 4 * y + 32, 4 * x : 4 * x + 32] = part
    assert columns["psnr_whole"][0] == pytest.approx(plain_psnr(net(lr)[0], hr), abs=1e-3)
    assert columns["psnr_sliced"][0] == pytest.approx(plain_psnr(sliced, hr), abs=1e-3)
    # The change sits at the seams: this network looks 6 LR pixels far.
    change = columns["difference"][0]
    assert change[0] > 5 * change[-1]


def test_slicing_shows_where_slices_changed_most(study: Study, net: EDSR) -> None:
    small = Slicing(SlicingOptions(tile=4))
    whole = torch.zeros(1, 3, 12, 16)
    for (y, x), box in {(9, 13): (4, 8, 12, 16), (1, 1): (0, 0, 8, 8)}.items():
        sliced = whole.clone()
        sliced[..., y, x] = 0.5
        assert small.busiest(whole, sliced) == box
    one_row = torch.zeros(1, 3, 4, 12)
    sliced = one_row.clone()
    sliced[..., 1, 10] = 0.5
    assert small.busiest(one_row, sliced) == (0, 4, 4, 12)

    experiment = Slicing(SlicingOptions(tile=32))
    item = experiment.plan(study)[0]
    hr = study.images[item.source].load()[:64]
    lr = lr_tensor(hr)
    sr = grey_levels(net(lr)[0])
    parts = [[net(lr[..., y : y + 8, x : x + 8])[0] for x in (0, 8, 16)] for y in (0, 8)]
    joined = grey_levels(torch.cat([torch.cat(row, -1) for row in parts], -2))
    change = np.abs(joined - sr).mean(2)
    left = 0 if change[:, :64].mean() > change[:, 32:].mean() else 32
    shown = experiment.exhibit(net, item, study)
    assert list(shown) == ["hr", "whole", "sliced", "change"]
    for name, expected in (("hr", hr), ("whole", sr), ("sliced", joined)):
        there = expected[:, left : left + 64].astype(int)
        np.testing.assert_allclose(shown[name].astype(int), there, atol=1, err_msg=name)
    levels = np.abs(joined - sr).max(2)[:, left : left + 64] * 255 / 64  # 64 levels are white
    np.testing.assert_allclose(shown["change"][..., 0].astype(int), levels.clip(0, 255), atol=9)


def test_slicing_takes_one_image_of_each_photograph_first(study: Study) -> None:
    keys = [item.key for item in study.images.items]
    images = dataclasses.replace(study.images, origins=dict.fromkeys(keys[:3], "p"))
    one = Slicing(SlicingOptions(tile=32, count=2)).plan(dataclasses.replace(study, images=images))
    assert {item.source for item in one} == {"p", keys[3]}
    all_ = Slicing(SlicingOptions(tile=32)).plan(dataclasses.replace(study, images=images))
    assert sorted(item.image for item in all_) == keys
    assert all(item.source == images.source(item.image) for item in all_)


def test_an_option_that_no_longer_exists_is_named(tmp_path: Path) -> None:
    with RunStore.open(tmp_path, {}) as store:
        store.remember("options slicing", lambda: {"tile": 64, "edge": 2})
        store.put("slicing", "edsr", "a", {"psnr": 30.0})
        with pytest.raises(RunStoreError, match=r"its slicing was run with edge, which this fast"):
            records.stored_experiments(store)


def test_the_plan_is_stored_with_its_images_and_photographs() -> None:
    partner = Item("b", "other", (0, 0, 8, 8), image="b.png")
    item = Item(
        "a", "photograph", (0, 4, 8, 12), (partner,), image="a.png", set="natural", number=3
    )
    stored = json.loads(json.dumps(records._plain(item)))
    assert records._item(stored) == item
    # As fastbg wrote it before: the source was the image, and set and number stood in the key.
    assert records._item(["a", "a.png", [0, 4, 8, 12], []]) == Item("a", "a.png", (0, 4, 8, 12))
    key, box = "OSSCD/012/a@0,4", (0, 4, 8, 12)
    assert records._item([key, "p", [*box], [], "a"]) == Item(key, "p", box, (), "a", "OSSCD", 12)
    assert records._item(["natural/a@0,4", "p", [*box], [], "a"]).set == ""
    assert Item("a", "a.png", (0, 4, 8, 12)).image == "a.png"


def test_slices_put_together_are_the_image() -> None:
    image = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(join(cut(image, 32), 2, 3), image)


def test_seam_distance_knows_no_seam_at_the_border() -> None:
    distance = seam_distance(8, 12, 4, torch.device("cpu"))
    assert distance[0].tolist() == [3, 2, 1, 0, 0, 1, 1, 0, 0, 1, 2, 3]
    assert distance[3].tolist() == [0] * 12


def test_a_window_is_the_cut_image(net: EDSR) -> None:
    lr = torch.rand(5, 3, 16, 16)
    window = (20, 24, 44, 40)
    torch.testing.assert_close(restore(net, lr, window), net(lr)[..., 20:44, 24:40])


@pytest.mark.parametrize("name", ["table1", "slicing"])
def test_the_hot_loop_never_waits_for_the_device(name: str, net: EDSR) -> None:
    """Under fake tensors an .item(), a nonzero or a branch on data raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        if name == "table1":
            hr = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
            lr = torch.zeros(2, 3, 16, 16)
            columns = Table1(SMALL).compare(net, hr, lr, lr[..., 4:12, 4:12])
        else:
            hr = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
            sr = torch.zeros(1, 3, 64, 96)
            columns = Slicing(SlicingOptions(tile=32)).compare(hr, sr, sr)
    assert all(len(column) == len(hr) for column in columns.values())


def measured(net: str, **columns: list[float]) -> Measured:
    count = len(next(iter(columns.values())))
    items = [Item(f"{i}", f"photo {i // 2}", (0, 0, 64, 64)) for i in range(count)]
    return Measured(NetLabel(net, net), items, {k: np.array(v) for k, v in columns.items()})


def table1_result(net: str, alone_better: int, count: int = 60) -> Measured:
    full = [30.0] * count
    gap = np.where(np.random.default_rng(0).permutation(count) < alone_better, 0.5, -0.5)
    return measured(net, psnr_full=full, psnr_partial=(30.0 + gap).tolist())


@pytest.mark.parametrize(
    ("alone_better", "outcome"),
    [(48, Outcome.HOLDS), (0, Outcome.FAILS), (14, Outcome.UNDECIDED)],
)
def test_c1_follows_from_the_share(alone_better: int, outcome: Outcome) -> None:
    summary = report_of(Table1()).summarise([table1_result("edsr", alone_better, 120)])
    verdict = summary.verdicts[0]
    assert (verdict.claim, verdict.outcome) == ("C1", outcome)
    assert verdict.paper == "62 of 150 better alone"
    assert summary.tables[0].rows[0][2:5] == (120 - alone_better, alone_better, 0)


def test_c1_orders_the_networks_only_where_both_ran() -> None:
    edsr = table1_result("edsr", 40)
    assert len(report_of(Table1()).summarise([edsr]).verdicts) == 1
    verdicts = report_of(Table1()).summarise([edsr, table1_result("rcan", 5)]).verdicts
    assert verdicts[-1].subject == "edsr against rcan"
    assert verdicts[-1].outcome is Outcome.HOLDS
    reversed_ = report_of(Table1()).summarise([table1_result("edsr", 5), table1_result("rcan", 40)])
    assert reversed_.verdicts[-1].outcome is Outcome.FAILS


@pytest.mark.parametrize(
    ("gains", "differs", "always"),
    [
        ([-0.3] * 60, Outcome.FAILS, Outcome.FAILS),
        ([0.2] * 59 + [1.4], Outcome.HOLDS, Outcome.HOLDS),
        ([0.2] * 10, Outcome.UNDECIDED, Outcome.UNDECIDED),
        ([-1.2] + [0.2] * 9, Outcome.HOLDS, Outcome.FAILS),
        ([-1.2] + [0.2] * 7, Outcome.TOO_FEW, Outcome.TOO_FEW),
    ],
)
def test_c2_follows_from_the_gains(gains: list[float], differs: Outcome, always: Outcome) -> None:
    sliced = (30 + np.array(gains)).tolist()
    result = measured("edsr", psnr_whole=[30.0] * len(gains), psnr_sliced=sliced)
    verdicts = report_of(Slicing()).summarise([result]).verdicts
    assert [v.outcome for v in verdicts] == [differs, always]


def test_a_perfect_result_does_not_spoil_the_means() -> None:
    result = measured("edsr", psnr_full=[np.inf, 30, 31], psnr_partial=[np.inf, 29, np.inf])
    row = report_of(Table1()).summarise([result]).tables[0].rows[0]
    assert row[2:5] == (1, 1, 1)
    assert all(np.isfinite(row[7:9]))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        (Table1Options(size=62), "table1.size"),
        (Table1Options(region=60), "table1.region"),
        (Table1Options(region=512), "table1.region"),
        (Table1Options(shave=32), "table1.shave"),
        (Table1Options(lr="paired", domain="hr"), "table1.domain"),
    ],
)
def test_table1_refuses_sizes_off_the_grid(
    options: Table1Options, argument: str, study: Study
) -> None:
    with pytest.raises(InvalidArgument, match="expected") as caught:
        Table1(options).plan(study)
    assert caught.value.argument == argument


def test_slicing_refuses_a_tile_without_a_seam(study: Study) -> None:
    with pytest.raises(DataError, match=r"\d\.png .*smaller than two slices"):
        Slicing(SlicingOptions(tile=80)).plan(study)
    with pytest.raises(InvalidArgument, match=r"slicing\.tile"):
        Slicing(SlicingOptions(tile=12)).plan(study)


def test_paired_lr_images_are_asked_for_in_vain(study: Study, net: EDSR) -> None:
    experiment = Table1(dataclasses.replace(SMALL, lr="paired"))
    with pytest.raises(DataError, match=r"no LR image of .* at scale 4"):
        experiment.measure(net, experiment.plan(study), study)


def test_options_are_parsed_by_their_types() -> None:
    parsed = Table1Options.parse({"count": "7", "many": "0.2", "domain": "hr"}, "table1")
    assert parsed == Table1Options(count=7, many=0.2, domain="hr")
    for texts in ({"count": "many"}, {"domain": "x"}, {"colour": "y"}):
        with pytest.raises(InvalidArgument, match=rf"table1\.{next(iter(texts))}"):
            Table1Options.parse(texts, "table1")


@pytest.mark.parametrize("kind", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_every_option_is_declared_in_full(kind: type[Experiment]) -> None:
    options = kind.options_type()
    options.check(kind.name)  # the defaults are in range
    for name, declared in kind.options_type.declared().items():
        assert declared.name == name
        assert declared.default == getattr(options, name)
        assert declared.meaning, f"{kind.name}.{name} has no meaning: use option()"
        assert declared.parse(str(declared.default), kind.name) == declared.default
        if get_origin(declared.type) is Literal:
            assert declared.choices.keys() <= set(get_args(declared.type))


def test_a_new_default_keeps_range_and_meaning() -> None:
    base, mine = GroupOptions.declared()["groups"], SwapOptions.declared()["groups"]
    assert (base.default, mine.default) == (100, 24)
    assert mine._replace(default=100) == base
    with pytest.raises(InvalidArgument, match=r"swap\.groups: got 0; expected .* at least 1"):
        SwapOptions(groups=0).check("swap")
    with pytest.raises(InvalidArgument, match=r"swap\.domain: got 'x'; expected one of hr, lr"):
        dataclasses.replace(SwapOptions(), domain="x").check("swap")


def test_registry() -> None:
    assert [kind.name for kind in EXPERIMENTS.values()] == list(EXPERIMENTS)
    with pytest.raises(InvalidArgument, match="table1"):
        experiment_type("table2")
