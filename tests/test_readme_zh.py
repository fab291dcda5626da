"""README.zh.md says what README.md says: the same commands, code, numbers, tables and links."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = (
    (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""
    for name in ("README.md", "README.zh.md")
)
pytestmark = pytest.mark.skipif(not CHINESE, reason="the documents are not beside the tests")


def blocks(text: str) -> list[str]:
    """The code blocks, fences included."""
    return re.findall(r"^```.*?^```$", text, flags=re.DOTALL | re.MULTILINE)


def rows(text: str) -> list[str]:
    """The lines of all tables."""
    return [line for line in text.splitlines() if line.startswith("|")]


def links(text: str) -> list[str]:
    """Where links and pictures lead, without the link from one language to the other."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not link.startswith("README")]


def numbers(text: str) -> list[str]:
    """The numbers, signs included."""
    return re.findall(r"-?\d+(?:[.,]\d+)*", text)


def test_code_is_the_same() -> None:
    assert len(blocks(ENGLISH)) >= 5
    assert blocks(CHINESE) == blocks(ENGLISH)


def test_what_stands_in_backticks_is_the_same() -> None:
    english, chinese = (Counter(re.findall(r"`([^`\n]+)`", text)) for text in (ENGLISH, CHINESE))
    assert chinese == english


def test_tables_have_the_same_rows_and_numbers() -> None:
    english, chinese = rows(ENGLISH), rows(CHINESE)
    assert [row.count("|") for row in chinese] == [row.count("|") for row in english]
    assert [numbers(row) for row in chinese] == [numbers(row) for row in english]


def test_numbers_are_the_same() -> None:
    assert Counter(numbers(CHINESE)) == Counter(numbers(ENGLISH))


def test_links_and_pictures_are_the_same_and_lead_somewhere() -> None:
    assert links(CHINESE) == links(ENGLISH)
    for link in links(CHINESE):
        assert (ROOT / link).exists(), link


def test_headings_are_as_many() -> None:
    levels = [re.findall(r"^#+", text, flags=re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]


def test_each_leads_to_the_other() -> None:
    assert "(README.zh.md)" in ENGLISH
    assert "(README.md)" in CHINESE
