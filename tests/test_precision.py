"""float32 is float32: the flags inside of every pass, and afterwards."""

import importlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_run import contents, make_images
from torch import Tensor, nn

import fastbg
from fastbg import precision
from fastbg.cli import main
from fastbg.data.images import ImageSet
from fastbg.errors import CheckpointError, InvalidArgument, RunStoreError
from fastbg.experiments.study import Study
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR
from fastbg.training import TrainConfig, train

NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def flags() -> list[Any]:
    """What PyTorch's flags are."""
    return [getattr(owner, name) for owner, name, _ in precision._flags("ieee")]


def ieee() -> list[Any]:
    """What they are to be in a pass."""
    return [wanted for _, _, wanted in precision._flags("ieee")]


class Recorder(torch.autograd.Function):
    """Passes its input on, and notes the flags of the forward and the backward pass."""

    seen: ClassVar[list[list[Any]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Recorder.seen.append(flags())
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        Recorder.seen.append(flags())
        return grad * 1


class Recording(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Recorder.apply(x).repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(autouse=True)
def _nothing_is_left_changed() -> Any:
    Recorder.seen.clear()
    before = flags()
    yield
    assert flags() == before


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "edsr": lambda: EDSR(features=4, blocks=1),
    "rcan": lambda: RCAN(features=4, groups=1, blocks=1, squeezed=2),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,)),
    "bicubic": lambda: Bicubic(4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_in_ieee_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETWORKS[name]().eval()
    seen = []
    monkeypatch.setattr(net, "denormalise", lambda y: (seen.append(flags()), y)[1])
    monkeypatch.setattr(net, "normalise", lambda y: (seen.append(flags()), y)[1])
    x = torch.rand(1, 3, 16, 16)
    net(x)
    net.forward_window(x, (8, 8, 24, 24))
    assert seen or name == "bicubic"  # which is neither scaled nor shifted
    assert all(found == ieee() for found in seen)


def test_foreign_modules_and_backward_passes_too() -> None:
    x = torch.rand(1, 3, 8, 8)
    fastbg.wrap(Recording(), 2)(x)
    fastbg.LocalAttribution(Recording()).attribute(x, (2, 2, 4), 3)
    assert len(Recorder.seen) == 1 + 1 + 2 * 3  # a pass, a trial pass, three nodes
    assert all(found == ieee() for found in Recorder.seen)


def test_flags_are_restored_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    before = flags()
    with pytest.raises(InvalidArgument):
        fastbg.wrap(Broken(), 2)(torch.rand(1, 3, 8, 8))
    assert flags() == before


def test_the_caller_may_ask_for_tf32_and_passes_may_be_nested() -> None:
    net = fastbg.wrap(Recording(), 2)
    with fastbg.use_precision("tf32"):
        assert precision.current() == "tf32"
        net(torch.rand(1, 3, 8, 8))
        with fastbg.use_precision("ieee"):
            net(torch.rand(1, 3, 8, 8))
    assert precision.current() == "ieee"
    asked = [wanted for _, _, wanted in precision._flags("tf32")]
    assert Recorder.seen == [asked, ieee()]
    with pytest.raises(InvalidArgument, match="bf15"), fastbg.use_precision("bf15"):
        pass


def other_thread(kind: str, entered: threading.Event, end: threading.Event) -> threading.Thread:
    """A thread in a pass of precision `kind`, from `entered` to `end`."""

    def work() -> None:
        with fastbg.use_precision(kind), precision.held():
            entered.set()
            end.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(60)
    return thread


@pytest.mark.parametrize("first", ["ieee", "tf32"])
@pytest.mark.parametrize("second", ["ieee", "tf32"])
def test_passes_of_threads_that_overlap(first: str, second: str) -> None:
    """The first to end neither takes float32 from the other, nor does the other restore that."""
    torch.backends.cudnn.benchmark = True  # set by the user
    try:
        before = flags()
        tf32 = [wanted for _, _, wanted in precision._flags("tf32")]
        end = threading.Event()
        thread = other_thread(first, threading.Event(), end)
        with fastbg.use_precision(second), precision.held():
            assert flags() == (tf32 if {first, second} == {"tf32"} else ieee())
            end.set()
            thread.join()
            assert flags() == (tf32 if second == "tf32" else ieee())
        assert flags() == before
    finally:
        torch.backends.cudnn.benchmark = False


def test_threads_with_passes_in_passes_leave_nothing_behind() -> None:
    before, kinds, wrong = flags(), ("ieee", "tf32", "bf16"), []

    def work(number: int) -> None:
        for i in range(50):
            outer = fastbg.use_precision(kinds[(number + i) % 3])
            with outer, precision.held(), fastbg.use_precision("ieee"), precision.held():
                if flags() != ieee():
                    wrong.append(flags())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert flags() == before


@pytest.mark.skipif(not NEW, reason="torch < 2.9 has no flags of single operators")
def test_the_references_keep_float32_where_the_process_lowered_it() -> None:
    x, weight = torch.rand(2, 16, 24, 24), torch.rand(16, 16, 3, 3)
    wanted = fastbg.gram(x, backend="torch"), fastbg.conv3x3(x, weight, backend="torch")
    was = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        found = fastbg.gram(x, backend="torch"), fastbg.conv3x3(x, weight, backend="torch")
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = was[0]
        torch.backends.mkldnn.conv.fp32_precision = was[1]
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not NEW, reason="torch < 2.9 has no flags of single operators")
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_gram_keep_float32_where_the_process_lowered_it(masked: bool) -> None:
    """Of first and second order: the flags are those of the moment when backward() runs."""
    start = torch.rand(2, 64, 24, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1)) if masked else None

    def gradients() -> list[Tensor]:
        x = start.clone().requires_grad_()
        loss = fastbg.gram(x, mask, backend="torch").square().sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        return [first.detach(), *torch.autograd.grad(first.square().sum(), x)]

    wanted = gradients()
    was = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        found = gradients()
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = was
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not NEW, reason="torch < 2.9 has no tree of settings")
def test_what_a_setting_inherits_is_not_written_into_it() -> None:
    """A pass under a general "tf32" must not fix it in the operators for ever."""
    was = torch.backends.fp32_precision
    own = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        fastbg.wrap(Recording(), 2)(torch.rand(1, 3, 8, 8))
        assert Recorder.seen == [ieee()]
        torch.backends.fp32_precision = was
        assert torch.backends.cuda.matmul.fp32_precision == own
    finally:
        torch.backends.fp32_precision = was


def dtypes_of(net: nn.Module) -> list[torch.dtype]:
    """Filled with the dtype of each result of its convolutions and linear layers."""
    seen: list[torch.dtype] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    return seen


@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
def test_bf16_rounds_the_products_of_networks_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    net = NETWORKS[name]().eval().requires_grad_(False)
    x, window = torch.rand(1, 3, 16, 16), (8, 8, 24, 24)
    exact, exact_window = net(x), net.forward_window(x, window)
    seen = dtypes_of(net)
    with fastbg.use_precision("bf16"):
        found, found_window = net(x), net.forward_window(x, window)
        wide = net.double()(x.double())
    assert seen.count(torch.bfloat16) == 2 * seen.count(torch.float64)
    assert torch.float32 not in seen
    assert found.dtype == found_window.dtype == torch.float32
    assert wide.dtype == torch.float64
    for rounded, right in ((found, exact), (found_window, exact_window)):
        assert 1e-5 < (rounded - right).abs().max() < 0.02
    assert (wide - exact).abs().max() < 1e-5
    assert not torch.is_autocast_enabled("cpu")


def test_bf16_reaches_attributions_of_foreign_modules() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3 * 4, 3, padding=1), nn.PixelShuffle(2))
    seen = dtypes_of(module)
    attribution = fastbg.LocalAttribution(module)
    x = torch.rand(1, 3, 8, 8)
    attribution.attribute(x, (2, 2, 4), 3)
    assert set(seen) == {torch.float32}
    seen.clear()
    with fastbg.use_precision("bf16"):
        attribution.attribute(x, (2, 2, 4), 3)
    assert set(seen) == {torch.bfloat16}


def test_measurements_carry_their_precision_into_any_thread() -> None:
    with fastbg.use_precision("bf16"):
        study = Study(ImageSet("none", ()))
    found = []

    def measure() -> None:
        with study.measuring():
            found.append((precision.current(), torch.is_inference_mode_enabled()))
        found.append((precision.current(), torch.is_inference_mode_enabled()))

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert found == [("bf16", True), ("ieee", False)]


@pytest.mark.parametrize(
    ("kind", "device", "dtype", "expected"),
    [
        ("tf32", "cpu", torch.float32, "ieee or bf16 on cpu"),
        ("bf16", "cpu", torch.float16, "ieee: networks in float16"),
        ("tf32", "cuda", torch.bfloat16, "ieee: networks in bfloat16"),
        ("fp8", "cuda", torch.float32, "one of ieee, tf32, bf16"),
    ],
)
def test_refuses_what_a_run_would_record_without_having_it(
    kind: str, device: str, dtype: torch.dtype, expected: str
) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        precision.check_precision(kind, torch.device(device), dtype)


def test_a_run_is_known_by_its_precision(tmp_path: Path) -> None:
    """Stored, told in the report, needed to resume; and the records are others."""
    torch.manual_seed(0)
    net = EDSR(features=4, blocks=1).eval().requires_grad_(False)
    seen = dtypes_of(net)
    images = make_images(tmp_path / "images", 1)

    def run(out: str, kind: str | None) -> list[Any]:
        options = {"slicing.tile": 32}
        report = fastbg.run_experiments(
            {"net": net}, ["slicing"], data=images, out=tmp_path / out, options=options,
            precision=kind, progress=False,
        )  # fmt: skip
        assert f"precision {kind or 'ieee'}" in report.path.read_text()
        return contents(tmp_path / out)["records"]

    plain = run("plain", None)
    assert torch.bfloat16 not in seen
    seen.clear()
    rounded = run("rounded", "bf16")
    assert torch.bfloat16 in seen
    assert rounded != plain
    with pytest.raises(RunStoreError, match="precision"):
        run("rounded", None)
    with pytest.raises(InvalidArgument, match="tf32"):
        run("third", "tf32")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--device", "cpu", "--out", "OUT"],
        ["run", "--device", "cpu", "--dry-run", "--out", "OUT"],
        ["evaluate", "--model", "edsr", "--data", "DATA"],
        ["attribute", "DATA/0.png", "--model", "edsr", "--window", "0", "0", "8",
         "--out", "OUT.png"],
        ["train", "edsr", "--data", "DATA", "--out", "OUT.safetensors", "--device", "cpu"],
    ],
    ids=["run", "dry-run", "evaluate", "attribute", "train"],
)  # fmt: skip
def test_every_command_refuses_tf32_on_a_cpu(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_images(tmp_path / "images", 1)
    places = {"DATA": str(data), "OUT": str(tmp_path / "out")}
    for word, path in places.items():
        command = [part.replace(word, path) for part in command]
    assert main([*command, "--precision", "tf32"]) == 2
    assert "--precision: got 'tf32'; expected ieee or bf16 on cpu" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_training_rounds_only_when_asked(tmp_path: Path) -> None:
    images = [np.full((64, 64, 3), 100, np.uint8)]
    seen = {}
    for kind in ("ieee", "bf16"):
        net = EDSR(features=4, blocks=1)
        dtypes = dtypes_of(net)
        config = TrainConfig(steps=1, batch=1, patch=8, precision=kind)
        train(net, lambda: images, config, tmp_path / f"{kind}.ckpt")
        seen[kind] = set(dtypes)
    assert seen == {"ieee": {torch.float32}, "bf16": {torch.bfloat16}}
    other = TrainConfig(steps=1, batch=1, patch=8)
    with pytest.raises(CheckpointError, match="precision='ieee'"):
        train(net, lambda: images, other, tmp_path / "bf16.ckpt", resume=True)


class TestErrorsOfPrecisions:
    """bench/precision_errors.py."""

    @pytest.fixture
    def bench(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
        return importlib.import_module("precision_errors")

    def test_rounds_as_tf32_does(self, bench: Any) -> None:
        step = 2.0**-10
        x = torch.tensor([1.0, 1 + 0.49 * step, 1 + 0.51 * step, -1 - 0.5 * step, 0.0])
        expected = torch.tensor([1.0, 1.0, 1 + step, -1 - step, 0.0])
        assert torch.equal(bench.to_tf32(x), expected)
        wide = x.double()
        assert torch.equal(bench.to_tf32(wide), wide)

    @pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
    def test_the_imitation_rounds_every_product(self, name: str, bench: Any) -> None:
        """Between float32 and bfloat16, and near to 2^-11 of the products."""
        torch.manual_seed(0)
        net = NETWORKS[name]().eval().requires_grad_(False)
        lr, hr = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64).double()
        found = {kind: bench.errors(net, lr, hr, kind) for kind in ("ieee", "tf32", "bf16")}
        assert 20 * found["ieee"].mean < found["tf32"].mean < found["bf16"].mean / 3
        assert "FASTBG_BACKEND" not in os.environ

    def test_the_document_has_its_table(self, bench: Any) -> None:
        text = bench.DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(bench.MARKS[0])
        table, mark, _ = rest.partition(bench.MARKS[1])
        assert before
        assert mark
        assert table.count("| tf32 |") == 3
        assert bench.written(text, table.strip("\n")).count("| bf16 |") == 3
