"""A run keeps a stand-in for a GPU busy; bench/bench_pipeline.py does this at the paper's size."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "bench" / "bench_pipeline.py").exists():
    pytest.skip("bench/ is not beside the tests", allow_module_level=True)

GROUPS = 30  # of each set
# It is about 80 % on two cores that other programs use, too; the rest is for slower ones.
LEAST = 0.5


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(ROOT))
    try:
        from bench import bench_pipeline
    finally:
        sys.path.remove(str(ROOT))
    return bench_pipeline


def test_the_device_is_busy(bench: ModuleType) -> None:
    """With the time that PyTorch's kernels would take; the first run also decodes the images."""
    shares = []
    for _ in range(3):
        found = bench.share("pipeline", "now", GROUPS)
        shares.append(found["device"] / found["whole"])
        if max(shares) > LEAST:
            break
    assert max(shares) > LEAST, shares
    plain = bench.share("one by one", "now", GROUPS)
    assert found["device"] == pytest.approx(plain["device"], rel=0.01)  # the same work
    assert plain["whole"] > 1.3 * found["whole"]


def test_the_stand_in_works_through_its_queue(bench: ModuleType) -> None:
    device = bench.Device("cpu")
    start = device.now()
    for _ in range(3):
        device.work(0.01)
    assert device.busy == pytest.approx(0.03)
    device.wait(device.ends)
    assert device.now() >= start + 0.03
    with device.launches():
        before = device.now()
        bench.torch.empty(3, device="meta") + 1
    assert device.now() - before < 0.01
