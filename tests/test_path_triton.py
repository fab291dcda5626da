"""The path family on Triton kernels: how many launches there are, and what they multiply."""

import importlib.util

import pytest
import torch
from runnable_backend import runnable
from stack_launches import Launches
from torch import Tensor

from fastbg.backends.torch_reference import path as reference
from fastbg.filters.gaussian import difference_taps, gaussian_taps

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastbg.backends.triton import path as kernels
from fastbg.kernels.launch import Launch

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(scope="module")
def device() -> torch.device:
    return runnable("triton", "blur_path").device


def case(device: torch.device, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An image, and the taps of two nodes and of the steps between them."""
    image = torch.rand(1, 1, 9, 10, generator=torch.Generator().manual_seed(size))
    sigmas = torch.tensor([[1.5, 0.7], [0.7, 0.0]])
    change, level = difference_taps(sigmas, size)
    taps = gaussian_taps(sigmas[0], size)
    image, taps, change, level = (t.float().to(device) for t in (image, taps, change, level))
    return image, taps, change, level


def test_two_launches_each(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """One multiplies the taps, one does the rest. Launches are counted instead of run."""
    image, taps, change, level = case(device, 9)
    gradients = image.expand(2, 1, 1, 9, 10).movedim(0, 1)
    launches = Launches()

    def count(launch: Launch) -> None:
        launches.kernels += launch.programs > 0

    monkeypatch.setattr(Launch, "run", count)
    with launches:
        kernels.blur_path(image, taps)
    assert (launches.kernels, launches.torch) == (1, ["mul.out"])
    with launches:
        kernels.path_integral(gradients, image, change, level)
    assert (launches.kernels, launches.torch) == (2, ["mul.out"] * 2)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_each_pixel_meets_its_own_taps(device: torch.device, size: int) -> None:
    image, taps, change, level = case(device, size)
    torch.testing.assert_close(kernels.blur_path(image, taps), reference.blur_path(image, taps))
    gradients = torch.randn(1, 2, 1, 9, 10).to(device)
    got = kernels.path_integral(gradients, image, change, level)
    torch.testing.assert_close(got, reference.path_integral(gradients, image, change, level))
