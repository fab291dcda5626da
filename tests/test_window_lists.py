"""CSV files of windows, and other files that a user names: large ones, and what is no file."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastbg.attribution.effect_result import CausalEffectResult
from fastbg.attribution.interventions import Interventions
from fastbg.attribution.result import AttributionResult
from fastbg.cli.windows import Windows
from fastbg.data.windows import read_windows
from fastbg.errors import FastbgError, InvalidArgument
from fastbg.geometry import Box

BOX = Box(0, 0, 8, 8)


def test_a_line_names_an_image_by_path_name_or_stem_in_the_order_of_the_list() -> None:
    names = ["b", "d/a.png", "a", "./d/a.png", "a.png", "a"]
    windows = Windows(listed=tuple((name, Box(0, 0, 1, n + 1)) for n, name in enumerate(names)))
    assert [box.x1 for box in windows.of(Path("d/a.png"), 9, 9)] == [2, 3, 4, 5, 6]
    assert windows.count(Path("e/a.png")) == 3
    assert windows.count(Path("b.jpg")) == 1
    windows.refuse_strangers([Path("d/a.png"), Path("b.png")])
    with pytest.raises(InvalidArgument, match="image 'b' in a CSV file"):
        windows.refuse_strangers([Path("d/a.png")])


def test_the_time_of_a_list_grows_with_its_length_only() -> None:
    """10,000 lines for 10,000 images; pair by pair they would take minutes."""
    count = 10_000
    windows = Windows(listed=tuple((f"{n}.png", BOX) for n in range(count)))
    images = [Path(f"photographs/{n}.png") for n in range(count)]
    start = time.process_time()
    windows.refuse_strangers(images)
    assert sum(map(windows.count, images)) == count
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_windows(path, "--window"),
        AttributionResult.load,
        CausalEffectResult.load,
        Interventions.load,
    ],
    ids=["windows", "attributions", "effects", "interventions"],
)
def test_pipes_and_devices_are_refused_at_once(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    def late(*_: object) -> None:
        pytest.fail("it is still blocked")

    os.mkfifo(tmp_path / "pipe")
    before = signal.signal(signal.SIGALRM, late)
    try:
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
            signal.alarm(5)
            with pytest.raises(FastbgError, match="is no regular file"):
                read(path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
