"""`inward`: composites and claim C7; what it shares with `ring` is tested there."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import make_images, rounded_once

from fastbg.cli import main
from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.inward import Inward, InwardOptions
from fastbg.experiments.study import Item, Study
from fastbg.models.checkpoints import save_model
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN
from fastbg.reports.sections import report_of
from fastbg.stats.intervals import Outcome

SMALL = InwardOptions(count=2, candidates=8, size=64, sizes="64,48,32")


def test_only_the_centre_is_kept(study: Study) -> None:
    experiment = Inward(SMALL)
    item = experiment.plan(study)[0]
    own, foreign = (
        study.ground_truth([x])[0].permute(1, 2, 0).numpy() for x in (item, item.partners[0])
    )
    lr = experiment.inputs([item], study.ground_truth([item]), study)
    for i, size in enumerate((64, 48, 32)):
        expected = foreign.copy()
        kept = slice(32 - size // 2, 32 + size // 2)
        expected[kept, kept] = own[kept, kept]
        reduced = torch.from_numpy(rounded_once(expected, 4)).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(lr[i], reduced)


def test_sizes_shrink_and_begin_untouched() -> None:
    assert Inward(InwardOptions(sizes="32,128,64")).sizes == (128, 64, 32)
    assert Inward(InwardOptions(sizes="32,128,64")).changed == (64, 32)
    with pytest.raises(InvalidArgument, match="128 among them"):
        _ = Inward(InwardOptions(sizes="64,32")).sizes


def test_shares_add_up(study: Study) -> None:
    torch.manual_seed(0)
    net = EDSR(features=4, blocks=1).eval().requires_grad_(False)
    experiment = Inward(dataclasses.replace(SMALL, sizes="64,56,48,40,32"))
    columns = experiment.measure(net, experiment.plan(study), study)
    assert experiment.attributed == (64, 48, 32)
    assert [name for name in columns if name.startswith("di_")] == ["di_64", "di_48", "di_32"]
    for size in experiment.attributed:
        parts = [columns[f"{part}_{size}"] for part in ("window", "own", "foreign")]
        torch.testing.assert_close(sum(parts), torch.ones(2, dtype=torch.float64))
    assert columns["foreign_64"].tolist() == [0, 0]
    # It looks 6 LR pixels far: the kept 48 pixels hold the 16-pixel window and 4 LR pixels more.
    assert float(columns["before_48"].max()) < float(columns["before_32"].min())


def measured(architecture: str, loss: float, spread: float = 0.01) -> Measured:
    """30 pairs that lose `loss` dB."""
    noise = spread * np.random.default_rng(0).standard_normal(30)
    columns = {}
    for size in (128, 64, 32):
        columns |= {f"{part}_{size}": np.full(30, 0.3) for part in ("window", "own", "foreign")}
        columns |= {f"before_{size}": np.full(30, 0.3), f"di_{size}": np.full(30, 9.0)}
        columns[f"psnr_{size}"] = 30 - (loss + noise if size == 32 else 0 * noise)
    items = [Item(f"{i}", f"photo {i}", (0, 0, 128, 128)) for i in range(30)]
    return Measured(NetLabel(architecture, architecture), items, columns)


@pytest.mark.parametrize(
    ("architecture", "loss", "spread", "outcome"),
    [
        ("edsr", 0.2, 0.01, Outcome.HOLDS),
        ("edsr", -0.2, 0.01, Outcome.FAILS),
        ("edsr", 0.0, 1.0, Outcome.UNDECIDED),
        ("rcan", 0.2, 0.01, Outcome.HOLDS),
        ("rcan", 1.5, 0.01, Outcome.FAILS),
        ("rcan", 1.0, 3.0, Outcome.UNDECIDED),
        ("swinir", 1.9, 0.01, Outcome.HOLDS),
        ("swinir", 0.5, 0.01, Outcome.FAILS),
    ],
)
def test_c7_follows_from_the_loss(
    architecture: str, loss: float, spread: float, outcome: Outcome
) -> None:
    experiment = Inward(InwardOptions(sizes="128,64,32", seam="hard"))
    verdicts = report_of(experiment).summarise([measured(architecture, loss, spread)]).verdicts
    assert [(v.claim, v.outcome) for v in verdicts] == [("C7", outcome)]


def test_c7_orders_the_networks() -> None:
    results = [measured("edsr", 0.3), measured("rcan", 2.5), measured("swinir", 1.9)]
    verdicts = (
        report_of(Inward(InwardOptions(sizes="128,64,32", seam="hard"))).summarise(results).verdicts
    )
    assert [(v.subject, v.outcome) for v in verdicts[3:]] == [
        ("swinir against edsr, hard seam", Outcome.HOLDS),
        ("swinir against rcan, hard seam", Outcome.FAILS),
    ]


def test_a_whole_run_reports_both_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: pairs are stored, read back, and the same command resumes."""
    images = make_images(tmp_path / "images")
    torch.manual_seed(0)
    save_model(EDSR(features=4, blocks=1), tmp_path / "plain.safetensors")
    save_model(RCAN(features=4, groups=1, blocks=1, squeezed=2), tmp_path / "attention.safetensors")
    command = ["run", "ring", "inward", "--data", str(images), "--out", str(tmp_path / "run")]
    for name in ("plain", "attention"):
        command += ["--model", str(tmp_path / f"{name}.safetensors")]
    for name, sizes in (("ring", "0,32,48"), ("inward", "64,32")):
        for option in ("count=2", "candidates=8", "size=64", f"sizes={sizes}"):
            command += ["-o", f"{name}.{option}"]
    assert main(command) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("C5") >= 4
    assert page.count("C6") >= 4
    assert page.count("C7") >= 2
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"ring_pair.png", "ring_shares.pdf", "inward_pair.png", "inward_psnr.png"} <= figures
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("[resumed]") == 4


@pytest.mark.parametrize(
    ("sizes", "attributed"),
    [
        ("128,96,64,48,32", (128, 64, 32)),
        ("128,64,48,32", (128, 48, 32)),
        ("128,32", (128, 32)),
    ],
)
def test_every_second_size_and_the_last_are_attributed(
    sizes: str, attributed: tuple[int, ...]
) -> None:
    assert Inward(InwardOptions(sizes=sizes)).attributed == attributed
