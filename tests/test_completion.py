"""`fastbg completion`."""

import pytest

from fastbg.cli import main
from fastbg.experiments import EXPERIMENTS


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_experiments_are_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    main(["completion", shell])
    script = capsys.readouterr().out
    assert all(name in script for name in EXPERIMENTS)
    assert " ".join(EXPERIMENTS) in script or shell != "bash"
