"""Foregrounds in foreign backgrounds: what is measured, and what follows for C3 and C4."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import contents, lr_tensor, make_images, make_network, plain_psnr
from test_experiment_seam import bridged
from torch._subclasses.fake_tensor import FakeTensorMode

import fastbg
from fastbg.cli import main
from fastbg.data.images import ImageSet
from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.groups import Groups, compose, sources
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.measures.texture import gram_distance, texture_gram
from fastbg.models.edsr import EDSR
from fastbg.reports.sections import report_of
from fastbg.reports.swap import nearness, rank_of_own
from fastbg.runs.pipeline import Shown
from fastbg.stats.intervals import Outcome

SMALL = SwapOptions(size=64, region=16, groups=2, backgrounds=4)
HARD = SwapOptions(seam="hard")


@pytest.mark.parametrize("domain", ["hr", "lr"])
def test_swap_equals_a_plain_loop(domain: str, study: Study, net: EDSR) -> None:
    experiment = Swap(dataclasses.replace(SMALL, domain=domain))
    item = experiment.plan(study)[0]
    columns = experiment.measure(net, [item], study)
    hr = sources(item, study).permute(0, 2, 3, 1).numpy()
    truth = hr[0, 24:40, 24:40].astype(np.float64)
    for k in range(4):
        if domain == "hr":
            image = hr[k].copy()
            image[24:40, 24:40] = hr[0, 24:40, 24:40]
            lr = lr_tensor(image)
        else:
            lr = lr_tensor(hr[k])
            lr[..., 6:10, 6:10] = lr_tensor(hr[0])[..., 6:10, 6:10]
        sr = net(lr)[0].numpy().transpose(1, 2, 0)[24:40, 24:40]
        error = ((sr.clip(0, 1) * 255).round() - truth) ** 2
        plain = 10 * np.log10(255**2 / error.mean())
        assert columns["psnr"][0, k].item() == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("domain", ["hr", "lr"])
def test_bridged_backgrounds_equal_a_plain_loop(domain: str, study: Study, net: EDSR) -> None:
    experiment = Swap(dataclasses.replace(SMALL, domain=domain, seam="hard,8"))
    item = experiment.plan(study)[0]
    columns = experiment.measure(net, [item], study)
    hr = sources(item, study).permute(0, 2, 3, 1).double().numpy() / 255
    truth = np.round(hr[0, 24:40, 24:40] * 255)
    for k in range(1, 4):
        if domain == "hr":
            image = bridged(hr[0], hr[k], 8)
            image[24:40, 24:40] = hr[0, 24:40, 24:40]
            lr = lr_tensor(image * 255)
        else:  # 8 HR pixels are 2 in LR
            own, other = (lr_tensor(np.round(hr[j] * 255).astype(np.uint8)) for j in (0, k))
            lr = fastbg.composite(own, other, [[0, 0]], (6, 6, 10, 10), seam=2.0, backend="torch")
        plain = plain_psnr(net(lr)[0, :, 24:40, 24:40], truth)
        assert columns["psnr_seam_8"][0, k].item() == pytest.approx(plain, abs=1e-3)
    # The own background is untouched, with either seam.
    assert columns["psnr_seam_8"][0, 0].item() == columns["psnr"][0, 0].item()
    assert experiment.work([item], study).forwards == 8


def test_pictures_show_the_best_and_the_worst_backgrounds(study: Study, net: EDSR) -> None:
    """48 pixels: three times the foreground's side. Three foreign backgrounds are both."""
    experiment = Swap(dataclasses.replace(SMALL, domain="hr", seam="hard"))
    item = experiment.plan(study)[0]
    hr = sources(item, study).permute(0, 2, 3, 1).numpy()
    pictures, scores = [], []
    for k in range(4):
        image = hr[k].copy()
        image[24:40, 24:40] = hr[0, 24:40, 24:40]
        sr = net(lr_tensor(image))[0]
        levels = (sr[:, 8:56, 8:56].clip(0, 1) * 255).round().permute(1, 2, 0)
        pictures.append(levels.int().numpy())
        scores.append(plain_psnr(sr[:, 24:40, 24:40], hr[0, 24:40, 24:40]))
    best_first = sorted(range(1, 4), key=lambda k: -scores[k])
    expected = {"truth": hr[0, 8:56, 8:56].astype(int), "own": pictures[0]}
    expected |= {f"best_{n}": pictures[k] for n, k in enumerate(best_first)}
    expected |= {f"worst_{n}": pictures[k] for n, k in enumerate(best_first[::-1])}
    shown = Shown(experiment.exhibit(net, item, study)).pictures()
    assert list(shown) == list(expected)
    for name, picture in shown.items():
        np.testing.assert_allclose(picture.astype(int), expected[name], atol=1, err_msg=name)


def test_claims_are_tested_with_each_seam() -> None:
    """Bridged, a foreground is better in foreign backgrounds than in its own."""
    result = made([[31, 29, 30, 29.5]] * 20, [[0, 1, 2, 3]] * 20)
    result.columns["psnr_seam_4"] = np.array([[31, 32, 30, 29.5]] * 20)
    summary = report_of(Swap()).summarise([result])
    found = {(v.claim, v.about): v.outcome for v in summary.verdicts}
    assert found["C3", "photographs, hard seam"] is Outcome.HOLDS
    assert found["C3", "photographs, bridged over 4 pixels"] is Outcome.FAILS
    assert found["C4", "photographs, bridged over 4 pixels"] is Outcome.HOLDS
    for table in summary.tables:
        assert [row[2] for row in table.rows] == ["hard seam", "bridged over 4 pixels"]


def test_texture_distance_is_of_foreground_and_surroundings(study: Study, net: EDSR) -> None:
    experiment = Swap(SMALL)
    item = experiment.plan(study)[1]
    distance = experiment.measure(net, [item], study)["distance"][0]
    hr = sources(item, study)
    inside = torch.zeros(1, 64, 64)
    inside[:, 24:40, 24:40] = 1
    foreground = texture_gram(hr[:1], inside)
    for k in range(4):
        expected = gram_distance(foreground, texture_gram(hr[k : k + 1], 1 - inside))[0, 0]
        assert distance[k].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_hot_loop_never_waits_for_the_device(net: EDSR) -> None:
    item = Item("natural/000/a", "a", (0, 0, 64, 64))
    with FakeTensorMode(allow_non_fake_inputs=True):
        hr = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
        study = Study(ImageSet("none", ()), backend="torch")
        experiment = Swap(SMALL)
        pairs = torch.stack([torch.zeros(4, dtype=torch.int64), torch.arange(4)], dim=1)
        groups = Groups([item] * 4, hr, pairs, [4])
        assert experiment.compare(net, groups, compose(groups, study, SMALL)).shape == (4,)


def test_paired_inputs_need_the_lr_domain(study: Study) -> None:
    with pytest.raises(InvalidArgument, match=r"swap\.domain"):
        Swap(dataclasses.replace(SMALL, lr="paired")).plan(study)


def made(psnr: Sequence[Sequence[float]], distance: Sequence[Sequence[float]]) -> Measured:
    """One set; two foregrounds of each photograph."""
    backgrounds = tuple(Item(f"b{k}", "b", (0, 0, 64, 64)) for k in range(len(psnr[0]) - 1))
    items = [
        Item(f"natural/{i:03}/f", f"photo {i // 2}", (0, 0, 64, 64), backgrounds, set="natural")
        for i in range(len(psnr))
    ]
    columns = {"psnr": np.array(psnr, float), "distance": np.array(distance, float)}
    return Measured(NetLabel("edsr", "edsr"), items, columns)


def test_a_tie_does_not_cost_the_own_background_its_rank() -> None:
    """Own first. What is beyond 100 dB, exact or not, counts as equal."""
    psnr = [[30, 30, 29, 31], [30, 30, 30, 29], [np.inf, 120, 99, 101], [28, 30, 30, 29]]
    assert rank_of_own(made(psnr, np.ones((4, 4)).tolist())).tolist() == [2, 1, 1, 4]


def test_rank_and_places() -> None:
    result = made([[30, 29, 31, 28, 27]], [[0, 1, 2, 3, 4]])
    assert rank_of_own(result).tolist() == [2]
    near = nearness(result)  # of four foreign ones the best two lie at places 0 and 1
    assert near.best.tolist() == [pytest.approx(100 / 6)]
    assert near.worst.tolist() == [pytest.approx(500 / 6)]


@pytest.mark.parametrize(
    ("own_best", "outcome"),
    [(20, Outcome.HOLDS), (0, Outcome.FAILS), (10, Outcome.UNDECIDED)],
)
def test_c3_follows_from_the_share(own_best: int, outcome: Outcome) -> None:
    psnr = [[31 if i < own_best else 28, 29, 30, 29.5] for i in range(20)]
    verdict = report_of(Swap(HARD)).summarise([made(psnr, [[0, 1, 2, 3]] * 20)]).verdicts[0]
    assert (verdict.claim, verdict.outcome) == ("C3", outcome)
    assert f"for {own_best} of 20" in verdict.ours


@pytest.mark.parametrize(
    ("order", "outcome"),
    [(1, Outcome.HOLDS), (-1, Outcome.FAILS), (0, Outcome.UNDECIDED)],
)
def test_c4_follows_from_the_places(order: int, outcome: Outcome) -> None:
    rng = np.random.default_rng(0)
    distance = rng.random((20, 21))
    signs = np.array([order or (-1) ** (i // 2) for i in range(20)])[:, None]
    psnr = 30 - signs * distance + 0.1 * rng.random((20, 21))
    result = made(psnr.tolist(), distance.tolist())
    verdict = report_of(Swap(HARD)).summarise([result]).verdicts[1]
    assert (verdict.claim, verdict.outcome) == ("C4", outcome)


def test_a_run_of_all_three_with_two_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`gram` brings `swap` with it and builds upon its records; no network alters `composites`."""
    images, out = make_images(tmp_path / "images"), tmp_path / "run"
    command = ["run", "gram", "composites", "--data", str(images), "--out", str(out)]
    for seed in range(2):
        command += ["--model", str(make_network(tmp_path / f"net{seed}.safetensors", seed))]
    for name in ("composites", "swap"):
        for option in ("size=64", "region=16", "groups=3", "backgrounds=4"):
            command += ["-o", f"{name}.{option}"]
    assert main([*command, "--limit", "1"]) == 0  # one photograph: nothing can be held out
    assert main(command) == 0
    stored = contents(out)
    counts = dict.fromkeys(("composites", "swap", "gram"), 0)
    for row in stored["records"]:
        counts[row[0]] += 1
    assert counts == {"composites": 3, "swap": 6, "gram": 6}
    assert (out / "composites" / "natural" / "000" / "group.csv").is_file()
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {"composites_natural", "swap_shares", "swap_cases_2", "gram_scatter"} <= figures
    assert "gram_similarities" in figures

    # Nothing is measured again, and the report is made from the store alone.
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("[resumed]") == 5
    assert contents(out) == stored
    page = (out / "report.html").read_text()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    for claim in ("C3", "C4", "C8"):
        assert f'<span class="id">{claim}</span>' in page
