"""The emulation of CUDA kernels: that it computes, that it notices, and that sanitizers see it.

What the kernels compute is compared with the reference in test_emulation_composite.py and
test_emulation_gram.py, and through the public functions in test_composite.py and others.
"""

from collections.abc import Callable

import emulation_build
import pytest
import torch
from emulation_selftest import Selftest
from torch import Tensor

import fastbg

REASON = emulation_build.missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures("poisoned_memory"),
]


def scheduled() -> list[tuple[str, Callable[[], torch.Tensor]]]:
    """A small call of each operator that reaches each of its kernels."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    a, b, features, sr = (
        rand(2, 3, 16, 24),
        rand(2, 3, 16, 24),
        rand(1, 20, 9, 11),
        rand(2, 3, 9, 8),
    )
    pairs, box = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]] * 3), (4, 5, 11, 14)
    boxes = torch.tensor([box, (0, 0, 16, 24), (3, 1, 3, 20)] * 4)
    codes = torch.arange(8).reshape(2, 2, 2)
    gradients, sigmas = rand(2, 3, 3, 16, 24), [1.2, 0.8, 0.3, 0.0]
    weight, bias, few, mask = rand(64, 3, 3, 3) - 0.5, rand(64), rand(1, 3, 7, 9), rand(1, 2, 7, 9)
    region, tau = rand(1, 2, 9, 11).round(), 3.0

    def detector() -> torch.Tensor:
        leaf = sr.clone().requires_grad_()
        value = fastbg.gradient_detector(leaf, (1, 1, 7, 6), backend="cuda")
        return torch.autograd.grad(value.sum(), leaf)[0]

    return [
        ("composite", lambda: fastbg.composite(a, b, pairs, boxes, backend="cuda")),
        ("composite_lr one box", lambda: fastbg.composite_lr(a, b, pairs, box, backend="cuda")),
        ("composite_lr boxes", lambda: fastbg.composite_lr(a, b, pairs, boxes, backend="cuda")),
        ("composite_lr few", lambda: fastbg.composite_lr(a, b, pairs[:1], box, backend="cuda")),
        ("bridged", lambda: fastbg.composite(a, b, pairs, box, seam=tau, backend="cuda")),
        ("bridged lr", lambda: fastbg.composite_lr(a, b, pairs, box, seam=tau, backend="cuda")),
        ("mosaic", lambda: fastbg.mosaic(a[..., :16], codes, backend="cuda")),
        ("blur_path", lambda: fastbg.blur_path(a, sigmas, backend="cuda")),
        ("path_integral", lambda: fastbg.path_integral(gradients, a, sigmas, backend="cuda")),
        ("gradient_detector", detector),
        ("gram", lambda: fastbg.gram(features, backend="cuda")),
        ("gram half", lambda: fastbg.gram(features.half(), backend="cuda")),
        ("gram masked", lambda: fastbg.gram(features, region, backend="cuda")),
        ("conv_gram", lambda: fastbg.conv_gram(few, weight, bias, mask, backend="cuda")),
    ]


SCHEDULED = scheduled()


def skip_without(sanitizer: str) -> None:
    reason = emulation_build.sanitizer_missing(sanitizer)
    if reason is not None:
        pytest.skip(reason)


def run(
    selftest: Selftest,
    kernel: str,
    source: Tensor,
    *,
    blocks: int = 1,
    threads: int = 64,
    shared: int | None = None,
    size: int | None = None,
) -> Tensor:
    """Output of `kernel`, NaN where it wrote nothing; a float of shared memory per thread."""
    out = torch.full((size or len(source),), torch.nan)
    shared = 4 * threads if shared is None else shared
    selftest.run(kernel, blocks, threads, shared, source.data_ptr(), out.data_ptr())
    return out


# ---- it computes ----


@pytest.mark.parametrize("kernel", ["tree_sum", "shuffle_sum"])
@pytest.mark.parametrize("threads", [32, 64, 256, 1024])
def test_sums_of_blocks(selftest: Selftest, kernel: str, threads: int) -> None:
    source = torch.randint(-99, 99, (5 * threads,)).float()
    got = run(selftest, kernel, source, blocks=5, threads=threads, size=5)
    assert torch.equal(got, source.reshape(5, threads).sum(1))


def test_votes_and_shuffles_within_groups(selftest: Selftest) -> None:
    source = torch.randint(-9, 9, (2 * 64,)).float()
    got = run(selftest, "votes", source, blocks=2)
    positive = (source > 0).float()
    left = source.reshape(-1, 8).roll(1, 1)
    left[:, 0] = source.reshape(-1, 8)[:, 0]
    of_warp = positive.reshape(-1, 32).sum(1).repeat_interleave(32)
    of_block = positive.reshape(-1, 64).sum(1).repeat_interleave(64)
    assert torch.equal(got, left.flatten() + 100 * of_warp + 10000 * of_block)


def test_parts_of_a_warp_shuffle_on_their_own(selftest: Selftest) -> None:
    source = torch.arange(64).float()
    got = run(selftest, "half_warps", source)
    assert torch.equal(got, torch.tensor([3.0, 20.0, 35.0, 52.0]).repeat_interleave(16))


def test_atomics(selftest: Selftest) -> None:
    source = torch.arange(256).float()
    out = torch.zeros(1)
    selftest.run("atomic_sum", 4, 64, 0, source.data_ptr(), out.data_ptr())
    assert out == source.sum()


def test_exited_threads_hold_up_no_barrier(selftest: Selftest) -> None:
    source = torch.arange(64).float()
    got = run(selftest, "early_exit", source)
    assert torch.equal(got[::2], source[::2].roll(-1))
    assert got[1::2].isnan().all()


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [("to_half_and_back", torch.float16), ("to_bfloat16_and_back", torch.bfloat16)],
)
def test_conversions_equal_torch(selftest: Selftest, kernel: str, dtype: torch.dtype) -> None:
    """Every 16-bit number, the midpoints between neighbours, and what lies just beside those."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).float()
    finite = every[every.isfinite()].sort().values
    middle = (finite[1:].double() + finite[:-1].double()).float() / 2
    up = torch.nextafter(middle, torch.tensor(torch.inf))
    source = torch.cat([every, middle, up, torch.nextafter(middle, torch.tensor(-torch.inf))])
    source = torch.cat([source, torch.zeros(-len(source) % 256)])
    got = run(selftest, kernel, source, blocks=len(source) // 256, threads=256)
    assert torch.equal(got.isnan(), source.isnan())
    known = ~source.isnan()
    assert torch.equal(got[known], source[known].to(dtype).float())


def test_grey_levels_are_correctly_rounded(selftest: Selftest) -> None:
    levels = torch.arange(256).float()
    assert torch.equal(run(selftest, "grey_levels", levels, threads=256), levels / 255)


# ---- it notices ----


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            "divergent_barrier",
            "threads of a block wait at different places.*__syncthreads at",
        ),
        ("barrier_against_warp", "threads of a block wait at different places.*__syncwarp"),
        ("missing_lane", r"a warp operation misses a lane.*thread \(5,0,0\) has exited"),
        ("outside_mask", r"the mask leaves out the calling lane: thread \(16,0,0\) in __shfl_sync"),
    ],
)
def test_broken_kernels_fail(selftest: Selftest, kernel: str, message: str) -> None:
    source = torch.ones(64)
    with pytest.raises(RuntimeError, match=rf"block \(0,0,0\): {message}"):
        run(selftest, kernel, source)
    assert run(selftest, "tree_sum", source, size=1) == 64  # and the next launch is not harmed


@pytest.mark.parametrize(
    ("blocks", "threads", "shared"), [(0, 32, 0), (1, 0, 0), (1, 1025, 0), (1, 32, 48 * 1024 + 1)]
)
def test_launches_that_a_device_refuses(
    selftest: Selftest, blocks: int, threads: int, shared: int
) -> None:
    with pytest.raises(RuntimeError, match="cudaErrorInvalidConfiguration"):
        run(selftest, "no_work", torch.ones(1), blocks=blocks, threads=threads, shared=shared)


def test_shared_memory_is_poisoned_before_every_block(selftest: Selftest) -> None:
    run(selftest, "tree_sum", torch.ones(64), size=1)
    assert run(selftest, "uninitialised", torch.ones(64)).isnan().all()


def test_a_race_shows_in_the_order_of_threads(selftest: Selftest) -> None:
    source = torch.arange(64).float()
    forward = run(selftest, "race_after_barrier", source)
    selftest.set_backward(True)
    try:
        backward = run(selftest, "race_after_barrier", source)
        assert run(selftest, "tree_sum", source, size=1) == source.sum()
    finally:
        selftest.set_backward(False)
    assert not torch.equal(forward, backward)


SCHEDULES = range(1, 21)


def test_random_schedules_show_a_race_that_both_plain_orders_hide(
    selftest: Selftest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = torch.ones(64)
    plain = run(selftest, "race_between_neighbours", source)
    selftest.set_backward(True)
    try:
        assert torch.equal(run(selftest, "race_between_neighbours", source), plain)
    finally:
        selftest.set_backward(False)
    for seed in SCHEDULES:
        monkeypatch.setenv("FASTBG_EMULATION_SEED", str(seed))
        assert not torch.equal(run(selftest, "race_between_neighbours", source), plain)
        assert run(selftest, "tree_sum", source, size=1) == 64


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("call", range(len(SCHEDULED)), ids=[name for name, _ in SCHEDULED])
def test_no_schedule_changes_a_bit_of_an_operator(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kernel, under random orders of blocks, and of threads between barriers."""
    operator = SCHEDULED[call][1]
    expected = operator()
    for seed in SCHEDULES:
        monkeypatch.setenv("FASTBG_EMULATION_SEED", str(seed))
        torch.testing.assert_close(operator(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("sanitizer", "kernel", "message"),
    [
        ("memory", "beyond_shared", "heap-buffer-overflow.*WRITE of size 4"),
        ("memory", "beyond_input", "heap-buffer-overflow.*READ of size 4"),
        ("memory", "misaligned", "misaligned address"),
        ("races", "race", "data race"),
        ("races", "race_after_barrier", "data race"),
    ],
)
def test_sanitizers_see_into_kernels(sanitizer: str, kernel: str, message: str) -> None:
    skip_without(sanitizer)
    done = emulation_build.run_sanitized(sanitizer, "emulation_selftest.py", kernel)
    assert done.returncode != 0
    assert "finished" not in done.stdout
    assert all(part in done.stderr for part in message.split(".*")), done.stderr


@pytest.mark.parametrize("kernel", ["tree_sum", "shuffle_sum", "votes", "half_warps", "early_exit"])
@pytest.mark.parametrize("sanitizer", ["memory", "races"])
def test_sanitizers_accept_sound_kernels(sanitizer: str, kernel: str) -> None:
    skip_without(sanitizer)
    done = emulation_build.run_sanitized(sanitizer, "emulation_selftest.py", kernel)
    assert done.stdout == "finished\n", done.stderr


@pytest.mark.parametrize("sanitizer", ["memory", "races"])
def test_operators_are_clean_under_sanitizers(sanitizer: str) -> None:
    skip_without(sanitizer)
    done = emulation_build.run_sanitized(sanitizer, "emulation_campaign.py")
    assert "cases agree with the reference" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
