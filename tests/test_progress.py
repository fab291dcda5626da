"""What a run shows while it works, and what it expects of the time left."""

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_run import EXPERIMENTS, OPTIONS, make_images, make_network

from fastbg.cli import main
from fastbg.experiments.gram import Gram
from fastbg.experiments.ring import Ring
from fastbg.experiments.slicing import Slicing
from fastbg.experiments.study import Item
from fastbg.experiments.swap import Swap
from fastbg.reports.content import Section
from fastbg.reports.page import Page
from fastbg.runs import progress
from fastbg.runs.forecast import Forecast
from fastbg.runs.limits import QUICK, Limits
from fastbg.runs.progress import QUIET, VERBOSE, Display, clock, rough
from fastbg.runs.running import quickest_first

A, B = ("ring", "edsr"), ("ring", "rcan")
C, D = ("swap", "edsr"), ("swap", "rcan")


def terminal(moving: bool = True) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=moving, width=90, highlight=False)
    return console, file


def test_what_is_measured_corrects_what_is_expected() -> None:
    forecast = Forecast({A: 10.0, B: 10.0, C: 20.0, D: 20.0})
    assert not forecast.known
    assert forecast.remaining() == 60
    forecast.note(A, 10.0, 0.5)  # takes twice as long as guessed: so will the others
    assert forecast.known
    assert forecast.remaining() == pytest.approx(10 + 2 * 50)
    assert forecast.share() == pytest.approx(10 / 120)
    assert forecast.remaining(since=4.0) == pytest.approx(106)
    forecast.note(A, 20.0, 1.0)
    forecast.note(B, 60.0, 1.0)  # and this network three times as long as the first
    forecast.note(C, 20.0, 0.5)
    assert forecast.remaining() == pytest.approx(20 + 20 * 2 * 3)


def test_the_share_does_not_go_back() -> None:
    forecast = Forecast({A: 10.0, C: 10.0})
    forecast.note(A, 9.0, 0.9)
    before = forecast.share()
    forecast.note(A, 90.0, 0.95)
    forecast.note(C, 0.0, 0.0)
    assert forecast.share() >= before
    for key in (A, C):
        forecast.note(key, 50.0, 1.0)
    assert forecast.share() == 1.0
    assert forecast.remaining() == 0.0


def test_nothing_left_to_measure_is_all_done() -> None:
    forecast = Forecast({A: 0.0})
    assert forecast.known
    forecast.note(A, 0.1, 1.0)
    assert forecast.share() == 1.0
    assert Forecast({}).share() == 1.0


def work(display: Display, seconds: float = 0.0, items: int = 4) -> None:
    """Two parts, the second of which was stored before."""
    display.forecast = Forecast({A: 10.0, B: 0.0})
    for key, stored in ((A, 0), (B, items)):
        follower = display.follow(key, items, stored)
        for _ in range(items):
            time.sleep(seconds)
            follower.advance(1)
        follower.finish()
        display.print(f"{' '.join(key)} done")


def test_a_terminal_gets_two_lines_and_little_to_write() -> None:
    console, file = terminal()
    start = time.monotonic()
    with Display(console) as display:
        work(display, seconds=0.25)
        took = time.monotonic() - start
        last = display.summary()
    text = file.getvalue()
    assert len(text) / took < 4096  # bytes a second
    assert "━" in text
    assert re.search(r"ring (edsr|rcan): \d of 4 items", text)
    assert re.fullmatch(r"100%, 0:0\d so far, less than 10 s left", last)
    assert text.index("ring edsr done") < text.index("ring rcan done")


def test_a_part_without_a_network_has_no_gap() -> None:
    console, _ = terminal()
    display = Display(console)
    display.follow(("attribution", ""), 3, 0).advance(2)
    assert f"{display.doing}{display.count}" == "attribution: 2 of 3 items"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console, file = terminal(moving=False)
    with Display(console) as display:
        work(display)
    assert file.getvalue().splitlines() == ["ring edsr done", "ring rcan done"]
    monkeypatch.setitem(progress.PAUSE, VERBOSE, 0.0)
    console, file = terminal(moving=False)
    with Display(console, VERBOSE) as display:
        work(display)
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 + 8
    assert re.fullmatch(r"  \d+%, 0:00 so far, .* left; ring edsr: 1 of 4 items", lines[0])


def test_quiet_says_nothing() -> None:
    for moving in (True, False):
        console, file = terminal(moving)
        with Display(console, QUIET, steps=True) as display:
            display.now("working")
            work(display)
        assert file.getvalue() == ""


def test_steps_are_lines_of_a_log() -> None:
    console, file = terminal(moving=False)
    with Display(console, steps=True) as display:
        display.now("one")
        display.now("two")
    assert file.getvalue() == "one\ntwo\n"


def test_times_to_read() -> None:
    assert [clock(s) for s in (0, 125.9, 3725)] == ["0:00", "2:05", "1:02:05"]
    told = ["less than 10 s", "about 40 s", "about 4 min", "about 2.5 h"]
    assert [rough(s) for s in (3, 42, 250, 9000)] == told


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("progress")
    images, network = make_images(folder / "images"), make_network(folder / "net.safetensors")
    return ["run", *EXPERIMENTS, "--data", str(images), "--model", str(network), *OPTIONS]


def test_how_much_a_run_tells(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "run", str(tmp_path / "run" / "report.html")
    arguments = [*command, "--out", str(out), "--limit", "2"]
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == page
    assert main([*arguments, "-q"]) == 0
    quiet = capsys.readouterr()
    assert [line for line in quiet.out.splitlines() if "net-" in line] == []
    assert quiet.err == ""
    assert main([*arguments, "-v"]) == 0
    told = capsys.readouterr().out
    assert "table1: 2 items" in told
    assert "operators: " in told


def test_report_and_dry_run_say_what_they_do(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command, "--out", str(tmp_path / "run"), "--limit", "2", "--device", "cpu"]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert re.search(r"timing a few items: table1 net-\w+ \(cpu, 2 of 2\)", told.err)
    assert "timing" not in told.out
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "writing the report: slicing (1 of 2)" in told.err
    assert told.out.splitlines() == [str(tmp_path / "run" / "report.html")]


def test_the_report_stands_early_and_reloads_itself_until_the_run_ends(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages: list[str] = []
    drawn: list[str] = []
    write, put = Page.write, Page.put

    def kept(page: Page, *arguments: Any) -> Path:
        path = write(page, *arguments)
        pages.append(path.read_text())
        return path

    def counted(page: Page, section: Section) -> None:
        drawn.append(section.name)
        put(page, section)

    monkeypatch.setattr(Page, "write", kept)
    monkeypatch.setattr(Page, "put", counted)
    assert main([*command, "--out", str(tmp_path / "run"), "--limit", "2"]) == 0
    first, last = pages
    assert "http-equiv" in first
    assert "Still to come: Does it matter whether" in first
    assert 'id="slicing"' not in first
    assert "http-equiv" not in last
    assert last.index('id="slicing"') < last.index('id="table1"')
    assert sorted(drawn) == ["slicing", "table1"]  # each once
    assert "the report so far, rewritten from now on" in capsys.readouterr().out


def test_a_run_that_is_stopped_leaves_a_page_that_stands_still(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Slicing, "measure", stopped)
    out = tmp_path / "run"
    assert main([*command, "--out", str(out), "--limit", "2"]) == 130
    page = (out / "report.html").read_text()
    assert 'id="table1"' in page
    assert "http-equiv" not in page
    assert "slicing: net" in page  # among what is unfinished


def test_the_quickest_is_measured_first_and_what_others_build_on_before_them() -> None:
    swap, ring = Swap(), Ring()
    gram = Gram(base=swap)
    plans = [(each, []) for each in (ring, gram, swap)]
    forecast = Forecast({("ring", "a"): 5.0, ("swap", "a"): 3.0, ("gram", "a"): 1.0})
    assert [each.name for each, _ in quickest_first(plans, forecast)] == ["swap", "gram", "ring"]
    forecast = Forecast({("ring", "a"): 2.0, ("swap", "a"): 0.0, ("gram", "a"): 4.0})
    assert [each.name for each, _ in quickest_first(plans, forecast)] == ["swap", "ring", "gram"]


def test_a_quick_run_takes_the_first_items_as_many_as_are_affordable() -> None:
    def items(count: int, side: int) -> list[Item]:
        return [Item(str(i), str(i), (0, 0, side, side)) for i in range(count)]

    plan = items(1000, 500)
    for experiment in (Ring(), Swap()):
        kept = Limits(quick=True).cut(experiment, plan)
        assert kept == plan[: int(QUICK / (experiment.cost / 4))] or kept == plan[:1]
        assert Limits().cut(experiment, plan) == plan
        assert Limits(2, quick=True).cut(experiment, plan) == kept[:2]
    assert len(Limits(quick=True).cut(Ring(), items(3, 4000))) == 1
    swap = Swap()
    few = Limits(quick=True)
    assert len(few.cut(Gram(base=swap), plan)) == min(
        len(few.cut(swap, plan)), int(QUICK / (Gram.cost / 4))
    )
