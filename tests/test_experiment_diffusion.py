"""The experiment `diffusion`: numbers are LocalAttribution's, windows are drawn by the rule."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fastbg
from fastbg.attribution.diffusion import attribution_map, diffusion_index
from fastbg.attribution.picture import heat
from fastbg.data.builtin import builtin_images
from fastbg.errors import DataError, InvalidArgument, RunStoreError
from fastbg.experiments.diffusion import Diffusion, DiffusionOptions, hard_window
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.study import Item, Study, restore
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.precision import current
from fastbg.reports.diffusion import DiffusionReport
from fastbg.runs.records import settle
from fastbg.runs.store import RunStore

SMALL = DiffusionOptions(count=2, size=64)


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(builtin_images())


@pytest.fixture(scope="module")
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=1).eval()


def test_columns_are_those_of_a_plain_attribution(net: EDSR, study: Study) -> None:
    experiment = Diffusion(SMALL)
    items = experiment.plan(study)
    columns = experiment.measure(net, items, study)
    for i, item in enumerate(items):
        hr = study.ground_truth([item])
        lr = study.degrade(hr, "matlab")
        y0, x0 = item.box[:2]
        assert item.partners[0].box == (y0 + 24, x0 + 24, y0 + 40, x0 + 40)
        result = fastbg.LocalAttribution(net).attribute(lr, (24, 24, 16), accuracy="published")
        assert columns["di"][i] == result.diffusion_index[0]
        assert columns["gini"][i] == result.gini[0]
        assert columns["area"][i] == result.area()[0]
        with torch.no_grad():
            sr = net(lr)[0, :, 24:40, 24:40].clamp(0, 1).mul(255).round()
        error = (sr.double() - hr[0, :, 24:40, 24:40]).square().mean()
        assert float(columns["psnr"][i]) == pytest.approx(
            float(10 * torch.log10(255**2 / error)), abs=1e-3
        )


def test_pictures_are_the_image_and_the_map(net: EDSR, study: Study) -> None:
    experiment = Diffusion(SMALL)
    item = experiment.plan(study)[0]
    hr = study.ground_truth([item])
    lr = study.degrade(hr, "matlab")
    map_ = fastbg.LocalAttribution(net).attribute(lr, (24, 24, 16), accuracy="published").map[0]
    shown = experiment.exhibit(net, item, study)
    assert list(shown) == ["hr", "map"]
    np.testing.assert_array_equal(shown["hr"], hr[0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(shown["map"], heat(map_.numpy(), 4))


def test_hard_windows_follow_error_and_difference() -> None:
    error, difference = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    error[0, 12:24, 8:28] = 1.0
    difference[0, 16:20, 20:24] = 1.0  # where both are
    difference[0, 0:4, 0:4] = 100.0  # where the error is below the median
    random = np.random.default_rng(0)
    drawn = {hard_window(error, difference, 4, 4, random) for _ in range(20)}
    assert drawn == {Box(16, 20, 20, 24)}
    assert hard_window(error, torch.zeros(1, 32, 32), 4, 4, random) is None


def test_hard_windows_are_drawn_in_proportion() -> None:
    error, difference = torch.zeros(1, 8, 16), torch.zeros(1, 8, 16)
    error[0, :, 8:] = 1.0
    difference[0, :4, 8:12], difference[0, 4:, 12:] = 3.0, 1.0
    random = np.random.default_rng(0)
    drawn = [hard_window(error, difference, 4, 4, random) for _ in range(400)]
    share = np.mean([window == Box(0, 8, 4, 12) for window in drawn])
    assert share == pytest.approx(0.75, abs=0.07)


def test_hard_windows_are_seeded_and_inside(study: Study) -> None:
    options = DiffusionOptions(count=2, size=64, windows="hard")
    plans = [Diffusion(options, seed=seed).plan(study) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    for a, b in zip(plans[0], plans[2], strict=True):
        assert a.box == b.box, "the images are the study's"
    assert [i.partners[0].box for i in plans[0]] != [i.partners[0].box for i in plans[2]]
    for item in plans[0]:
        window = Box(*item.partners[0].box).moved(-item.box[0], -item.box[1])
        assert 0 <= window.y0 < window.y1 <= 64
        assert window.y1 - window.y0 == window.x1 - window.x0 == 16
        assert window.y0 % 4 == window.x0 % 4 == 0


def test_hard_windows_are_drawn_in_the_precision_of_the_study(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def watched(net: Network, lr: torch.Tensor) -> torch.Tensor:
        seen.append((current(), torch.is_inference_mode_enabled()))
        return restore(net, lr)

    monkeypatch.setattr("fastbg.experiments.diffusion.restore", watched)
    options = DiffusionOptions(count=1, size=64, windows="hard")
    Diffusion(options).plan(replace(study, precision="bf16"))
    assert set(seen) == {("bf16", True)}
    assert current() == "ieee"


def test_bad_options_are_named(study: Study) -> None:
    with pytest.raises(InvalidArgument, match=r"diffusion\.size"):
        Diffusion(DiffusionOptions(size=60)).plan(study)
    with pytest.raises(InvalidArgument, match=r"diffusion\.window"):
        Diffusion(DiffusionOptions(size=64, window=64)).plan(study)
    with pytest.raises(InvalidArgument, match=r"diffusion\.windows"):
        Diffusion(DiffusionOptions(windows="hard")).plan(Study(builtin_images(), scale=2))


def test_images_without_detail_are_left_out(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbg.experiments.windows.detailed", lambda hr, window: [False])
    with pytest.raises(DataError, match=r"0 of 4 .* diffusion\.count = 2"):
        Diffusion(SMALL).plan(study)


def measured(label: str, di: np.ndarray, score: np.ndarray) -> Measured:
    items = [
        Item(f"{i}", f"photograph {i}", (0, 0, 64, 64), (Item("w", "p", (24, 24, 40, 40)),))
        for i in range(len(di))
    ]
    columns = {"di": di, "gini": 1 - di / 100, "area": 10 * di, "psnr": score}
    return Measured(NetLabel(label, label), items, columns)


def test_the_report_compares_networks_on_the_same_windows() -> None:
    di = np.linspace(1, 3, 9)
    results = [measured("a", di, di + 20), measured("b", di + 0.5, di + 21)]
    summary = DiffusionReport(Diffusion(SMALL)).summarise(results)
    means, differences = summary.tables
    assert means.rows[0][2].value == pytest.approx(2.0)
    row = differences.rows[0]
    assert row[0] == "b less a"
    for cell, expected in zip(row[1:], (0.5, -0.005, 5.0, 1.0), strict=True):
        assert (cell.value, cell.low, cell.high) == pytest.approx((expected,) * 3)
    assert len(DiffusionReport(Diffusion(SMALL)).summarise(results[:1]).tables) == 1
    (chart,) = DiffusionReport(Diffusion(SMALL)).draw(results)
    assert [t.get_text() for t in chart.figure.axes[0].get_legend().get_texts()] == ["a", "b"]


def test_intervals_end_where_a_number_can_go_no_further() -> None:
    di = np.array([1.0, 1.0, 1.0, 1.0, 60.0])
    summary = DiffusionReport(Diffusion(SMALL)).summarise([measured("a", di, di)])
    _, _, index, gini, area, _ = summary.tables[0].rows[0]
    assert (index.low, gini.high, area.low) == (0.0, 1.0, 0.0)
    alone = DiffusionReport(Diffusion(SMALL)).summarise([measured("a", di[:1], di[:1])])
    assert not alone.tables[0].rows[0][2].known, "one photograph gives no interval"


def test_a_run_from_before_images_could_be_chosen_goes_on(study: Study, tmp_path: Path) -> None:
    new = ("images", "maps")
    told = {name: value for name, value in asdict(SMALL).items() if name not in new}
    with RunStore.open(tmp_path, {}) as store:
        store.remember("options diffusion", lambda: told)
        store.remember("plan diffusion", list)
        assert settle(store, Diffusion(SMALL), study) == []
        with pytest.raises(RunStoreError, match="images = 'drawn', not 'each'"):
            settle(store, Diffusion(replace(SMALL, images="each")), study)


def test_maps_are_kept_beside_the_records(net: EDSR, tmp_path: Path) -> None:
    options = {"diffusion.count": 2, "diffusion.size": 64, "diffusion.maps": "kept"}
    run = fastbg.run_experiments(
        {"small": net}, ["diffusion"], out=tmp_path, options=options, progress=False
    )
    found = run.records("diffusion")
    assert "attribution" not in found, "no column of the records"
    assert (found["passes"] > 1).all()
    with RunStore.read(tmp_path) as store:
        for item, index in zip(found["item"], found["di"], strict=True):
            kept = torch.from_numpy(store.array("diffusion", "small", item, "attribution"))
            assert kept.shape == (3, 16, 16)
            map_ = attribution_map(kept[None].float())
            assert float(diffusion_index(map_)[0]) == pytest.approx(index)


def test_a_file_of_windows_needs_each_image(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("image,y0,x0,y1,x1\na.png,0,0,8,8\n", encoding="utf-8")
    with pytest.raises(InvalidArgument, match=r"diffusion\.windows.*diffusion\.images=each"):
        Diffusion(DiffusionOptions(windows=str(path))).plan(study)
    with pytest.raises(InvalidArgument, match=r"diffusion\.windows.*a CSV file"):
        Diffusion(DiffusionOptions(windows=str(tmp_path / "none.csv")))
