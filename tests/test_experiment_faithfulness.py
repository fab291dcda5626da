"""The experiment `faithfulness`: its columns are the curves of the maps it says they are."""

import numpy as np
import pytest
import torch

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.faithfulness import (
    MAPS,
    NAMES,
    Faithfulness,
    FaithfulnessOptions,
    area,
    explanations,
)
from fastbg.experiments.study import Item, Study
from fastbg.models.edsr import EDSR
from fastbg.reports.faithfulness import FaithfulnessReport
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
    }
    found = fastbg.faithfulness(net, mine, lr, window, counts=[4, 32, 256], draws=1)
    for name in mine:
        torch.testing.assert_close(columns[f"deletion_{name}"][0], found.deletion[name][0])
        torch.testing.assert_close(columns[f"insertion_{name}"][0], found.insertion[name][0])
    torch.testing.assert_close(
        columns["deletion_random"][0], found.deletion["random"][0]
    )  # the experiment's seed is faithfulness' own default


def test_the_five_maps_differ(net: EDSR, study: Study) -> None:
    experiment = Faithfulness(OPTIONS)
    lr = experiment.inputs(experiment.plan(study)[:1], study)
    maps = explanations(net, lr, (24, 24, 16), "auto")
    assert tuple(maps) == MAPS
    flat = [m.flatten() / m.max() for m in maps.values()]
    for i, a in enumerate(flat):
        assert a.min() >= 0
        for b in flat[:i]:
            assert not torch.allclose(a, b, atol=1e-2)


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
    (table,) = summary.tables
    assert table.rows[0][1] == "LAM"
    assert table.rows[0][4].value == pytest.approx(areas["nearest"] - areas["lam"])
    assert len(report.draw([measured(areas)])) == 1


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
