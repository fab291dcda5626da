"""pytest plugin of mutation_campaign.py: quick tests first, and a limit in seconds of CPU.

mutmut's server gets a mutant's tests in no order, and its limits are of the wall clock: on a busy
machine a slow test looks like a mutant that hangs, and so like one that the tests noticed.
"""

import json
import os
import resource
import time
from collections.abc import Generator
from pathlib import Path

import pytest

SECONDS = Path("cpu_seconds.json")  # of each test, in the folder where mutmut runs them
TIMES, MORE = 5.0, 10.0  # a mutant hangs that takes 5 times its tests' seconds and 10 more


class Stopwatch:
    """Writes the seconds of CPU that each test took, its fixtures' included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = read_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        start = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - start
        return result

    def pytest_sessionfinish(self) -> None:
        SECONDS.write_text(json.dumps(self.seconds), encoding="utf-8")


class QuickFirst:
    """The files of the tests, and the tests of a file, by what they took; more ends the process."""

    def __init__(self) -> None:
        self.seconds = read_seconds()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        files: dict[Path, float] = {}
        for item in items:
            files[item.path] = files.get(item.path, 0.0) + self.of(item)
        items.sort(key=lambda item: (files[item.path], item.path, self.of(item)))
        if all(item.nodeid in self.seconds for item in items):
            limit = time.process_time() + MORE + TIMES * sum(files.values())
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, hard))

    def of(self, item: pytest.Item) -> float:
        return self.seconds.get(item.nodeid, 0.0)


def read_seconds() -> dict[str, float]:
    if not SECONDS.exists():
        return {}
    found: dict[str, float] = json.loads(SECONDS.read_text(encoding="utf-8"))
    return found


def pytest_configure(config: pytest.Config) -> None:
    mutant = os.environ.get("MUTANT_UNDER_TEST", "")
    if mutant == "stats":
        config.pluginmanager.register(Stopwatch())
    elif "__mutmut_" in mutant:
        config.pluginmanager.register(QuickFirst())
