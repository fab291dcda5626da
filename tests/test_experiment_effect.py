"""`effect`: its records are both maps of the same input, and claim C10 follows from them."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from small_run import contents, lr_tensor, plain_psnr

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.experiments.effect import (
    INWARD,
    RING,
    UNTOUCHED,
    Effect,
    EffectOptions,
    Layout,
    agreement,
    agreement_at_distance,
    of_scene,
    share_inside,
)
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.ring import Ring, RingOptions
from fastbg.experiments.study import Item, Study
from fastbg.models.edsr import EDSR
from fastbg.reports.effect import EffectReport, taken_share
from fastbg.reports.figures import data_rows
from fastbg.stats.intervals import Outcome

SMALL = EffectOptions(
    count=1, candidates=6, size=64, window=16, border=32, coarse=2, fine=2, tolerance=0.001
)
BLOCKS = 8 * 8 - 4


def region(study: Study, item: Item) -> np.ndarray:
    y0, x0, y1, x1 = item.box
    return study.images[item.image].load()[y0:y1, x0:x1]


def composed(study: Study, item: Item) -> np.ndarray:
    """The scene in plain numpy, HR."""
    image, foreign = region(study, item).copy(), region(study, item.partners[0]).copy()
    if item.set == RING:
        kept = image[24:40, 24:40].copy()
        image[16:48, 16:48] = foreign[16:48, 16:48]
        image[24:40, 24:40] = kept
    elif item.set == INWARD:
        foreign[16:48, 16:48] = image[16:48, 16:48]
        image = foreign
    return image


def test_records_equal_a_plain_loop(study: Study, net: EDSR) -> None:
    experiment = Effect(SMALL)
    items = experiment.plan(study)
    assert [item.set for item in items] == [RING, INWARD, UNTOUCHED]
    with torch.inference_mode():  # as the engine calls it
        columns = experiment.measure(net, items, study)
    assert all(columns[name].shape == (3, BLOCKS) for name in experiment.curves)
    for i, item in enumerate(items):
        truth, lr = region(study, item)[24:40, 24:40], lr_tensor(composed(study, item))
        drawn = fastbg.CausalEffectMap(net, 2, 2, 2, 0.001, reuse_coarse=True).effect(
            lr, (24, 24, 16), torch.from_numpy(region(study, item)).permute(2, 0, 1)[None]
        )
        lam = fastbg.LocalAttribution(net).attribute(lr, (24, 24, 16), accuracy="published").map[0]
        whole = float(lam.sum())
        n = 0
        for row, column in np.ndindex(8, 8):
            if 3 <= row < 5 and 3 <= column < 5:  # the window's own
                continue
            pixels = np.s_[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            share = float(lam[pixels].double().sum()) / whole
            assert float(columns["lam"][i, n]) == pytest.approx(share, rel=1e-4)
            scores = []
            fine = drawn.interventions.fine_of(row, column)
            for patch in (
                *drawn.interventions.coarse[row, column],
                *(() if fine is None else fine),
            ):
                changed = lr.clone()
                changed[pixels] = torch.from_numpy(patch).permute(2, 0, 1)[None].float() / 255
                with torch.no_grad():
                    scores.append(plain_psnr(net(changed)[0, :, 24:40, 24:40], truth))
            with torch.no_grad():
                before = plain_psnr(net(lr)[0, :, 24:40, 24:40], truth)
            assert float(columns["psnr"][i]) == pytest.approx(before, abs=2e-3)
            assert float(columns["effect"][i, n]) == pytest.approx(
                before - np.mean(scores), abs=2e-3
            )
            n += 1
        assert n == BLOCKS
        assert int(columns["draws"][i]) == int(drawn.samples.sum())


def test_a_worker_finds_the_same(study: Study, net: EDSR) -> None:
    """An experiment that was sent to another process, item by item in another order."""
    experiment = Effect(replace(SMALL, coarse=1, fine=1), seed=3)
    items = experiment.plan(study)
    together = experiment.measure(net, items, study)
    sent = pickle.loads(pickle.dumps(experiment))  # noqa: S301
    for i in (2, 0):
        alone = sent.measure(net, [items[i]], study)
        for name, values in alone.items():
            torch.testing.assert_close(values[0], together[name][i], rtol=0, atol=0)
    other = Effect(replace(SMALL, coarse=1, fine=1), seed=4).measure(net, items[:1], study)
    assert not torch.equal(other["effect"][0], together["effect"][0])


def test_the_pairs_are_those_of_ring(study: Study) -> None:
    pairs = Ring(RingOptions(count=1, candidates=6, size=64, sizes="0,32")).plan(study)
    found = Effect(SMALL).plan(study)
    assert len({item.key for item in found}) == len(found) == 3 * len(pairs)
    assert [item.box for item in found[::3]] == [pair.box for pair in pairs]
    assert [item.partners for item in found[1::3]] == [pair.partners for pair in pairs]


def test_the_work_to_come_is_every_blocks_coarse_replacements(study: Study) -> None:
    """64 HR pixels are 16 in LR, 8 blocks of 2 a side; two replacements each, in three scenes."""
    experiment = Effect(SMALL)
    assert experiment.work(experiment.plan(study), study).forwards == 8 * 8 * 2 * 3


def test_layout_tells_foreign_blocks() -> None:
    layout = Layout(Effect(SMALL), BLOCKS)
    assert layout.shape == (8, 8)
    assert layout.own.sum() == 4
    ring, around = (
        layout.on_blocks(layout.foreign[scene].astype(float)) for scene in (RING, INWARD)
    )
    assert ring.sum() == 4 * 4 - 4
    assert ring[2:6, 2:6].sum() == 12
    assert around.sum() == 64 - 16
    assert around[2:6, 2:6].sum() == 0
    distance = layout.on_blocks(layout.distance)
    assert distance[0, 0] == pytest.approx(np.hypot(3.5, 3.5))
    assert distance[2, 3] == pytest.approx(np.hypot(1.5, 0.5))
    default = Layout(Effect(), 16 * 16 - 4)
    assert default.shape == (16, 16)
    assert default.foreign[RING].sum() == 6 * 6 - 4
    assert Layout(Effect(EffectOptions(block=1)), 32 * 32 - 16).shape == (32, 32)


def measured(lam: np.ndarray, effect: np.ndarray, scene: str = RING) -> Measured:
    """Records of (n,K) maps, a photograph each."""
    items = [Item(f"{i}", f"photo {i}", (0, 0, 64, 64), set=scene) for i in range(len(lam))]
    columns = {"lam": lam, "effect": effect, "error": np.full_like(effect, 0.001)}
    columns |= {"psnr": np.full(len(lam), 30.0), "draws": np.full(len(lam), 300.0)}
    return Measured(NetLabel("edsr", "edsr"), items, columns)


LAYOUT = Layout(Effect(SMALL), BLOCKS)
NEAR = np.exp(-LAYOUT.distance)


def maps(kind: str, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """LAM and effect, both fall with the distance; at equal distance they agree as `kind` says."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, count, BLOCKS))
    own = {"agree": noise[0], "oppose": -noise[0], "unrelated": noise[1]}[kind]
    return NEAR * np.exp(0.5 * noise[0]), NEAR * np.exp(0.5 * own)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("agree", Outcome.HOLDS),
        ("oppose", Outcome.FAILS),
        ("unrelated", Outcome.UNDECIDED),
    ],
)
def test_c10_asks_for_more_than_the_distance(kind: str, outcome: Outcome) -> None:
    lam, effect = maps(kind)
    result = measured(lam, effect)
    report = EffectReport(Effect(SMALL))
    verdict, _ = report.summarise([result]).verdicts
    assert (verdict.claim, verdict.outcome) == ("C10", outcome)
    assert agreement(result).min() > 0.5  # which the distance alone brings
    row = report.summarise([result]).tables[0].rows[0]
    nearness = [spearmanr(NEAR, each).statistic for each in effect]
    assert row[5].value == pytest.approx(np.mean(nearness))
    few = measured(lam[:4], effect[:4])
    assert report.summarise([few]).verdicts[0].outcome is Outcome.TOO_FEW


@pytest.mark.parametrize(
    ("factors", "outcome"),
    [
        ((1.0, 1.0), Outcome.HOLDS),
        ((0.1, 0.1), Outcome.FAILS),
        ((1.0, 0.2), Outcome.UNDECIDED),  # of every other image
    ],
)
def test_c10_compares_shares_of_the_ring(factors: tuple[float, float], outcome: Outcome) -> None:
    lam, effect = maps("agree")
    ring = LAYOUT.foreign[RING]
    factor = np.tile(factors, 4)[:, None]
    result = measured(lam, np.where(ring, factor * effect, effect))
    summary = EffectReport(Effect(SMALL)).summarise([result])
    assert summary.verdicts[1].outcome is outcome
    row = summary.tables[1].rows[0]
    before = share_inside(lam, ring).mean()
    assert row[3].value == pytest.approx(100 * before)
    assert row[5].value == pytest.approx(row[3].value - row[4].value)
    assert (row[5].value > 5) == (min(factors) < 1)


def test_the_untouched_scene_has_no_foreign_share() -> None:
    summary = EffectReport(Effect(SMALL)).summarise([measured(*maps("agree"), scene=UNTOUCHED)])
    assert [verdict.about for verdict in summary.verdicts] == ["untouched image"]
    assert summary.tables[1].rows == []


def test_correlations_are_those_of_scipy() -> None:
    lam, effect = maps("unrelated", 3)
    effect[0, 5:20] *= -1
    result = measured(lam, effect)
    for i in range(3):
        expected = spearmanr(lam[i], np.abs(effect[i])).statistic
        assert agreement(result)[i] == pytest.approx(expected)
        signed = spearmanr(lam[i], effect[i]).statistic
        assert agreement(result, signed=True)[i] == pytest.approx(signed)
    assert abs(agreement_at_distance(result, LAYOUT.distance)).max() < 0.4


def test_images_without_any_effect_have_no_share() -> None:
    lam, effect = maps("agree")
    effect[2] = 0.0
    report = EffectReport(Effect(SMALL))
    result = measured(lam, effect)
    assert np.isnan(share_inside(effect, LAYOUT.foreign[RING])[2])
    summary = report.summarise([result])
    assert summary.tables[1].rows[0][2] == 7
    report.draw([result])  # and no curve of nothing by nothing
    nothing = measured(lam, 0 * effect)
    summary = report.summarise([nothing])
    assert summary.tables[1].rows[0][2:] == [0, None, None, None]
    assert [v.statement.partition(" ")[0] for v in summary.verdicts] == ["Blocks"]
    report.draw([nothing])


def test_pies_are_the_counts() -> None:
    effect = np.zeros((6, BLOCKS))
    effect[:, :15], effect[:, 15:45], effect[:, 50] = -0.5, 0.5, 0.0005
    lam = np.tile(NEAR, (6, 1))
    report = EffectReport(Effect(SMALL))
    pies, curves = report.draw([measured(lam, effect)])
    rows = data_rows(pies)  # type: ignore[arg-type]
    shares = {row[3]: row[5] for row in rows[1:]}
    assert shares == pytest.approx({"harm": 0.25, "help": 0.5, "idle": 0.25}, abs=1e-6)
    cells = report.summarise([measured(lam, effect)]).tables[2].rows[0][3:6]
    assert [cell.value for cell in cells] == [25, 50, 25]
    assert {row[3] for row in data_rows(curves)[1:]} >= {"LAM", "nearest first"}  # type: ignore[arg-type]


def test_shares_of_the_first_blocks() -> None:
    effect = np.array([[1.0, 2.0, 5.0], [2.0, 0.0, 2.0]])
    assert taken_share(effect, effect).tolist() == [(5 / 8 + 1 / 2) / 2, (7 / 8 + 1) / 2, 1]
    first = np.array([[3.0, 2.0, 1.0]] * 2)
    assert taken_share(effect, first).tolist() == [(1 / 8 + 1 / 2) / 2, (3 / 8 + 1 / 2) / 2, 1]


def test_scenes_are_told_apart() -> None:
    lam, effect = maps("agree")
    result = measured(lam, effect)
    for i, item in enumerate(result.items):
        object.__setattr__(item, "set", RING if i % 2 else INWARD)
    part = of_scene(result, RING)
    assert [item.key for item in part.items] == ["1", "3", "5", "7"]
    np.testing.assert_array_equal(part.columns["lam"], lam[1::2])
    assert Effect(SMALL).cases(of_scene(result, INWARD)) == []
    assert set(Effect(SMALL).cases(result)) <= {1, 3, 5, 7}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 60}, r"effect\.size: got 60; expected a multiple of 8"),
        ({"size": 72}, r"effect\.size: got 72; expected a multiple of 16, so that blocks"),
        ({"window": 8}, r"effect\.window: got 8; expected a multiple of 16"),
        ({"window": 64}, r"effect\.window: got 64; expected less than the size 64"),
        ({"border": 24}, r"effect\.border: got 24; expected a multiple of 16"),
        ({"border": 64}, r"effect\.border: got 64; expected between the window 16 and the size 64"),
        ({"channel": "y"}, r"effect\.channel: got 'y'; expected 'rgb'"),
        ({"lr": "paired"}, r"effect\.domain: got 'hr'; expected 'lr', as paired"),
        ({"block": 0}, r"effect\.block: got 0"),
        ({"near": 2.0}, r"effect\.near: got 2"),
    ],
)
def test_bad_options_are_named(study: Study, options: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        Effect(replace(SMALL, **options)).plan(study)  # type: ignore[arg-type]


def test_a_run_goes_on_and_is_reported(study: Study, net: EDSR, tmp_path: Path) -> None:
    """Stopped behind two scenes, then finished: the same records as at once."""
    given = {f"effect.{name}": getattr(SMALL, name) for name in ("count", "candidates", "size")}
    given |= {f"effect.{name}": getattr(SMALL, name) for name in ("border", "coarse", "fine")}
    images = study.images.items[0].path.parent

    def run(name: str, limit: int | None) -> Path:
        fastbg.run_experiments(
            {"net": net}, ["effect"], out=tmp_path / name, options=given, limit=limit, data=images
        )
        return tmp_path / name

    run("parts", 2)
    assert contents(run("parts", None)) == contents(run("whole", None))
    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "What LAM marks is what matters" in page
    assert "too few photographs" in page
