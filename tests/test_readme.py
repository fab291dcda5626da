"""README, CI and the tree say the same."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CI = ROOT / ".ci" / "run"


def commands() -> list[str]:
    """The lines of README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_first_screen_gives_two_commands() -> None:
    assert commands()[0] == "pip install . && fastbg run"
    assert commands()[1].startswith("pip install '.[test]' && pytest")
    assert README.index(commands()[1]) < 2000


@pytest.mark.skipif(not CI.exists(), reason="an unpacked sdist has no CI")
def test_ci_runs_the_very_test_command() -> None:
    assert commands()[1] in CI.read_text().splitlines()


def test_paths_named_in_the_documents_exist() -> None:
    pages = [*ROOT.glob("*.md"), ROOT / "bench" / "NOTES.md", *(ROOT / "docs").rglob("*.md")]
    new = re.compile(r"[/_](mse|grey|NAME|COMMAND)(_|\.)")  # of those who follow a tutorial
    for text in map(Path.read_text, pages):
        for path in re.findall(r"\b((?:csrc|kernels|fastbg|tests|bench)/[\w/]+\.\w+)", text):
            assert (ROOT / path).exists() or new.search(path), path


def test_python_of_the_readme_runs() -> None:
    """The operators' example, as printed."""
    block = re.findall(r"```python\n(import torch.*?)```", README, flags=re.DOTALL)[0]
    names: dict[str, object] = {}
    exec(block, names)  # noqa: S102
    assert tuple(names["lr"].shape) == (500, 3, 32, 32)
