"""The report: complete, self-contained, safe against hostile names, quiet in a browser."""

import base64
import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import EXPERIMENTS, OPTIONS, make_images, make_network

from fastbg.cli import main
from fastbg.reports import figures
from fastbg.reports import page as report
from fastbg.reports.claims import by_claim, by_statement, index
from fastbg.reports.content import Chart, Column, Gallery, Panel, Section, Strip, Table, Verdict
from fastbg.reports.page import cell_text, csv_text, html, range_text, write_report
from fastbg.stats.intervals import Interval, Outcome

ABOUT = {"networks": "", "images": ""}
HOSTILE = "<img src=x onerror=console.error(1)>$a_{b}$ & 'q' \"d\""
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose images and network have names that try to break out."""
    place = tmp_path_factory.mktemp("report")
    images = make_images(place / "images")
    (images / "0.png").rename(images / f"{HOSTILE}.png")
    network = make_network(place / f"{HOSTILE}.safetensors")
    command = ["run", *EXPERIMENTS, "--data", str(images), "--model", str(network), *OPTIONS]
    assert main([*command, "--out", str(place / "run"), "--limit", "8"]) == 0
    return place / "run"


class Elements(HTMLParser):
    """Tags with their attributes, and ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing_and_runs_nothing(folder: Path) -> None:
    elements = Elements((folder / "report.html").read_text()).found
    assert not [
        tag for tag, _ in elements if tag in ("script", "iframe", "object", "embed", "base")
    ]
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")), (tag, address)
    page = (folder / "report.html").read_text()
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_holds_sections_verdicts_and_pictures(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    elements = Elements(page).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert {"claims", "slicing", "table1", "table1_shares", "slicing_distance"} <= set(ids)
    shapes = [attributes.get("class") for tag, attributes in elements if tag == "svg"]
    assert shapes == ["wide", "narrow"] * 4
    assert len(ids) == len(set(ids))
    assert page.count("data:image/png;base64,") >= 2 * 4 + 2 * 5
    for claim in ("C1", "C2"):
        assert f'<span class="id">{claim}</span>' in page
    links = [a["href"] for tag, a in elements if tag == "a" and "outcome" in (a.get("class") or "")]
    assert len(links) == 3  # one of C1, two of C2
    assert {(link or "")[1:] for link in links} <= set(ids)
    assert "Not measured in this run: C3" in page
    assert "62 of 150 better alone" in page
    assert "&lt;img src=x" in page
    assert len(page) < 20e6


def test_figures_and_tables_are_files(folder: Path) -> None:
    names = {"table1_shares", "table1_gains", "table1_cases_1"}
    names |= {"slicing_images", "slicing_distance", "slicing_cases_1"}
    files = {path.name for path in (folder / "figures").iterdir()}
    charts = {name for name in names if "cases" not in name}  # galleries are pictures anyway
    assert files == {
        *(f"{name}.{kind}" for name in names for kind in ("png", "csv")),
        *(f"{name}.pdf" for name in charts),
    }
    with (folder / "tables" / "table1.csv").open() as file:
        header, row = csv.reader(file)
    assert len(header) == len(row)
    assert int(row[1]) == 8
    assert (folder / "tables" / "slicing_images.csv").is_file()


def test_cells_and_csv() -> None:
    column = Column("gain", "dB", 2, signed=True)
    assert cell_text(0.126, column) == "+0.13"
    assert cell_text(None, column) == "-"
    assert cell_text(Interval(0.5, -0.25, 1.25, 9), column) == "+0.50"
    assert range_text(Interval(0.5, -0.25, 1.25, 9), column) == "-0.25 to +1.25"
    assert range_text(Interval(0.5, float("-inf"), float("inf"), 1), column) == ""
    table = Table("t", "t", [Column("net"), column], [["a", Interval(1, 0, 2, 9)], ["b", None]])
    assert list(csv.reader(csv_text(table).splitlines())) == [
        ["net", "gain (dB)", "gain (dB): low", "gain (dB): high"],
        ["a", "1", "0", "2"],
        ["b", "", "", ""],
    ]


def part(name: str, nets: list[str], verdicts: list[Verdict], **changes: Any) -> Section:
    """A section of the report with these verdicts."""
    contents: dict[str, Any] = {"tables": [], "figures": [], "options": {}, "changed": {}}
    contents |= {"headlines": dict.fromkeys(nets, ""), "measured": 1, "planned": 1, **changes}
    return Section(name, name, "", "", "", verdicts=verdicts, **contents)


def verdict(
    claim: str, statement: str, net: str | None, outcome: Outcome, about: str = ""
) -> Verdict:
    return Verdict(claim, statement, net, "-", "-", "-", outcome, about)


def test_the_index_has_every_verdict_of_every_network() -> None:
    ring = part(
        "ring",
        ["edsr", "rcan"],
        [
            verdict("C5", "it hurts", "edsr", Outcome.HOLDS),
            verdict("C5", "it hurts", "rcan", Outcome.FAILS),
            verdict("C5", "it hurts more", None, Outcome.UNDECIDED, "edsr against rcan"),
        ],
    )
    own = verdict("C3", "own", "swinir", Outcome.HOLDS, "set")
    swap = part("swap", ["edsr", "swinir"], [own])
    pictures = part("composites", ["images"], [])  # no network, no claim
    lines = {line.statement: line for line in index([ring, swap, pictures])}
    assert set(lines["own"].by_net) == {"edsr", "rcan", "swinir"}
    assert lines["it hurts"].by_net["rcan"] == [("ring-claim-2", "", Outcome.FAILS)]
    assert lines["own"].by_net["swinir"] == [("swap-claim-1", "set", Outcome.HOLDS)]
    assert lines["it hurts"].by_net["swinir"] == []
    assert [place.about for place in lines["it hurts more"].across] == ["edsr against rcan"]

    assert [claim for claim, _ in by_claim(index([ring, swap]))] == ["C3", "C5"]
    seam = part("seam", ["edsr"], [verdict("C11", "cost", "edsr", Outcome.HOLDS)])
    ninth = part("mosaic", ["edsr"], [verdict("C9", "harm", "edsr", Outcome.FAILS)])
    assert [claim for claim, _ in by_claim(index([seam, ninth]))] == ["C9", "C11"]

    page = html([ring, swap, pictures], {"networks": "", "images": ""})
    order = re.findall(r'class="id">(C\d)</span>', page)
    assert order[:2] == ["C3", "C5"]
    links = re.findall(r'<a href="#([\w-]+)" class="outcome (\w+)"><span>([^<]+)', page)
    assert links == [
        ("swap-claim-1", "holds", "set: holds"),
        ("ring-claim-1", "holds", "holds"),
        ("ring-claim-2", "fails", "does not hold"),
        ("ring-claim-3", "open", "edsr against rcan: undecided here"),
    ]
    assert all(f'id="{anchor}"' in page for anchor, _, _ in links)
    assert "C1 (Background is not always useful)" in page


def test_verdicts_of_a_statement_are_one_table_that_says_the_test_once() -> None:
    def own(net: str | None, about: str, paper: str = "always") -> Verdict:
        return Verdict(
            "C3", "own is best", net, paper, f"{net} {about}", "90 %", Outcome.HOLDS, about
        )

    nets = ["edsr", "rcan"]
    verdicts = [own(net, about) for net in nets for about in ("photographs", "textures")]
    section = part("swap", nets, [*verdicts, own(None, "edsr against rcan")])
    (found,) = by_statement(section)
    assert (found.paper, found.test, found.nets) == ("always", "90 %", nets)
    assert [about for about, _ in found.rows] == ["photographs", "textures"]
    assert [cells["rcan"].anchor for _, cells in found.rows] == ["swap-claim-3", "swap-claim-4"]
    assert [cell.anchor for cell in found.across] == ["swap-claim-5"]
    page = html([section], {"networks": "", "images": ""})
    assert page.count("90 %") == 1
    assert page.count("The paper: always.") == 1

    (found,) = by_statement(part("swap", nets, [own("edsr", ""), own("rcan", "", "once")]))
    assert found.paper == ""
    assert found.test == "90 %"
    page = html([part("swap", nets, [own("edsr", ""), own("rcan", "", "once")])], ABOUT)
    assert "the paper: always" in page
    assert "the paper: once" in page


def test_statements_of_a_section_are_in_the_order_of_claims() -> None:
    order = ("C6", "C5", "C11", "C9", "C5")
    verdicts = [
        Verdict(claim, f"{number}", "edsr", "", "", "", Outcome.HOLDS, "")
        for number, claim in enumerate(order)
    ]
    found = by_statement(part("ring", ["edsr"], verdicts))
    assert [(tested.claim, tested.statement) for tested in found] == [
        ("C5", "1"), ("C5", "4"), ("C6", "0"), ("C9", "3"), ("C11", "2")
    ]  # fmt: skip


def test_pictures_have_sizes_and_are_there_at_once(folder: Path) -> None:
    """So that a link lands where it points to, and all of the page is printed."""
    elements = Elements((folder / "report.html").read_text()).found
    images = [attributes for tag, attributes in elements if tag == "img"]
    assert len(images) >= 8
    for image in images:
        assert int(image["width"] or 0) > 0
        assert int(image["height"] or 0) > 0
        assert "loading" not in image


def test_every_figure_and_table_has_its_numbers_behind_a_link(folder: Path) -> None:
    elements = Elements((folder / "report.html").read_text()).found
    links = {a["download"]: a["href"] for tag, a in elements if tag == "a" and "download" in a}
    for name in ("table1_gains", "table1_cases_1", "slicing_distance", "slicing_images"):
        address = links[f"{name}.csv"] or ""
        assert address.startswith("data:text/csv;")
        rows = list(csv.reader(base64.b64decode(address.split(",")[1]).decode().splitlines()))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1


def test_numbers_of_a_figure_are_those_that_it_draws() -> None:
    figure = figures.new_figure(2.0)
    left, right = figure.subplots(1, 2)
    left.plot([1, 2], [3.5, 4.5], label="mean")
    left.vlines([1], [3.0], [4.0])
    left.axhline(0)  # a mark, no number of ours
    left.scatter([5], [6])
    left.fill_between([0, 1], [0, 1])
    right.barh([0, 1], [10, 20], label="share")
    figures.name_rows(right, ["edsr", "rcan"])
    left.set_xlabel("margin")
    left.set_ylabel("dB")
    rows = figures.data_rows(Chart("c", "c", "c", figure))
    assert rows[0][-2:] == ["x", "y"]
    assert [1, "margin", "dB", "mean", "line", 1.0, 3.5] in rows
    assert [1, "margin", "dB", "", "point", 5.0, 6.0] in rows
    assert [1, "margin", "dB", "", "bar of range 1", 1.0, 4.0] in rows
    assert [row[3:] for row in rows if row[0] == 2] == [
        ["share", "bar", 10.0, "edsr"],
        ["share", "bar", 20.0, "rcan"],
    ]
    assert len(rows) == 1 + 2 + 2 + 1 + 2


def test_a_network_whose_name_begins_with_an_underscore_is_in_the_legend() -> None:
    """Matplotlib leaves such labels out; a network's weights may be a file called _net.pth."""
    figure = figures.new_figure(2)
    axis = figure.subplots()
    for name in ("_net", "edsr"):
        axis.plot([0], [0], label=figures.in_legend(name))
    assert [text.get_text() for text in axis.legend().get_texts()] == [" _net", "edsr"]


def test_lines_that_leave_the_axis_are_counted() -> None:
    figure = figures.new_figure(2.0)
    axis = figure.subplots()
    curves = np.array([[0.0, 0.0, 0.0], [5.0, 0.5, -5.0]])
    axis.plot([0, 1], curves)
    axis.set_ylim(-1, 1)
    figures.mark_clipped(axis, curves)
    assert [text.get_text()[1:] for text in axis.texts] == [" 1 goes beyond"] * 2
    axis.texts[0].remove()
    axis.texts[0].remove()
    axis.set_ylim(-6, 6)
    figures.mark_clipped(axis, curves)
    assert not axis.texts
    axis.set_ylim(-1, 1)
    figures.mark_clipped(axis, np.repeat(curves, 2, axis=1))
    assert [text.get_text()[1:] for text in axis.texts] == [" 2 go beyond"] * 2


def test_charts_are_drawn_for_phones_as_well_and_stay_as_they_are() -> None:
    """Three panels whose titles and labels are too long for a narrow figure."""
    with figures.style():
        figure = figures.new_figure(2.5)
        axes = figure.subplots(1, 3, sharey=True)
        for axis in axes:
            axis.plot([0, 1], [0, 1], label="a series with a long name, of this panel")
            axis.set_title("network with a name", loc="center")
            axis.set_xlabel("a label of several words, dB")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=1)
        figure.draw_without_rendering()
    figure.set_layout_engine(None)  # as `figures.save` leaves it
    first = figures.inline_svgs(figure, "some", "label")
    with figures.narrowed(figure):
        figure.draw_without_rendering()
        width = figure.get_window_extent().width
        assert width == pytest.approx(figures.NARROW * figure.dpi)
        for axis in axes:
            for text in (axis.xaxis.label, axis.title):
                assert text.get_window_extent().width <= 1.05 * axis.get_window_extent().width
            assert axis.get_xlabel().replace("\n", " ") == "a label of several words, dB"
        assert figure.legends[0].get_window_extent().width <= width
    assert axes[0].get_xlabel() == "a label of several words, dB"
    assert figures.inline_svgs(figure, "some", "label") == first
    boxes = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)" [^>]*class="(\w+)"', first)
    assert boxes == [("432", "180", "wide"), ("309.6", "180", "narrow")]


def test_a_chart_that_does_not_fit_on_a_phone_has_one_drawing() -> None:
    name = "a network's name, which is longer than the screen of a phone is wide"
    with figures.style():
        figure = figures.new_figure(1.0)
        axis = figure.subplots()
        axis.set_yticks([0.5], [name])
        axis.set_ylim(0, 1)
    drawn = figures.inline_svgs(figure, "some", "label")
    assert re.findall(r'<svg [^>]*class="(\w+)"', drawn) == ["any"]


def test_an_unfinished_page_says_what_is_to_come_and_reloads_itself() -> None:
    page = html([], ABOUT, coming=["One <experiment>", "another"])
    assert '<meta http-equiv="refresh" content="15">' in page
    assert "Still to come: One &lt;experiment&gt;; another." in page
    for text in ("http-equiv", "to come"):
        assert text not in html([], ABOUT)


def test_a_report_of_nothing_is_a_page() -> None:
    assert "Not measured in this run: C1" in html([], {"networks": "", "images": ""})


def test_changed_options_are_named() -> None:
    options = {"channel": "y", "domain": "lr"}
    section = part("swap", ["edsr"], [], options=options, changed={"domain": "lr"})
    page = html([section], {"networks": "", "images": ""})
    assert re.search(r"Options that differ .*<code>domain = lr</code>\.", page)
    assert "<code>channel = y" not in page


def test_pictures_shrink_until_the_page_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    gallery = Gallery("noise", "noise", "", [Strip("one", [Panel(noise, "noise")])])
    section = part("noise", ["edsr"], [], figures=[gallery])
    monkeypatch.setattr(figures, "save", lambda *_: None)
    about = {"networks": "", "images": ""}
    full = write_report(tmp_path, [section], about).stat().st_size
    assert full > 300 * 300 * 3
    monkeypatch.setattr(report, "LIMIT", 200_000)
    assert write_report(tmp_path, [section], about).stat().st_size <= 200_000


@pytest.fixture
def console(tmp_path: Path):
    """Opens a page in headless Chromium; what it writes to the console, line by line."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")

    def messages(page: Path, size: str) -> list[str]:
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
            "--disable-background-networking --disable-component-update --disable-sync "
            f"--enable-logging=stderr --window-size={size} --dump-dom"
        ).split()
        command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "</html>" in done.stdout
        return [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return messages


def test_a_browser_has_nothing_to_complain_of(folder: Path, tmp_path: Path, console) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><title>bad</title><script>console.error('heard')</script>")
    assert "heard" in " ".join(console(bad, "800,600"))
    assert console(folder / "report.html", "1200,900") == []
    assert console(folder / "report.html", "390,800") == []
