"""The GitHub workflows run this repository's own commands, on every Python that it supports.

They were checked with actionlint and GitHub's schema, and have not run on GitHub.
"""

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
pytestmark = pytest.mark.skipif(not WORKFLOWS.is_dir(), reason="an unpacked sdist has no workflows")


def workflow(name: str) -> dict[str, Any]:
    """The content of a workflow; YAML 1.1 reads the key `on` as true."""
    content = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text(encoding="utf-8"))
    content["on"] = content.pop(True)
    return content


def commands(name: str) -> list[str]:
    """Every command line of a workflow."""
    steps = [step for job in workflow(name)["jobs"].values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def test_there_are_workflows_for_lint_tests_docs_and_wheels() -> None:
    assert {path.stem for path in WORKFLOWS.glob("*.yml")} == {"lint", "tests", "docs", "wheels"}


@pytest.mark.parametrize("name", ["lint", "tests", "docs", "wheels"])
def test_every_job_can_start_and_has_no_rights(name: str) -> None:
    found = workflow(name)
    assert found["permissions"] == {"contents": "read"}
    assert found["on"]
    for job in found["jobs"].values():
        assert job["runs-on"]
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.search(r"@v\d", step.get("uses", "@v1"))


def test_every_supported_python_is_tested() -> None:
    tested = workflow("tests")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert tested == ["3.10", "3.11", "3.12", "3.13"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={tested[0]}"' in project
    wheels = re.findall(r"cp3(\d+)-\*", project)
    assert [f"3.{minor}" for minor in wheels] == tested


def test_the_tests_are_those_of_the_readme() -> None:
    command = "pip install '.[test]' && pytest -n 2 --dist loadfile"
    assert command in commands("tests")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
