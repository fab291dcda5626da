"""Names come from strangers: whatever they hold, pages show it as text, and weights run no code."""

import dataclasses
import pickle
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastbg.attribution.page import Steps, page
from fastbg.errors import CheckpointError
from fastbg.models.checkpoints import load_model
from fastbg.models.wrapped import wrap
from fastbg.printable import printable, printable_lines
from fastbg.reports import figures
from fastbg.reports.content import (
    Chart,
    Column,
    Gallery,
    Panel,
    Section,
    Strip,
    Table,
    Verdict,
)
from fastbg.reports.page import html
from fastbg.stats.intervals import Outcome

# Each tries to leave another place: element, attribute, SVG, style, script, template.
ATTACKS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</svg></style></title><img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "--><iframe src=javascript:alert(1)>",
    "]]><svg onload=alert(1)>",
    "{{ 7 * 191 }}{% include 'report.css' %}",
    "&lt;script&gt;&#60;script&#62;",
    "$\\frac{a}{b$ \u202e\u2028 \\u003cscript>",
)


class Page(HTMLParser):
    """Tags, attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(attack: str) -> Section:
    """A section whose every string is `attack`."""
    figure = figures.new_figure(1.0)
    with figures.style():
        axis = figure.subplots()
        axis.plot([0, 1], label=attack)
        axis.set_title(attack)
        axis.set_yticks([0.5], [attack])
        axis.legend()
    picture = np.zeros((4, 4, 3), np.uint8)
    strip = Strip(attack, [Panel(picture, attack, attack)], attack)
    return Section(
        name=attack,
        title=attack,
        paper=attack,
        question=attack,
        method=attack,
        headlines={attack: attack},
        tables=[Table(attack, attack, [Column(attack, attack)], [[attack]], attack)] * 2,
        verdicts=[Verdict(*[attack] * 6, Outcome.HOLDS, attack)],
        figures=[
            Chart(attack, attack, attack, figure),
            Gallery(attack, attack, attack, [strip]),
        ],
        options={attack: attack},
        changed={attack: attack},
        measured=1,
        planned=2,
    )


def names(value: Any) -> Iterator[str]:
    """Every field of a section that is or holds a string, however deep."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from names(getattr(value, f.name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from names(part)
    elif isinstance(value, dict):
        yield from names([*value, *value.values()])


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_report_shows_every_string_as_text(attack: str) -> None:
    section = hostile(attack)
    assert {name for name in names(section) if name not in {o.value for o in Outcome}} == {attack}
    about = {"networks": attack, "images": attack, attack: attack}
    harmless = Page(html([hostile("harmless")], dict.fromkeys(("networks", "images", "x"), "y")))
    found = Page(html([section], about))
    assert [tag for tag, _ in found.tags if tag not in SVG] == [
        tag for tag, _ in harmless.tags if tag not in SVG
    ]
    assert {name for _, attributes in found.tags for name in attributes} <= {
        name for _, attributes in harmless.tags for name in attributes
    }
    # Seen as it is, but for characters that steer the reader: not once was it taken for markup.
    assert found.text.count(printable(attack)) >= harmless.text.count("harmless")
    assert printable_lines(found.text) == found.text


# A title of other letters is drawn with other glyphs, so these differ in number.
SVG = {"svg", "g", "path", "use", "defs", "clippath", "rect", "style", "text", "tspan", "metadata"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attribution_page_shows_every_string_as_text(attack: str) -> None:
    class Blur(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")

    def made(name: str) -> str:
        net = wrap(Blur(), scale=2, name=name)
        steps = Steps(torch.rand(3, 8, 8), {name: net}, 8, 8)
        return page(steps, name, n_steps=2)

    found, harmless = Page(made(attack)), Page(made("harmless"))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in harmless.tags]
    assert found.text.count(attack) >= 2  # title and heading


class Harm:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_weights_file_is_never_run(tmp_path: Path, suffix: str, writer: str) -> None:
    file, harm = tmp_path / f"net{suffix}", tmp_path / "harm"
    content = {"params": {"conv.weight": torch.zeros(1), "evil": Harm(harm)}}
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=f"^{file}"):
        load_model(file)
    assert not harm.exists()
