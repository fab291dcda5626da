"""`surroundings`: PSNR of one window by how much lies around it."""

import dataclasses

import numpy as np
import pytest
import torch
from small_run import rounded_once
from torch._subclasses.fake_tensor import FakeTensorMode

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.study import Item, Study
from fastbg.experiments.surroundings import Surroundings, SurroundingsOptions
from fastbg.models.edsr import EDSR
from fastbg.reports.content import Gallery
from fastbg.reports.sections import report_of
from fastbg.reports.surroundings import SurroundingsReport
from fastbg.stats.intervals import Outcome

SMALL = SurroundingsOptions(count=3, window=32, margins="0,8,16")


@pytest.mark.parametrize("domain", ["lr", "hr"])
def test_records_equal_a_plain_loop(domain: str, study: Study, net: EDSR) -> None:
    experiment = Surroundings(
        SurroundingsOptions.parse(
            {"domain": domain, "count": "3", "window": "32", "margins": "0,8,16"}, ""
        )
    )
    items = experiment.plan(study)
    columns = experiment.measure(net, items, study)
    for i, item in enumerate(items):
        y0, x0, y1, x1 = item.box
        hr = study.images[item.source].load()[y0:y1, x0:x1]
        assert hr.shape == (64, 64, 3)
        for margin in (0, 8, 16):
            low, high = 16 - margin, 48 + margin
            if domain == "hr":
                small = rounded_once(np.ascontiguousarray(hr[low:high, low:high]), 4)
            else:
                small = rounded_once(hr, 4)[low // 4 : high // 4, low // 4 : high // 4]
            lr = torch.from_numpy(np.ascontiguousarray(small)).permute(2, 0, 1)[None].float() / 255
            sr = net(lr)[0].numpy().transpose(1, 2, 0)
            window = sr[margin + 4 : margin + 28, margin + 4 : margin + 28]
            error = ((window.clip(0, 1) * 255).round() - hr[20:44, 20:44]) ** 2
            psnr = 10 * np.log10(255**2 / error.mean())
            assert columns[f"psnr_{margin}"][i] == pytest.approx(psnr, abs=1e-3)


def test_the_hot_loop_never_waits_for_the_device(net: EDSR) -> None:
    """Under fake tensors an .item(), a nonzero or a branch on data raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        hr = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        inputs = [torch.zeros(2, 3, side, side) for side in (8, 12, 16)]
        columns = Surroundings(SMALL).compare(net, hr, inputs)
    assert [*columns] == ["psnr_0", "psnr_8", "psnr_16"]


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"window": 30}, "surroundings.window"),
        ({"margins": "0,6"}, "surroundings.margins"),
        ({"margins": "8,16"}, "surroundings.margins"),
        ({"margins": "0"}, "surroundings.margins"),
        ({"margins": "none"}, "surroundings.margins"),
        ({"shave": 16}, "surroundings.shave"),
        ({"lr": "paired", "domain": "hr"}, "surroundings.domain"),
    ],
)
def test_sizes_off_the_grid_are_refused(
    changes: dict[str, object], argument: str, study: Study
) -> None:
    with pytest.raises(InvalidArgument, match="expected") as caught:
        Surroundings(dataclasses.replace(SMALL, **changes)).plan(study)
    assert caught.value.argument == argument


def measured(losing: int, count: int = 60) -> Measured:
    """`losing` windows are best with few surroundings, the others with all."""
    full = np.where(np.arange(count) < losing, 29.5, 31.0)
    columns = {
        "psnr_0": np.full(count, 29.0),
        "psnr_8": np.full(count, 30.0),
        "psnr_16": full,
    }
    items = [Item(f"{i}", f"photo {i}", (0, 0, 64, 64)) for i in range(count)]
    return Measured(NetLabel("edsr", "edsr"), items, columns)


@pytest.mark.parametrize(
    ("losing", "outcome"), [(24, Outcome.HOLDS), (0, Outcome.FAILS), (7, Outcome.UNDECIDED)]
)
def test_c1_follows_from_the_share(losing: int, outcome: Outcome) -> None:
    summary = report_of(Surroundings(SMALL)).summarise([measured(losing)])
    assert [(v.claim, v.outcome) for v in summary.verdicts] == [("C1", outcome)]
    row = summary.tables[0].rows[0]
    assert row[3].value == 1.0  # 8 pixels around gain 1 dB
    assert row[5].value == pytest.approx(100 * losing / 60)


def test_a_small_loss_does_not_count() -> None:
    experiment = Surroundings(dataclasses.replace(SMALL, gap=1.0))
    assert SurroundingsReport(experiment).share(measured(24)).value == 0


def test_cases_are_the_largest_loss_and_the_largest_gain(study: Study, net: EDSR) -> None:
    experiment = Surroundings(SMALL)
    items = experiment.plan(study)
    columns = {k: v.numpy() for k, v in experiment.measure(net, items, study).items()}
    result = Measured(NetLabel("edsr", "edsr"), items, columns)
    cases = experiment.cases(result)
    assert cases[0] == int(np.argmax(experiment.regret(result)))
    with torch.inference_mode():
        shown = {
            (items[i].key, name): picture
            for i in cases
            for name, picture in experiment.exhibit(net, items[i], study).items()
        }
    drawn = report_of(experiment).draw([dataclasses.replace(result, pictures=shown)])
    assert isinstance(drawn[0], Gallery)
    panels = drawn[0].strips[0].panels
    assert [panel.title for panel in panels[2:]] == [
        "window alone",
        "8 pixels around",
        "16 pixels around",
    ]
    scores = [columns[f"psnr_{margin}"][cases[0]] for margin in (0, 8, 16)]
    assert [panel.best for panel in panels[2:]] == [score == max(scores) for score in scores]
    assert all(panel.picture.shape == (32, 32, 3) for panel in panels[1:])
