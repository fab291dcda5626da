"""Hard and bridged seams: what is measured, and what follows for C11."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import lr_tensor, make_images, make_network

from fastbg.cli import main
from fastbg.errors import DataError
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.groups import sources
from fastbg.experiments.seam import TAUS, WAYS, Seam, SeamOptions, by_distance
from fastbg.experiments.study import Item, Study
from fastbg.models.edsr import EDSR
from fastbg.reports.sections import report_of
from fastbg.stats.intervals import Outcome

SMALL = SeamOptions(size=64, region=16, groups=2, backgrounds=4)
LOW, HIGH = 24, 40  # of the foreground


def bridged(own: np.ndarray, other: np.ndarray, tau: float) -> np.ndarray:
    """`other` beside the foreground of `own`, pixel by pixel, in [0,1]."""
    result = other.copy()
    for y in range(64):
        for x in range(64):
            near = np.clip([y, x], LOW, HIGH - 1)
            beside = np.clip([y, x], LOW - 1, HIGH)
            distance = np.abs(np.array([y, x]) - near).max()
            if distance:
                step = own[tuple(near)] - other[tuple(beside)]
                result[y, x] = np.clip(other[y, x] + step * np.exp(-(distance - 1) / tau), 0, 1)
    return result


def composed(hr: np.ndarray, way: str, k: int) -> np.ndarray:
    """Foreground of hr[0] in background k, (64,64,3) in [0,1]."""
    own, other = hr[0], hr[k].copy()
    if way == "mean":
        outside = np.ones((64, 64), dtype=bool)
        outside[LOW:HIGH, LOW:HIGH] = False
        foreground = own[LOW:HIGH, LOW:HIGH].mean((0, 1))
        other = np.clip(other + foreground - other[outside].mean(0), 0, 1)
    elif way == "elsewhere":
        rim = {0: 0, 1: 2, 2: 3, 3: 1}[k]  # the next background's own centre
        other = bridged(hr[rim], other, 4)
    elif way != "hard":
        other = bridged(own, other, int(way.removeprefix("bridged_")))
    other[LOW:HIGH, LOW:HIGH] = own[LOW:HIGH, LOW:HIGH]
    return other


def test_every_way_equals_a_plain_loop(study: Study, net: EDSR) -> None:
    experiment = Seam(SMALL)
    item = experiment.plan(study)[0]
    columns = experiment.measure(net, [item], study)
    hr = sources(item, study).permute(0, 2, 3, 1).double().numpy() / 255
    truth = np.round(hr[0, LOW:HIGH, LOW:HIGH] * 255)
    for way in WAYS:
        for k in range(4):
            lr = lr_tensor(composed(hr, way, k) * 255)
            sr = net(lr)[0].numpy().transpose(1, 2, 0)[LOW:HIGH, LOW:HIGH]
            error = ((sr.clip(0, 1) * 255).round() - truth) ** 2
            plain = 10 * np.log10(255**2 / error.mean())
            assert columns[way][0, k].item() == pytest.approx(plain, abs=5e-3), (way, k)


def test_the_excess_is_the_error_of_hard_seams_by_distance_to_the_border(
    study: Study, net: EDSR
) -> None:
    """Mean square error, grey levels squared, in foreign backgrounds less that in the own one."""
    experiment = Seam(SMALL)
    item = experiment.plan(study)[0]
    found = experiment.measure(net, [item], study)["excess"][0]
    hr = sources(item, study).permute(0, 2, 3, 1).double().numpy() / 255
    errors = []
    for k in range(4):
        sr = net(lr_tensor(composed(hr, "hard", k) * 255))[0].numpy().transpose(1, 2, 0)
        difference = sr[LOW:HIGH, LOW:HIGH].clip(0, 1) - hr[0, LOW:HIGH, LOW:HIGH]
        errors.append(((255 * difference) ** 2).mean(2))
    excess = np.mean(errors[1:], axis=0) - errors[0]
    y, x = np.mgrid[:16, :16]
    border = np.minimum(np.minimum(y, 15 - y), np.minimum(x, 15 - x))
    expected = [excess[border == distance].mean() for distance in range(8)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0.5)


def test_the_composites_that_are_shown(study: Study, net: EDSR) -> None:
    experiment = Seam(SMALL)
    item = experiment.plan(study)[0]
    shown = experiment.exhibit(net, item, study)
    assert tuple(shown) == experiment.shown
    score = experiment.measure(net, [item], study)["hard"][0]
    worst = 1 + int(score[1:].argmin())
    hr = sources(item, study).permute(0, 2, 3, 1).double().numpy() / 255
    for way in ("hard", "mean", *(f"bridged_{tau}" for tau in TAUS)):
        expected = composed(hr, way, worst)[8:56, 8:56] * 255
        np.testing.assert_allclose(shown[f"composite_{way}"], expected, atol=0.51)


def test_in_the_lr_domain_the_decay_is_that_of_hr_pixels(study: Study, net: EDSR) -> None:
    hr = SeamOptions(size=64, region=16, groups=2, backgrounds=4, domain="lr")
    item = Seam(hr).plan(study)[0]
    columns = Seam(hr).measure(net, [item], study)
    assert all(columns[way].isfinite().all() for way in WAYS)
    np.testing.assert_allclose(  # the own background has a step of its own, but a small one
        columns["bridged_16"][0, 0], columns["hard"][0, 0], atol=3
    )
    assert (columns["hard"][0, 1:] != columns["bridged_4"][0, 1:]).any()


def test_a_sets_own_lr_images_are_used_or_missed(study: Study, net: EDSR) -> None:
    experiment = Seam(
        SeamOptions(size=64, region=16, groups=2, backgrounds=4, domain="lr", lr="paired")
    )
    with pytest.raises(DataError, match="has no LR image"):
        experiment.measure(net, experiment.plan(study)[:1], study)


def test_means_by_distance_to_the_border() -> None:
    values = torch.tensor([[1.0, 1, 1, 1], [1, 5, 7, 1], [1, 6, 6, 1], [1, 1, 1, 1]])
    assert by_distance(values).tolist() == [1, 6]
    assert by_distance(torch.ones(5, 5)).tolist() == [1, 1, 1]


def made(hard: float, left: float, photographs: int = 24) -> Measured:
    """Foregrounds that lose about `hard` dB, and `left` of it when the seam is bridged."""
    rng = np.random.default_rng(0)
    backgrounds = (Item("b", "b", (0, 0, 64, 64)),)
    items = [
        Item(f"natural/{i:03}/f", f"photo {i}", (0, 0, 64, 64), backgrounds, set="natural")
        for i in range(photographs)
    ]
    own = 30 + rng.random((photographs, 1))
    noise = 0.1 * rng.random((photographs, 1))
    columns = {way: np.hstack([own, own - left * hard - noise]) for way in WAYS}
    columns["hard"] = np.hstack([own, own - hard - noise])
    columns["excess"] = np.ones((photographs, 8))
    return Measured(NetLabel("edsr", "edsr"), items, columns)


@pytest.mark.parametrize(
    ("hard", "left", "outcome"),
    [
        (2.0, 0.1, Outcome.HOLDS),
        (2.0, 0.9, Outcome.FAILS),
        (-1.0, 0.1, Outcome.FAILS),  # foreign backgrounds help: there is no loss to explain
    ],
)
def test_c11_is_about_most_of_the_loss(hard: float, left: float, outcome: Outcome) -> None:
    summary = report_of(Seam()).summarise([made(hard, left)])
    assert [v.outcome for v in summary.verdicts] == [outcome]
    assert summary.verdicts[0].claim == "C11"


def test_few_photographs_give_no_verdict() -> None:
    summary = report_of(Seam()).summarise([made(2.0, 0.1, photographs=4)])
    assert summary.verdicts[0].outcome == Outcome.TOO_FEW


def test_the_command(tmp_path: Path) -> None:
    images, network = make_images(tmp_path / "images"), make_network(tmp_path / "net.safetensors")
    options = [f"--option=seam.{o}" for o in ("size=32", "region=8", "groups=3", "backgrounds=3")]
    command = ["run", "seam", "--data", str(images), "--model", str(network), *options]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Most of what a foreign background costs is its seam" in page
    assert "the rim of another foreground" in page
