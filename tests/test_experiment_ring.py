"""`ring`: composites, records and claims; what it shares with `inward` is tested here."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import lr_tensor, make_images, plain_psnr
from torch._subclasses.fake_tensor import FakeTensorMode

import fastbg
from fastbg.attribution import LocalAttribution
from fastbg.data.images import open_folder
from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.nested import randomised
from fastbg.experiments.ring import Ring, RingOptions
from fastbg.experiments.study import Item, Study
from fastbg.measures.texture import gram_distance, texture_gram
from fastbg.models.edsr import EDSR
from fastbg.reports.content import Chart, Gallery, Verdict
from fastbg.reports.sections import report_of
from fastbg.stats.intervals import Interval, Outcome, all_of, mean_interval

SMALL = RingOptions(count=3, candidates=8, size=64, window=16, sizes="0,32,48")


def region(study: Study, item: Item) -> np.ndarray:
    """HR pixels (h,w,3) of an item."""
    y0, x0, y1, x1 = item.box
    return study.images[item.source].load()[y0:y1, x0:x1]


def composed(study: Study, item: Item, size: int) -> np.ndarray:
    """The composite of ring `size` in plain numpy, HR."""
    image, foreign = region(study, item).copy(), region(study, item.partners[0])
    kept = image[24:40, 24:40].copy()
    side = slice(32 - size // 2, 32 + size // 2)
    image[side, side] = foreign[side, side]
    image[24:40, 24:40] = kept
    return image


def test_records_equal_a_plain_loop(study: Study, net: EDSR) -> None:
    experiment = Ring(SMALL)
    items = experiment.plan(study)
    with torch.inference_mode():  # as the engine calls it
        columns = experiment.measure(net, items, study)
    for i, item in enumerate(items):
        truth = region(study, item)[24:40, 24:40]
        untouched = LocalAttribution(net).attribute(
            lr_tensor(composed(study, item, 0)), (24, 24, 16), 8, "arc_midpoint"
        )
        for size in (0, 32, 48):
            lr = lr_tensor(composed(study, item, size))
            with torch.no_grad():
                sr = net(lr)[0, :, 24:40, 24:40].numpy().transpose(1, 2, 0)
            error = ((sr.clip(0, 1) * 255).round() - truth) ** 2
            psnr = 10 * np.log10(255**2 / error.mean())
            assert columns[f"psnr_{size}"][i] == pytest.approx(psnr, abs=1e-3)
            lam = LocalAttribution(net).attribute(lr, (24, 24, 16), 8, "arc_midpoint")
            map_, before = lam.map[0].double(), untouched.map[0].double()
            assert columns[f"di_{size}"][i] == pytest.approx(float(lam.diffusion_index), abs=1e-3)
            low, high = 8 - size // 8, 8 + size // 8
            square = (slice(low, high), slice(low, high))
            inside = map_[6:10, 6:10].sum() / map_.sum()
            ring = map_[square].sum() / map_.sum() - inside if size else 0.0
            assert columns[f"window_{size}"][i] == pytest.approx(float(inside), abs=1e-5)
            assert columns[f"foreign_{size}"][i] == pytest.approx(float(ring), abs=1e-5)
            assert columns[f"own_{size}"][i] == pytest.approx(float(1 - inside - ring), abs=1e-5)
            there = (before[square].sum() - before[6:10, 6:10].sum()) / before.sum() if size else 0
            assert columns[f"before_{size}"][i] == pytest.approx(float(there), abs=1e-5)


def test_pairs_are_dissimilar(study: Study) -> None:
    experiment = Ring(SMALL)
    items = experiment.plan(study)
    assert items == experiment.plan(study)
    assert len({item.key for item in items}) == len(items) == SMALL.count
    foreign = [item.partners[0] for item in items]
    assert all(f.source != i.source for f, i in zip(foreign, items, strict=True))
    assert len(set(foreign)) == len(items)
    own, others = (texture_gram(study.ground_truth(x), backend="torch") for x in (items, foreign))
    distance = gram_distance(own, others).diagonal()
    assert distance.tolist() == sorted(distance.tolist(), reverse=True)
    # The first pair drawn took the farthest of all: no other candidate is farther from it.
    drawn = study.sub_images(SMALL.candidates, SMALL.size)
    all_ = texture_gram(study.ground_truth(drawn), backend="torch")
    row = gram_distance(texture_gram(study.ground_truth(drawn[:1]), backend="torch"), all_)[0]
    apart = [float(row[j]) for j, item in enumerate(drawn) if item.source != drawn[0].source]
    place = [item.box for item in items].index(drawn[0].box)
    assert float(distance[place]) == pytest.approx(max(apart), rel=1e-5)


def test_pairs_begin_in_photographs_and_in_textures(study: Study) -> None:
    images = dataclasses.replace(study.images, classes={"0.png": "sky", "2.png": "grass"})
    study = dataclasses.replace(study, images=images)
    items = Ring(dataclasses.replace(SMALL, count=2, candidates=12)).plan(study)
    assert sorted(item.image in images.classes for item in items) == [False, False, True, True]
    # Where one set holds fewer, there are fewer; only too few in all are an error.
    few = dataclasses.replace(images, classes={"0.png": "sky"})
    items = Ring(dataclasses.replace(SMALL, count=3, candidates=8)).plan(
        dataclasses.replace(study, images=few)
    )
    assert sorted(item.image in few.classes for item in items) == [False] * 3 + [True] * 2


def test_a_photograph_never_meets_itself(study: Study) -> None:
    """Images 0 and 1 are of one photograph."""
    images = dataclasses.replace(study.images, origins={"0.png": "p", "1.png": "p"})
    items = Ring(SMALL).plan(dataclasses.replace(study, images=images))
    assert any(item.source == "p" for item in items)
    for item in items:
        for one in (item, *item.partners):
            assert one.source == images.source(one.image)
        assert item.partners[0].source != item.source


def test_windows_without_detail_are_passed_over(tmp_path: Path) -> None:
    """Of four images, two are flat in the middle: they serve as foreign content only."""
    folder = make_images(tmp_path / "images")
    for name in ("1.png", "3.png"):
        with Image.open(folder / name) as opened:
            image = opened.convert("RGB")
        image.paste((120, 120, 120), (16, 16, 80, 64))
        image.save(folder / name)
    study = Study(open_folder(folder), backend="torch")
    items = Ring(dataclasses.replace(SMALL, count=2)).plan(study)
    assert {item.source for item in items} <= {"0.png", "2.png"}
    with pytest.raises(DataError, match=r"8 sub-images give \d pairs .* ring\.count = 8"):
        Ring(dataclasses.replace(SMALL, count=8)).plan(study)


def test_one_photograph_has_nothing_foreign(tmp_path: Path) -> None:
    study = Study(open_folder(make_images(tmp_path / "one", 1)), backend="torch")
    with pytest.raises(DataError, match="pairs of different photographs"):
        Ring(SMALL).plan(study)


def test_in_lr_the_foreground_never_changes(study: Study) -> None:
    experiment = Ring(dataclasses.replace(SMALL, domain="lr"))
    items = experiment.plan(study)[:1]
    lr = experiment.inputs(items, study.ground_truth(items), study)
    own, foreign = (lr_tensor(region(study, item))[0] for item in (items[0], items[0].partners[0]))
    expected = own.clone()
    expected[:, 4:12, 4:12] = foreign[:, 4:12, 4:12]
    expected[:, 6:10, 6:10] = own[:, 6:10, 6:10]
    torch.testing.assert_close(lr[0], own)
    torch.testing.assert_close(lr[1], expected)
    # In HR the window's own LR pixels change with what is beside them.
    mixed = Ring(SMALL).inputs(items, study.ground_truth(items), study)
    assert not torch.equal(mixed[1, :, 6:10, 6:10], own[:, 6:10, 6:10])


def test_both_rims_of_a_ring_are_bridged(study: Study, net: EDSR) -> None:
    experiment = Ring(dataclasses.replace(SMALL, seam="hard,4"))
    items = experiment.plan(study)[:2]
    with torch.inference_mode():  # as the engine calls it
        columns = experiment.measure(net, items, study)
    for i, item in enumerate(items):
        own, foreign = (
            torch.from_numpy(region(study, each)).permute(2, 0, 1)[None].double() / 255
            for each in (item, item.partners[0])
        )
        truth = region(study, item)[24:40, 24:40]
        for size in (32, 48):
            outer = (32 - size // 2, 32 - size // 2, 32 + size // 2, 32 + size // 2)
            image = fastbg.composite(
                own, foreign, [[0, 0]], (24, 24, 40, 40), outer, seam=4.0, backend="torch"
            )
            lr = lr_tensor(image[0].permute(1, 2, 0).numpy() * 255)
            with torch.no_grad():
                sr = net(lr)[0, :, 24:40, 24:40]
            psnr = plain_psnr(sr, truth)
            assert columns[f"psnr_{size}_seam_4"][i] == pytest.approx(psnr, abs=1e-3)
            lam = LocalAttribution(net).attribute(lr, (24, 24, 16), 8, "arc_midpoint")
            share = lam.map[0, 6:10, 6:10].double().sum() / lam.map[0].double().sum()
            found = columns[f"window_{size}_seam_4"][i]
            assert found == pytest.approx(float(share), abs=1e-5)
            assert columns[f"psnr_{size}"][i] != pytest.approx(psnr, abs=1e-3)
    # An untouched image has no seam: it is measured once.
    assert not any(name.endswith("_0_seam_4") or "before" in name for name in bridged_of(columns))


def bridged_of(columns: dict[str, torch.Tensor]) -> list[str]:
    """The columns of bridged seams."""
    return [name for name in columns if "_seam_" in name]


def test_hard_numbers_do_not_depend_on_what_else_is_measured(study: Study, net: EDSR) -> None:
    one, both = (Ring(dataclasses.replace(SMALL, seam=seam)) for seam in ("hard", "hard,4"))
    items = one.plan(study)[:1]
    alone, beside = one.measure(net, items, study), both.measure(net, items, study)
    assert not bridged_of(alone)
    assert all(torch.equal(values, beside[name]) for name, values in alone.items())


def test_claims_are_tested_with_each_seam() -> None:
    """Hard rings hurt, bridged ones do not."""
    hard = {"psnr_32": 20.0, "psnr_48": 20.0, "psnr_64": 20.0}
    result = measured("edsr", **hard, own_48=0.02, own_64=0.01)
    kind = {"psnr": 26.0, "di": 10, "window": 0.5, "foreign": 0.3, "own": 0.2}
    for size in (32, 48, 64):
        for name, value in kind.items():
            if name == "psnr" or size < 64:
                column = value + 0.01 * np.random.default_rng(size).standard_normal(30)
                result.columns[f"{name}_{size}_seam_4"] = column
    summary = report_of(Ring(RingOptions(sizes="0,32,48,64"))).summarise([result])
    found = {(v.claim, v.about): v.outcome for v in summary.verdicts}
    assert found["C5", "hard seam"] is Outcome.HOLDS
    assert found["C5", "bridged over 4 pixels"] is Outcome.FAILS
    assert [row[1] for row in summary.tables[0].rows] == ["hard seam", "bridged over 4 pixels"]
    bridged = [row[2] for row in summary.tables[1].rows if row[1] != "hard seam"]
    assert bridged == ["ring 32", "ring 48"]  # not of 64: it was not attributed


def test_null_model(study: Study, net: EDSR) -> None:
    experiment = Ring(dataclasses.replace(SMALL, null="on"))
    items = experiment.plan(study)[:1]
    with torch.inference_mode():  # as the engine calls it
        columns = experiment.measure(net, items, study)
    twin = randomised(net, 0)
    lr = lr_tensor(composed(study, items[0], 32))
    lam = LocalAttribution(twin).attribute(lr, (24, 24, 16), 8, "arc_midpoint")
    assert columns["null_di_32"][0] == pytest.approx(float(lam.diffusion_index), abs=1e-3)
    assert columns["null_own_32"][0] != pytest.approx(float(columns["own_32"][0]), abs=1e-4)


def test_random_weights_keep_mean_and_spread() -> None:
    net = EDSR(features=16, blocks=1).requires_grad_(False)
    twin, again, other = randomised(net, 1), randomised(net, 1), randomised(net, 2)
    parameters = (n.body[0].conv1.weight for n in (net, twin, again, other))
    before, weight, same, another = parameters
    assert torch.equal(weight, same)
    assert not torch.equal(weight, another)
    assert float(torch.corrcoef(torch.stack((before.flatten(), weight.flatten())))[0, 1]) < 0.1
    assert float(weight.std() / before.std()) == pytest.approx(1, abs=0.1)


def test_naive_nodes_differ_little(study: Study, net: EDSR) -> None:
    items = Ring(SMALL).plan(study)[:1]
    quick = Ring(SMALL).measure(net, items, study)
    exact = Ring(dataclasses.replace(SMALL, nodes="published")).measure(net, items, study)
    assert float(quick["own_32"][0]) == pytest.approx(float(exact["own_32"][0]), abs=0.02)
    assert float(quick["own_32"][0]) != float(exact["own_32"][0])


def test_the_hot_loop_never_waits_for_the_device(net: EDSR) -> None:
    """Under fake tensors an .item(), a nonzero or a branch on data raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        hr = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        assert Ring(SMALL).compare(net, hr, torch.zeros(6, 3, 16, 16)).shape == (6,)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        (RingOptions(sizes="32,48"), "ring.sizes"),
        (RingOptions(sizes="0"), "ring.sizes"),
        (RingOptions(sizes="0,many"), "ring.sizes"),
        (RingOptions(sizes="0,36"), "ring.sizes"),
        (RingOptions(sizes="0,16"), "ring.sizes"),
        (RingOptions(sizes="0,128"), "ring.sizes"),
        (RingOptions(size=100), "ring.size"),
        (RingOptions(window=0), "ring.window"),
        (RingOptions(count=0), "ring.count"),
        (RingOptions(lr="paired"), "ring.domain"),
    ],
)
def test_sizes_off_the_grid_are_refused(options: RingOptions, argument: str, study: Study) -> None:
    with pytest.raises(InvalidArgument, match="expected") as caught:
        Ring(options).plan(study)
    assert caught.value.argument == argument


def measured(architecture: str, count: int = 30, **given: float) -> Measured:
    """Records of one network: values near those `given`, else near neutral ones."""
    rng = np.random.default_rng(0)
    columns = {}
    for size in (0, 32, 48, 64):
        neutral = {"psnr": 25.0, "di": 10, "window": 0.5, "foreign": 0.3, "own": 0.2, "before": 0.3}
        for name, value in neutral.items():
            value = given.get(f"{name}_{size}", value)
            columns[f"{name}_{size}"] = value + 0.01 * value * rng.standard_normal(count)
    items = [Item(f"{i}", f"photo {i}", (0, 0, 128, 128)) for i in range(count)]
    return Measured(NetLabel(architecture, architecture), items, columns)


def without_seam(verdict: Verdict) -> str:
    """Whom a verdict is about."""
    return verdict.subject.removesuffix(", hard seam")


def outcomes(results: Sequence[Measured], claim: str) -> dict[tuple[str, str], Outcome]:
    experiment = Ring(RingOptions(sizes="0,32,48,64", seam="hard"))
    verdicts = report_of(experiment).summarise(results).verdicts
    assert all(v.about.endswith("hard seam") for v in verdicts)
    return {
        (without_seam(v), v.statement.split()[-1]): v.outcome for v in verdicts if v.claim == claim
    }


def test_c5_needs_a_loss_at_every_ring() -> None:
    every = {"psnr_32": 20.0, "psnr_48": 20.0, "psnr_64": 20.0}
    assert set(outcomes([measured("edsr", **every)], "C5").values()) == {Outcome.HOLDS}
    once = every | {"psnr_48": 28.0}
    assert set(outcomes([measured("edsr", **once)], "C5").values()) == {Outcome.FAILS}
    none = every | {"psnr_48": 25.0}
    assert set(outcomes([measured("edsr", **none)], "C5").values()) == {Outcome.UNDECIDED}


def test_c5_jumps_of_attention_networks() -> None:
    lost = {"psnr_32": 20.0, "psnr_48": 20.0, "psnr_64": 20.0}
    back = {"psnr_32": 23.0, "psnr_48": 20.0, "psnr_64": 18.0}
    found = outcomes([measured("edsr", **lost), measured("rcan", **back)], "C5")
    assert found["rcan", "small."] is Outcome.HOLDS
    assert found["rcan against edsr", "CNN's."] is Outcome.HOLDS
    found = outcomes([measured("edsr", **back), measured("swinir", **lost)], "C5")
    assert found["swinir", "small."] is Outcome.UNDECIDED
    assert found["swinir against edsr", "CNN's."] is Outcome.FAILS


def test_c6_follows_from_the_shares() -> None:
    edsr = measured("edsr", foreign_32=0.3, own_32=0.2, own_48=0.02, own_64=0.01)
    found = outcomes([edsr], "C6")
    assert [*found.values()] == [Outcome.HOLDS, Outcome.HOLDS]
    rcan = measured("rcan", foreign_32=0.1, before_32=0.3)
    swinir = measured("swinir", own_48=0.2)
    found = outcomes([edsr, rcan, swinir], "C6")
    assert all(outcome is Outcome.HOLDS for outcome in found.values())
    assert len(found) == 6
    blind = [
        measured("edsr", own_32=0.01, own_48=0.2),
        measured("rcan", foreign_32=0.5),
        measured("swinir", own_48=0.01),
    ]
    assert set(outcomes(blind, "C6").values()) == {Outcome.FAILS}


def test_intervals_of_shares_stay_between_0_and_100_percent() -> None:
    """One pair of seven has all of its attribution elsewhere: Student's t would go below 0 %."""
    result = measured("edsr", 7)
    for size in (0, 32, 48, 64):
        one = np.zeros(7)
        one[0] = 1.0
        result.columns[f"own_{size}"][:] = result.columns[f"foreign_{size}"][:] = one
        result.columns[f"window_{size}"][:] = 1 - one
        result.columns[f"before_{size}"][:] = 0
        result.columns[f"di_{size}"][:] = 100 * one
    assert mean_interval(result.columns["own_32"], result.sources).low < 0
    rcan = dataclasses.replace(result, net=NetLabel("rcan", "rcan"))
    summary = report_of(Ring(RingOptions(sizes="0,32,48,64", seam="hard"))).summarise(
        [result, rcan]
    )
    cells = [c for row in summary.tables[1].rows for c in row if isinstance(c, Interval)]
    assert len(cells) == 2 * 4 * 5
    assert all(0 <= c.low <= c.value <= c.high <= 100 for c in cells)
    texts = [v.ours for v in summary.verdicts if v.claim == "C6"]
    assert len(texts) == 4
    ends = [float(end) for text in texts for end in re.findall(r"[(](-?[0-9.]+) to", text)]
    assert all(end >= 0 for end in ends[:-1])  # the last is of a difference


def test_a_network_that_the_paper_lacks_is_measured_all_the_same() -> None:
    experiment = Ring(RingOptions(sizes="0,32,48,64", seam="hard"))
    summary = report_of(experiment).summarise([measured("wrapped")])
    assert [v.claim for v in summary.verdicts] == ["C5"]
    assert len(summary.tables[1].rows) == 4


def test_figures_show_one_pair_and_the_means(study: Study, net: EDSR) -> None:
    experiment = Ring(dataclasses.replace(SMALL, null="on"))
    items = experiment.plan(study)[:2]
    columns = {k: v.numpy() for k, v in experiment.measure(net, items, study).items()}
    with torch.inference_mode():
        pictures = experiment.exhibit(net, items[0], study)
    assert pictures["grid"].shape == (3 * 64 + 2 * 4, 3 * 64, 3)
    shown = {(items[0].key, name): picture for name, picture in pictures.items()}
    drawn = report_of(experiment).draw([Measured(NetLabel("edsr", "edsr"), items, columns, shown)])
    galleries = [d for d in drawn if isinstance(d, Gallery)]
    assert len(galleries) == 1
    panels = galleries[0].strips[0].panels
    assert [panel.title for panel in panels] == ["no ring", "ring 32", "ring 48"]
    assert [len(panel.marks) for panel in panels] == [1, 4, 4]
    assert panels[1].detail.startswith(f"{columns['psnr_32'][0]:.2f} dB")
    names = [d.name for d in drawn if isinstance(d, Chart)]
    assert names == ["ring_psnr", "ring_shares", "ring_index"]


def test_all_parts_of_a_claim_must_hold() -> None:
    holds, fails, undecided = Outcome.HOLDS, Outcome.FAILS, Outcome.UNDECIDED
    assert all_of([holds, holds]) is holds
    assert all_of([holds, undecided]) is undecided
    assert all_of([undecided, fails, holds]) is fails
