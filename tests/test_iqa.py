"""Measures of pyiqa: asked by name, clear words where it is not installed."""

import sys
import types

import pytest
import torch
from test_evaluation import folder as folder
from test_evaluation import picture

import fastbg
from fastbg.cli import main
from fastbg.errors import InvalidArgument
from fastbg.measures.iqa import iqa_measures
from fastbg.models.bicubic import Bicubic


class Metric:
    """As pyiqa makes them."""

    def __init__(self, mode: str) -> None:
        self.metric_mode = mode

    def __call__(self, sr: torch.Tensor, hr: torch.Tensor | None = None) -> torch.Tensor:
        assert sr.dtype == torch.float32
        return sr.mean()[None] if hr is None else (sr - hr).abs().mean()[None]


def create(name: str, device: object) -> Metric:
    if name == "lpips":
        raise OSError("<urlopen error>\nmore")
    return Metric("FR" if name == "fsim" else "NR")


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module in pyiqa's place."""
    module = types.ModuleType("pyiqa")
    module.list_models = lambda: ["fsim", "lpips", "niqe"]
    module.create_metric = create
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module


def test_both_kinds_are_called_as_they_want(pyiqa: types.ModuleType) -> None:
    sr, hr = torch.rand(2, 1, 3, 8, 8).double()
    made = iqa_measures(["fsim", "niqe"])
    assert made["fsim"](sr, hr) == pytest.approx(float((sr - hr).abs().mean()), rel=1e-5)
    assert made["niqe"](sr, hr) == pytest.approx(float(sr.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fism", "measures: got 'fism'; expected one of .*; did you mean fsim?"),
        ("nothing", r"measures: got 'nothing'; expected one of pyiqa.list_models\(\)$"),
        ("psnr", "measures: got 'psnr'; expected others than psnr and ssim"),
        ("lpips", r"measures: got 'lpips'; .*can make here \(OSError: <urlopen error>\)$"),
    ],
)
def test_a_bad_name_is_told(pyiqa: types.ModuleType, name: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        iqa_measures([name])


def test_the_extra_is_named(
    folder: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert iqa_measures([]) == {}
    with pytest.raises(InvalidArgument, match=r"measures: got lpips.*pip install 'fastbg\[iqa\]'"):
        iqa_measures(["lpips"])
    assert main(["evaluate", "--model", "edsr", "--data", str(folder), "--measure", "lpips"]) == 2
    assert "--measure: got lpips; expected pyiqa to be installed" in capsys.readouterr().err


def test_a_torchvision_of_another_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> types.ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("fastbg.measures.iqa.import_module", broken)
    expected = r"got lpips; expected the torchvision of this torch.*\(RuntimeError: operator torch"
    with pytest.raises(InvalidArgument, match=expected):
        iqa_measures(["lpips"])


def test_no_number_of_a_wide_table_is_cut(
    pyiqa: types.ModuleType,
    folder: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"measure_{i}" for i in range(9)]
    pyiqa.list_models = lambda: names
    pyiqa.create_metric = lambda name, device: Metric("FR")
    monkeypatch.setenv("COLUMNS", "60")
    command = ["evaluate", "--model", "edsr", "--data", str(folder), "--measure", *names]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    for name in names:
        assert name in printed.rpartition("mean of")[2]


def test_scores_have_them_without_the_border(pyiqa: types.ModuleType, folder: object) -> None:
    scores = list(
        fastbg.evaluate([Bicubic(4)], fastbg.open_images(folder), shave=8, measures=["fsim"])
    )
    hr = picture(48, 40, seed=0)
    lr = torch.from_numpy(fastbg.downsample(hr, 4)).permute(2, 0, 1)[None] / 255
    sr = (Bicubic(4)(lr).clamp(0, 1) * 255).round() / 255
    truth = torch.from_numpy(hr).permute(2, 0, 1)[None] / 255
    expected = (sr - truth)[..., 8:-8, 8:-8].abs().mean()
    assert scores[0].others == {"fsim": pytest.approx(float(expected), rel=1e-4)}


@pytest.mark.filterwarnings("ignore")
def test_pyiqa_itself() -> None:
    try:
        import pyiqa  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs fastbg[iqa] with the torchvision of this torch: {error}")
    x, y = (torch.from_numpy(picture(96, 96, s)).permute(2, 0, 1)[None] / 255 for s in (0, 1))
    made = iqa_measures(["gmsd", "fsim"])  # which need no weights
    assert made["gmsd"](x, x) < 1e-6 < made["gmsd"](x, y)
    assert made["fsim"](x, x) > 0.9999 > made["fsim"](x, y)
