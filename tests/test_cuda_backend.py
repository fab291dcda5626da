"""When the CUDA backend says that it cannot run, and what runs then."""

from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pkgutil import iter_modules
from types import SimpleNamespace

import pytest
import torch

from fastbg.backends import cuda
from fastbg.registration.dispatch import Place, select

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A GPU of another age, whose module answers `error`."""
    for file in iter_modules(cuda.__path__):  # loaded now, or they would keep the stand-in for good
        import_module(f"{cuda.__name__}.{file.name}")
    module = SimpleNamespace(error="no kernel image is available for execution on the device")
    module.why_not = lambda: module.error
    monkeypatch.setattr(cuda, "native", lambda: module)
    monkeypatch.setattr(cuda, "emulated", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    cuda._why_not.cache_clear()
    yield module
    cuda._why_not.cache_clear()


def test_a_gpu_that_it_was_not_built_for_has_the_reason(gpu: SimpleNamespace) -> None:
    reason = cuda.unavailable(GPU)
    assert reason == (
        "it was not built for this GPU (sm_75) or its driver: "
        "no kernel image is available for execution on the device"
    )


def test_auto_takes_the_next_backend_then(gpu: SimpleNamespace) -> None:
    place = Place(GPU, torch.float32)
    assert select("composite", place) == "triton"
    gpu.error = ""
    cuda._why_not.cache_clear()
    assert select("composite", place) == "cuda"


def test_it_is_asked_once(gpu: SimpleNamespace) -> None:
    assert cuda.unavailable(GPU)
    gpu.error = ""
    assert cuda.unavailable(GPU)


def test_no_gpu_is_a_reason_too(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.unavailable(GPU) == "no CUDA device is visible"


@pytest.mark.usefixtures("module")
def test_the_compiled_module_answers() -> None:
    assert cuda.native().why_not() == ""
