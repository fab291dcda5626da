"""Likeness of regions against PSNR: the measures, the correlations, C8, held-out images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fastbg.errors import CheckpointError, RunStoreError
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.gram import Gram
from fastbg.experiments.groups import sources
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.measures.descriptions import Descriptions
from fastbg.measures.likeness import SIMILARITIES, Images, Similarity, layer_outputs
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.window import Box
from fastbg.reports.gram import COMBINED, GramReport, halves
from fastbg.reports.sections import report_of
from fastbg.runs.records import collect
from fastbg.runs.store import RunStore
from fastbg.stats.correlation import (
    kendall,
    partial_spearman,
    pooled_kendall,
    pooled_spearman,
    spearman,
)
from fastbg.stats.intervals import Interval, Outcome, mean_interval

BOX = Box(24, 24, 40, 40)


@pytest.fixture
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=4, blocks=1).eval().requires_grad_(False)


def some_images(net: EDSR, count: int = 3) -> Images:
    torch.manual_seed(1)
    hr = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)
    lr = torch.nn.functional.avg_pool2d(hr.float() / 255, 4)
    return Images(hr, lr, BOX, net, "torch")


def test_each_groups_images_are_read_ahead(study: Study) -> None:
    options = SwapOptions(size=64, region=16, groups=2, backgrounds=4)
    experiment = Gram(base=Swap(options))
    items = experiment.plan(study)[:2]
    readings = experiment.readings(items, study)
    for item, reading in zip(items, readings, strict=True):
        assert torch.equal(reading.finish(), sources(item, study))


def test_both_caches_share_the_images_that_they_lack(
    study: Study, net: EDSR, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is degraded once for a network, and not again while it is known."""
    experiment = Gram(base=Swap(SwapOptions(size=64, region=16, groups=1, backgrounds=3)))
    item = experiment.plan(study)[0]
    made: list[int] = []
    degrade = Study.degrade
    monkeypatch.setattr(
        Study,
        "degrade",
        lambda self, hr, kernel: (made.append(len(hr)), degrade(self, hr, kernel))[1],
    )
    count = 1 + len(item.partners)
    once = experiment.measure(net, [item], study)
    assert made == [count]
    again = experiment.measure(net, [item], study)
    assert made == [count]
    for name, values in once.items():
        assert torch.equal(values, again[name])
    experiment.measure(EDSR(features=4, blocks=1), [item], study)  # has other features
    assert made == [count, count]


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_measure_sees_the_texture_and_nothing_of_the_other_region(name: str, net: EDSR) -> None:
    """Stripes look like stripes, whatever lies in the middle of the image that they surround."""
    similarity = SIMILARITIES[name]
    wave = (127 + 100 * torch.sin(torch.arange(64) * np.pi / 8)).round().to(torch.uint8)
    stripes = wave.expand(3, 64, 64)
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    filled = stripes.clone()
    filled[:, 28:36, 28:36] = noise[:, 28:36, 28:36]  # well inside: a convolution looks across
    hr = torch.stack([stripes, filled, noise])
    lr = torch.nn.functional.avg_pool2d(hr.float() / 255, 4)
    foregrounds, around = similarity.describe(Images(hr, lr, BOX, net, "torch"))
    distance = similarity.distance(foregrounds[:1], around)
    assert distance.shape == (3,)
    own, filled_in, other = distance.tolist()
    assert own >= 0
    if name != "rim_step_lr":  # stripes of 4 LR pixels have steps of their own, averaged noise not
        assert own < other
    if not name.endswith("features"):  # the network looks 6 LR pixels far
        assert filled_in == pytest.approx(own, rel=0.05, abs=1e-6)


def test_colour_moments_by_hand(net: EDSR) -> None:
    """A quarter of the foreground is white, three quarters of the rest are: skewed apart."""
    white = torch.zeros(64, 64, dtype=torch.bool)
    white[::2, ::2] = True
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[BOX.y0 : BOX.y1, BOX.x0 : BOX.x1] = True
    hr = (255 * torch.where(inside, white, ~white)).to(torch.uint8).expand(1, 3, 64, 64)
    lr = torch.zeros(1, 3, 16, 16)
    foreground, around = SIMILARITIES["colour_moments"].describe(Images(hr, lr, BOX, net, "torch"))
    spread = (3 / 16) ** 0.5
    skew = (1 / 4 * (3 / 4) ** 3 - 3 / 4 * (1 / 4) ** 3) ** (1 / 3)  # 0.454
    assert foreground[0].tolist() == pytest.approx([0.25, spread, skew] * 3, abs=1e-6)
    assert around[0].tolist() == pytest.approx([0.75, spread, -skew] * 3, abs=1e-6)


def test_descriptions_are_made_once(net: EDSR) -> None:
    images = some_images(net)
    made: list[int] = []

    def mean(given: Images) -> tuple[torch.Tensor, torch.Tensor]:
        made.append(len(given.hr))
        value = given.levels.mean((1, 2, 3))
        return value, value + 1

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return b - a

    def load(index: Sequence[int]) -> Images:
        return Images(images.hr[list(index)], images.lr[list(index)], BOX, net)

    descriptions = Descriptions({"mean": Similarity("mean", mean, distance, any_net=False)}, kept=3)
    level = images.levels.mean((1, 2, 3))
    for _ in range(2):
        found = descriptions.distances(net, ["a", "b", "c"], load)["mean"]
        torch.testing.assert_close(found, level + 1 - level[0])
    assert made == [3]
    descriptions.distances(net, ["b"], lambda index: load([1]))
    assert made == [3]
    descriptions.distances(EDSR(features=4, blocks=1), ["b"], lambda index: load([1]))
    assert made == [3, 1]


def test_networks_share_descriptions_that_depend_on_none(net: EDSR) -> None:
    """The paper's measure; and what is kept again where an image was dropped is that image's."""
    images = some_images(net)
    made: list[int] = []

    def load(index: Sequence[int]) -> Images:
        made.append(len(index))
        return Images(images.hr[list(index)], images.lr[list(index)], BOX, net)

    both = Descriptions({"vgg_gram": SIMILARITIES["vgg_gram"]}, kept=3)
    first = both.distances(net, ["a", "b", "c"], load)
    other = both.distances(EDSR(features=4, blocks=1), ["a", "b", "c"], load)
    assert torch.equal(first["vgg_gram"], other["vgg_gram"])
    assert made == [3]
    both.distances(net, ["d", "e"], lambda index: load([0] * len(index)))  # drops a and b
    again = both.distances(net, ["a", "b", "c"], load)
    assert made == [3, 2, 2]
    assert torch.equal(first["vgg_gram"], again["vgg_gram"])


def test_layer_outputs_are_the_first_and_the_last_before_magnification(net: EDSR) -> None:
    x = torch.rand(2, 3, 8, 8)
    first, last = layer_outputs(net, x)
    shallow = net.shallow(x)
    torch.testing.assert_close(first, shallow)
    torch.testing.assert_close(last, net.conv_after_body(net.body(shallow), residual=shallow))
    with pytest.raises(CheckpointError, match="no convolution"):
        layer_outputs(Bicubic(4), x)


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((6, 9))
    y = x + rng.random((6, 9))
    clusters = ["a", "a", "b", "b", "c", "d"]
    rows = list(zip(x, y, strict=True))
    expected = [stats.spearmanr(a, b).statistic for a, b in rows]
    np.testing.assert_allclose(spearman(x, y), expected)
    np.testing.assert_allclose(kendall(x, y), [stats.kendalltau(a, b).statistic for a, b in rows])
    rho = pooled_spearman(x, y, clusters)
    assert rho.value == pytest.approx(stats.spearmanr(x.ravel(), y.ravel()).statistic)
    tau = pooled_kendall(x, y, clusters)
    assert tau.value == pytest.approx(stats.kendalltau(x.ravel(), y.ravel()).statistic)
    for interval in (rho, tau):
        assert interval.low < interval.value < interval.high
    assert not pooled_spearman(x, y, ["a"] * 6).low > -1  # one image says nothing of others
    same = pooled_spearman(np.ones((3, 4)), x[:3, :4], ["a", "b", "c"])
    assert (same.value, same.low, same.high) == (0, -1, 1)  # nothing to put in order
    assert spearman(np.ones((1, 4)), x[:1, :4]).tolist() == [0]


def test_equal_values_are_neither_agreement_nor_its_opposite() -> None:
    """Of six pairs four agree, one ties in x and one in y."""
    x, y = np.array([[1.0, 1, 2, 3]]), np.array([[1.0, 2, 2, 3]])
    assert kendall(x, y).tolist() == kendall(-x, -y).tolist() == [4 / 6]
    assert kendall(-x, y).tolist() == [-4 / 6]
    assert pooled_kendall(x, y, ["a"]).value == pytest.approx(4 / 6)
    expected = stats.spearmanr(x[0], y[0]).statistic
    assert spearman(x, y) == pytest.approx(expected)
    assert pooled_spearman(x.T, y.T, list("abcd")).value == pytest.approx(expected)


def fisher_interval(value: float, influence: np.ndarray, clusters: Sequence[str]) -> Interval:
    """Of a correlation's `influence` (n,K), on Fisher's scale."""
    along = np.arctanh(value) + influence / (1 - value**2)
    interval = mean_interval(along.ravel(), [c for c in clusters for _ in range(along.shape[1])])
    low, high = np.tanh([interval.low, interval.high])
    return Interval(value, pytest.approx(low), pytest.approx(high), interval.photographs)


def test_pooled_intervals_are_those_of_each_values_influence() -> None:
    """Written out pair by pair, with ties in x, in y and in both."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 6, size=(9, 4)).astype(float)
    y = x + rng.integers(0, 5, size=(9, 4))
    clusters = list("aabbbcdef")
    signs = [np.sign(v.ravel()[:, None] - v.ravel()) for v in (x, y)]
    each = ((signs[0] * signs[1]).sum(axis=1) / 35).reshape(9, 4)
    tau = pooled_kendall(x, y, clusters)
    assert tau == fisher_interval(tau.value, 2 * (each - each.mean()), clusters)
    assert tau.value == pytest.approx(each.mean())

    a, b = (stats.rankdata(v) - 18.5 for v in (x, y))
    # What the presence of i adds to the rank of j: one above it, half at a tie.
    lifted = [(1 - s) / 2 for s in signs]  # [i,j]
    variance = np.sqrt((a * a).mean() * (b * b).mean())
    pull = a * b + sum(up @ c for up, c in zip(lifted, (b, a), strict=True))
    rho = pooled_spearman(x, y, clusters)
    pull = (pull - pull.mean()).reshape(9, 4) / variance
    assert rho == fisher_interval(rho.value, pull, clusters)
    with pytest.raises(ValueError, match="shorter"):
        kendall(x, y[:-1])


def test_correlations_of_two_values_and_of_none_that_differ() -> None:
    assert pooled_kendall(np.array([[1.0, 2]]), np.array([[3.0, 2]]), ["a"]).value == -1
    rows = np.array([[1.0, 2], [5, 5], [4, 3]])
    assert spearman(rows, np.array([[1.0, 2]] * 3)).tolist() == pytest.approx([1, 0, -1])
    alone = pooled_kendall(rows[:1], rows[:1], ["a"])
    assert alone == Interval(1.0, -1.0, 1.0, 1)
    flat = pooled_spearman(np.ones((60, 1)), np.arange(60.0)[:, None], range(60))
    assert flat == Interval(0.0, -1.0, 1.0, 60)


def test_perfect_agreement_of_few_photographs_is_not_certain() -> None:
    """Seven photographs are three independent pairs, and none of them disagrees."""
    x, seven = np.arange(21.0).reshape(7, 3), list("abcdefg")
    disagree = 1 - 0.025 ** (1 / 3)  # at most
    tau, rho = pooled_kendall(x, x**3, seven), pooled_spearman(x, x**3, seven)
    assert (tau.value, tau.low, tau.high) == pytest.approx((1, 1 - 2 * disagree, 1))
    assert (rho.value, rho.low, rho.high) == pytest.approx((1, -1, 1))  # 1 - 3 * disagree < -1
    tau, many = pooled_kendall(x, -x, seven), np.arange(60.0)[:, None]
    assert (tau.value, tau.low, tau.high) == pytest.approx((-1, -1, 2 * disagree - 1))
    rho = pooled_spearman(many, -many, range(60))
    assert (rho.low, rho.high) == pytest.approx((-1, 3 * (1 - 0.025 ** (1 / 30)) - 1))
    assert (tau.photographs, rho.photographs) == (7, 60)


HARD = Swap(SwapOptions(seam="hard"))


def result(psnr: np.ndarray, **planted: np.ndarray) -> Measured:
    """Foregrounds of eight photographs; measures that are not planted are noise."""
    count, backgrounds = psnr.shape
    partners = tuple(Item(f"b{k}", "b", (0, 0, 64, 64)) for k in range(backgrounds - 1))
    items = [
        Item(f"natural/{i:03}/f", f"photo {i % 8}", (0, 0, 64, 64), partners, set="natural")
        for i in range(count)
    ]
    rng = np.random.default_rng(1)
    columns = {name: planted.get(name, rng.random(psnr.shape)) for name in SIMILARITIES}
    return Measured(NetLabel("edsr", "edsr"), items, {"psnr": psnr, **columns})


def test_the_measure_that_predicts_is_found_on_held_out_images() -> None:
    psnr = 30 + np.random.default_rng(0).random((24, 21))
    measured = result(psnr, colour_moments=40 - psnr)
    contest = GramReport(Gram(base=HARD)).contest(measured)
    assert contest["colour_moments"].held.value == pytest.approx(1)
    assert contest[COMBINED].held.value > 0.95
    assert abs(contest["vgg_gram"].held.value) < 0.2
    summary = report_of(Gram(base=HARD)).summarise([measured])
    assert "chosen on one half: colour moments" in summary.headlines["edsr"]
    assert [len(table.rows) for table in summary.tables] == [
        1,
        len(SIMILARITIES) + 1,
        len(SIMILARITIES) - 1,
    ]


def test_the_held_out_half_only_judges() -> None:
    """A measure that predicts on one half and misleads on the other: the fit must be misled."""
    psnr = 30 + np.random.default_rng(0).random((24, 21))
    known, _ = halves(result(psnr).items, 0)
    misleading = np.where(known[:, None], 40 - psnr, psnr)
    contest = GramReport(Gram(base=HARD)).contest(result(psnr, colour_moments=misleading))
    for name in ("colour_moments", COMBINED):
        assert contest[name].known > 0.95
        assert contest[name].held.value < -0.95


def test_no_image_is_in_both_halves() -> None:
    items = result(np.ones((24, 4))).items
    known, held = halves(items, 0)
    assert (known ^ held).all()
    photographs = [{i.source for i, m in zip(items, h, strict=True) if m} for h in (known, held)]
    assert not photographs[0] & photographs[1]
    assert [len(p) for p in photographs] == [4, 4]


def test_c8_holds_without_a_relation_and_fails_with_one() -> None:
    rng = np.random.default_rng(0)
    psnr = 30 + rng.random((120, 31))
    verdict = report_of(Gram(base=HARD)).summarise([result(psnr)]).verdicts[0]
    assert (verdict.claim, verdict.outcome) == ("C8", Outcome.HOLDS)
    related = report_of(Gram(base=HARD)).summarise([result(psnr, vgg_gram=31 - psnr)]).verdicts[0]
    assert related.outcome is Outcome.FAILS


def test_partial_correlation_is_that_of_residuals() -> None:
    rng = np.random.default_rng(0)
    z = rng.random((5, 30))
    x, y = z + 0.3 * rng.random((5, 30)), z - 0.5 * rng.random((5, 30))
    for k, found in enumerate(partial_spearman(x, y, z)):
        a, b, c = (stats.rankdata(values[k]) for values in (x, y, z))
        left = [ranks - np.polyval(np.polyfit(c, ranks, 1), c) for ranks in (a, b)]
        assert found == pytest.approx(np.corrcoef(*left)[0, 1])


def test_nothing_is_left_of_a_measure_that_is_the_one_held_fixed() -> None:
    x = np.random.default_rng(0).random((3, 10))
    np.testing.assert_array_equal(partial_spearman(x, x[::-1], x), 0)


def test_the_step_explains_what_follows_from_it() -> None:
    """PSNR falls with the step; another measure only knows the step, with noise."""
    rng = np.random.default_rng(0)
    step = rng.random((24, 21))
    measured = result(40 - step, rim_step=step, vgg_gram=step + 0.5 * rng.random((24, 21)))
    rows = {row[1]: row for row in GramReport(Gram(base=HARD)).given_the_step([measured]).rows}
    _, _, alone, given, beyond = rows[SIMILARITIES["vgg_gram"].title]
    assert alone.value > 0.6
    assert abs(given.value) < 0.2
    assert beyond.value > 0.95


def test_networks_that_agree_are_the_ceiling() -> None:
    psnr = 30 + np.random.default_rng(0).random((24, 21))
    first, second = result(psnr), result(2 * psnr)
    (table,) = GramReport(Gram(base=HARD)).ceiling([first, second])
    assert table.rows[0][2].value == pytest.approx(1)
    assert GramReport(Gram(base=HARD)).ceiling([first]) == []


def test_relations_are_told_for_each_seam() -> None:
    """PSNR follows the Gram distance only where seams are bridged."""
    rng = np.random.default_rng(0)
    bridged = 30 + rng.random((24, 21))
    measured = result(30 + rng.random((24, 21)), vgg_gram=40 - bridged)
    measured.columns["psnr_seam_4"] = bridged
    summary = report_of(Gram()).summarise([measured])
    (table,) = (table for table in summary.tables if table.name == "gram_by_seam")
    hard, soft = (row[3] for row in table.rows)
    assert [row[2] for row in table.rows] == ["hard seam", "bridged over 4 pixels"]
    assert abs(hard.value) < 0.2
    assert soft.value == pytest.approx(1)


def test_measures_that_an_older_run_lacks_are_left_out() -> None:
    """One network was measured before `rim_step` and `colour_moments` existed."""
    psnr = 30 + np.random.default_rng(0).random((24, 21))
    old, new = result(psnr), result(psnr)
    for name in ("rim_step", "colour_moments"):
        del old.columns[name]
    report = report_of(Gram())
    for measured in (old, new):
        measured.columns["psnr_seam_4"] = psnr
    summary = report.summarise([old, new])
    tables = {table.name: table for table in summary.tables}
    assert "gram_given_step" not in tables
    assert len(tables["gram_similarities"].rows) == 2 * (len(SIMILARITIES) - 2 + 1)
    assert [len(row) for row in tables["gram_by_seam"].rows] == [4] * 4
    contest = report.draw([old, new])[1]
    labels = [label.get_text() for label in contest.figure.axes[0].get_yticklabels()]
    assert SIMILARITIES["rim_step"].title not in labels
    assert len(labels) == len(SIMILARITIES) - 2 + 1


def test_a_run_that_lacks_a_newer_measure_is_read_without_it(tmp_path: Path) -> None:
    net, experiment = NetLabel("edsr", "edsr"), Gram(base=HARD)
    items = [Item(f"natural/{i:03}/f", "photo", (0, 0, 64, 64)) for i in range(2)]
    with RunStore.open(tmp_path, config={}, seeds={"seed": 0}, manifest=None) as store:
        for item in items:
            store.put("swap", "edsr", item.key, {})
            for name in HARD.curves:
                store.put_array("swap", "edsr", item.key, name, np.zeros(3))
            store.put("gram", "edsr", item.key, {})
            for name in experiment.curves:
                if name != "rim_step" or item is items[0]:  # resumed with a newer version
                    store.put_array("gram", "edsr", item.key, name, np.zeros(3))
        columns = collect(store, experiment, net, items).columns
        assert set(SIMILARITIES) - columns.keys() == {"rim_step"}
        store.put("swap", "rcan", items[0].key, {})
        for name in HARD.curves:
            store.put_array("swap", "rcan", items[0].key, name, np.zeros(3))
        store.put("gram", "rcan", items[0].key, {})  # without the paper's measure: damaged
        with pytest.raises(RunStoreError, match="vgg_gram"):
            collect(store, experiment, NetLabel("rcan", "rcan"), items[:1])
