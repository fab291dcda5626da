"""The experiment `faithfulness`: its columns are the curves of the maps it says they are."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.errors import DataError, InvalidArgument, RunStoreError
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.faithfulness import (
    EXPLANATIONS,
    Faithfulness,
    FaithfulnessOptions,
    area,
    passes,
)
from fastbg.experiments.study import Item, Study
from fastbg.models.edsr import EDSR
from fastbg.reports.faithfulness import TITLES, FaithfulnessReport
from fastbg.runs.records import settle
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import Outcome

OPTIONS = FaithfulnessOptions(count=2, size=64, points=3)


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(builtin_images())


@pytest.fixture(scope="module")
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=1).eval()


def test_columns_are_the_curves_of_the_maps(net: EDSR, study: Study) -> None:
    experiment = Faithfulness(OPTIONS)
    items = experiment.plan(study)
    columns = experiment.measure(net, items, study)
    assert set(columns) == set(experiment.curves)
    assert columns["counts"].tolist() == [[4, 32, 256]] * 2
    lr = study.degrade(study.ground_truth(items[:1]), "matlab")
    window = (24, 24, 16)
    gradient = fastbg.window_gradient(net, lr, window)
    blurred = fastbg.blur_path(lr, torch.tensor([1.2]), 9)[:, 0]
    mine = {
        "lam": fastbg.LocalAttribution(net).attribute(lr, window, accuracy="published").map,
        "gradient_step": (gradient * (lr - blurred)).sum(1).abs(),
        "gradient_input": (gradient * lr).sum(1).abs(),
    }
    found = fastbg.faithfulness(net, mine, lr, window, counts=[4, 32, 256], draws=1)
    for name in mine:
        torch.testing.assert_close(columns[f"deletion_{name}"][0], found.deletion[name][0])
        torch.testing.assert_close(columns[f"insertion_{name}"][0], found.insertion[name][0])
    torch.testing.assert_close(
        columns["deletion_random"][0], found.deletion["random"][0]
    )  # the experiment's seed is faithfulness' own default


def test_effect_and_occlusion_are_those_of_the_package(net: EDSR, study: Study) -> None:
    options = replace(OPTIONS, explanations="occlusion, effect", block=4, replacements=2)
    experiment = Faithfulness(options, seed=3)
    items = experiment.plan(study)[:1]
    explained = experiment.explained(net, items, study)
    found = explained.maps(experiment.maps)
    assert list(found) == ["occlusion", "effect"]
    hr = study.ground_truth(items)
    lr, window = study.degrade(hr, "matlab"), (24, 24, 16)
    hidden = fastbg.Occlusion(net).occlude(lr, window, size=8, stride=4)
    torch.testing.assert_close(found["occlusion"], hidden.map, rtol=0, atol=0)
    # Its coarse replacements alone: what is drawn does not depend on the fine ones.
    effects = fastbg.CausalEffectMap(net, block=4, coarse=2, fine=1, seed=3).effect(lr, window, hr)
    mean = (effects.baseline[..., None, None] - effects.coarse_values.mean(-1)).abs()[0]
    for row, column in np.ndindex(*mean.shape):
        block = found["effect"][0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert (block == block[0, 0]).all()
        if not effects.own[0, row, column]:
            assert float(block[0, 0]) == pytest.approx(float(mean[row, column].nan_to_num(0)))
    own = found["effect"][0, 6:10, 6:10]
    assert (own > 0).all(), "the window's own blocks are measured too"


def test_the_maps_differ(net: EDSR, study: Study) -> None:
    experiment = Faithfulness(replace(OPTIONS, explanations="all"))
    maps = experiment.explained(net, experiment.plan(study)[:1], study).maps(experiment.maps)
    assert tuple(maps) == tuple(EXPLANATIONS) == tuple(name for name in TITLES if name in maps)
    flat = [m.flatten() / m.max() for m in maps.values()]
    for i, a in enumerate(flat):
        assert a.min() >= 0
        for b in flat[:i]:
            assert not torch.allclose(a.double(), b.double(), atol=1e-2)


def test_passes_are_counted(study: Study) -> None:
    options = replace(OPTIONS, block=2, replacements=3)  # LR 16: 64 blocks, 7 x 7 boxes
    counted = {name: passes(name, options, study.scale) for name in EXPLANATIONS}
    assert counted["effect"] == 1 + 3 * 64
    assert counted["occlusion"] == 1 + 7 * 7
    assert counted["lam"] == counted["straight"] == 32
    assert counted["gradient"] == counted["gradient_input"] == 2


def test_all_explanations_run_and_are_reported(net: EDSR, study: Study, tmp_path: Path) -> None:
    options = {"count": 2, "size": 64, "points": 2, "explanations": "all", "replacements": 1}
    run = fastbg.run_experiments(
        {"small": net},
        ["faithfulness"],
        out=tmp_path,
        options={f"faithfulness.{name}": value for name, value in options.items()},
        progress=False,
    )
    records = run.records("faithfulness")
    for name in EXPLANATIONS:
        assert records[f"insertion_shuffled_{name}"].shape == (2, 2)
    page = run.path.read_text(encoding="utf-8")
    for title in ("causal effect on PSNR", "occlusion", "gradient times image"):
        assert title in page


NAMES = Faithfulness(OPTIONS).names


def measured(areas: dict[str, float], photographs: int = 8) -> Measured:
    """Curves of two points around `areas`, a little different from image to image."""
    noise = np.linspace(-0.01, 0.01, photographs)[:, None]
    columns = {
        f"{kind}_{name}": np.full((photographs, 2), areas.get(name, 0.9)) + noise
        for kind in ("deletion", "insertion")
        for name in NAMES
    }
    columns["counts"] = np.tile([4.0, 400.0], (photographs, 1))
    items = [Item(f"{i}", f"photograph {i}", (0, 0, 64, 64)) for i in range(photographs)]
    return Measured(NetLabel("edsr", "edsr"), items, columns)


@pytest.mark.parametrize(
    ("areas", "outcome"),
    [
        ({"lam": 0.2, "nearest": 0.3, "shuffled_lam": 0.4}, Outcome.HOLDS),
        ({"lam": 0.35, "nearest": 0.3, "shuffled_lam": 0.4}, Outcome.FAILS),
        ({"lam": 0.3, "nearest": 0.3, "shuffled_lam": 0.4}, Outcome.UNDECIDED),
    ],
)
def test_c12_follows_from_both_controls(areas: dict[str, float], outcome: Outcome) -> None:
    report = FaithfulnessReport(Faithfulness(OPTIONS))
    summary = report.summarise([measured(areas)])
    (verdict,) = summary.verdicts
    assert verdict.claim == "C12"
    assert verdict.outcome is outcome
    table, _ = summary.tables
    assert table.rows[0][1] == "LAM"
    assert table.rows[0][4].value == pytest.approx(areas["nearest"] - areas["lam"])
    assert len(report.draw([measured(areas)])) == 1


def test_the_ranking_names_the_best_and_how_far_others_are_behind() -> None:
    areas = {"lam": 0.3, "straight": 0.25, "gradient": 0.4}
    summary = FaithfulnessReport(Faithfulness(OPTIONS)).summarise([measured(areas)])
    ranking = summary.tables[1]
    block = [row for row in ranking.rows if row[1] == "deletion"]
    assert [row[2] for row in block[:3]] == [
        TITLES["straight"],
        TITLES["lam"],
        TITLES["gradient"],
    ]
    assert block[0][3] is None
    assert [row[3].value for row in block[1:3]] == pytest.approx([0.05, 0.15])
    assert "nearest to the truth by insertion: LAM on the straight" in summary.headlines["edsr"]


def test_without_lam_there_is_no_verdict_on_it() -> None:
    experiment = Faithfulness(replace(OPTIONS, explanations="gradient"))
    report = FaithfulnessReport(experiment)
    summary = report.summarise([measured({"gradient": 0.3})])
    assert not summary.verdicts
    assert len(summary.tables) == 1, "one map has nobody to be ranked against"
    assert len(report.draw([measured({"gradient": 0.3})])) == 1


def test_few_photographs_give_no_verdict() -> None:
    report = FaithfulnessReport(Faithfulness(OPTIONS))
    summary = report.summarise([measured({"lam": 0.2, "nearest": 0.5}, photographs=4)])
    assert summary.verdicts[0].outcome is Outcome.TOO_FEW


def test_area_is_the_mean_over_the_logarithm() -> None:
    result = measured({"lam": 0.2})
    np.testing.assert_allclose(area(result, "deletion", "lam"), 0.2 + np.linspace(-0.01, 0.01, 8))


def test_bad_options_are_named(study: Study) -> None:
    with pytest.raises(InvalidArgument, match=r"faithfulness\.size"):
        Faithfulness(FaithfulnessOptions(size=60)).plan(study)
    with pytest.raises(InvalidArgument, match=r"faithfulness\.window"):
        Faithfulness(FaithfulnessOptions(size=64, window=64)).plan(study)
    with pytest.raises(InvalidArgument, match=r"faithfulness\.block: got 9; expected at most 8"):
        Faithfulness(FaithfulnessOptions(size=64, block=9)).plan(study)


@pytest.mark.parametrize("asked", ["", "lime", "lam,lam", "lam,,gradient", "all,lam"])
def test_explanations_are_known_and_different(asked: str) -> None:
    with pytest.raises(InvalidArgument, match=r"faithfulness\.explanations.*expected all, or"):
        Faithfulness(FaithfulnessOptions(explanations=asked))


def test_flat_windows_are_left_out(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    items = Faithfulness(OPTIONS).plan(study)
    skipped = items[0].box

    def detailed_but_one(hr: torch.Tensor, window: object) -> list[bool]:
        first = study.ground_truth(items[:1])
        return [not torch.equal(hr, first)]

    monkeypatch.setattr("fastbg.experiments.windows.detailed", detailed_but_one)
    kept = Faithfulness(OPTIONS).plan(study)
    assert len(kept) == 2
    assert skipped not in [item.box for item in kept]
    assert kept[0] == items[1]
    monkeypatch.setattr("fastbg.experiments.windows.detailed", lambda hr, window: [False])
    with pytest.raises(DataError, match=r"0 of 4 sub-images .* faithfulness\.count = 2"):
        Faithfulness(OPTIONS).plan(study)


def test_a_run_from_before_explanations_could_be_chosen_goes_on(
    study: Study, tmp_path: Path
) -> None:
    five = "lam,lam_abs,straight,gradient,gradient_step"
    now = replace(OPTIONS, explanations=five)
    new = ("explanations", "block", "replacements")
    told = {name: value for name, value in asdict(now).items() if name not in new}
    with RunStore.open(tmp_path, {}) as store:
        store.remember("options faithfulness", lambda: told)
        store.remember("plan faithfulness", list)
        assert settle(store, Faithfulness(now), study) == []
        with pytest.raises(RunStoreError, match=f"explanations = '{five}', not"):
            settle(store, Faithfulness(OPTIONS), study)
