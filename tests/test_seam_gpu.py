"""What only the GPU backends of bridged seams meet; as on a GPU, nobody looks at indices there."""

import importlib

import pytest
import torch
from runnable_backend import runnable

from fastbg.backends.cuda import seam as cuda
from fastbg.errors import InvalidArgument

pytestmark = pytest.mark.usefixtures("poisoned_memory")
OPERATORS = (("bridged_composite", ()), ("bridged_composite_lr", (4, "matlab", True)))


@pytest.mark.parametrize("pair", [(-1, 0), (2, 0), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_pair_out_of_range_gives_a_nan_image(
    name: str, dtype: torch.dtype, pair: tuple[int, int]
) -> None:
    device = runnable(name, "bridged_composite").device
    module = importlib.import_module(f"fastbg.backends.{name}.seam")
    levels = [torch.randint(0, 256, (count, 2, 16, 24)) for count in (2, 3)]
    a, b = (x.to(dtype) if dtype == torch.uint8 else (x / 255).to(dtype) for x in levels)
    a, b = a.to(device), b.to(device)
    box = torch.tensor([4, 4, 12, 20], dtype=torch.int32, device=device)
    outer = torch.tensor([1, 0, 16, 23], dtype=torch.int32, device=device)
    good = torch.zeros(3, 2, dtype=torch.int32, device=device)
    bad = good.clone()
    bad[1] = torch.tensor(pair)
    for operator, rest in OPERATORS:
        run = getattr(module, operator)
        expected = run(a, b, good, box, outer, 2.0, *rest)
        expected[1] = torch.nan
        got = run(a, b, bad, box, outer, 2.0, *rest)
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("module")
def test_scales_beyond_shared_memory_are_refused() -> None:
    size = cuda.MAX_SCALE + 1
    a = torch.zeros(1, 1, size, size)
    index, box = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    with pytest.raises(InvalidArgument, match="scale: got 512; expected at most 511"):
        cuda.bridged_composite_lr(a, a, index, box, box, 2.0, size, "matlab", False)
