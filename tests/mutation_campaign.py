"""Mutation campaign: change one line at a time, and see whether the tests notice (mutmut).

    python tests/mutation_campaign.py statistics            # every mutant of an area
    python tests/mutation_campaign.py data --only '*[37]'   # those whose number ends in 3 or 7

Prints the share that was noticed, and the change of each mutant that survived. A mutant that makes
the tests hang counts as noticed, a line that no test runs does not. Survivors that change nothing
but the words of a text are listed apart: tests hold no wording.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What is mutated, and the tests that are to notice: quick ones, as they run for each mutant.
AREAS = {
    "statistics": (
        ["fastbg/stats/intervals.py", "fastbg/stats/correlation.py"],
        ["test_statistics.py", "test_coverage.py", "test_experiment_gram.py"],
    ),
    "similarity": (
        ["fastbg/measures/likeness.py", "fastbg/measures/texture.py", "fastbg/measures/quality.py"],
        [
            "test_similarity.py",
            "test_metrics.py",
            "test_gram_texture.py",
            "test_experiment_gram.py",
            "test_evaluation.py",
        ],
    ),
    "attribution": (["fastbg/attribution/*.py"], ["test_attribution*.py", "test_wrapped.py"]),
    "experiments": (["fastbg/experiments/*.py"], ["test_experiment*.py", "test_golden_run.py"]),
    "data": (
        ["fastbg/data/*.py"],
        ["test_images.py", "test_layouts.py", "test_manifests.py", "test_evaluation.py"],
    ),
    "checkpoints": (
        ["fastbg/models/checkpoints.py", "fastbg/models/formats.py", "fastbg/models/wrappers.py"],
        ["test_checkpoints.py", "test_wrappers.py", "test_weights_files.py"],
    ),
}
NOTICED = ("killed", "timeout", "segfault")


def main() -> None:
    """Mutate one area in a copy of the tree; the exit status is 1 below the share asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of mutants to try")
    parser.add_argument("--children", default=str(os.cpu_count()), help="mutants tried at once")
    parser.add_argument("--least", type=float, default=0.9, help="share that is to be noticed")
    parser.add_argument("--tree", type=Path, default=ROOT / "build" / "mutation")
    arguments = parser.parse_args()
    tree = arguments.tree.resolve() / arguments.area
    copy_tree(tree)
    modules, tests = AREAS[arguments.area]
    configure(tree, modules, tests)
    # The children are forked: OpenMP's threads would not be there.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "mutmut",
        "run",
        "--max-children",
        arguments.children,
        arguments.only,
    ]
    subprocess.run(command, cwd=tree, env=environment, check=True)
    sys.exit(0 if report(tree, arguments.only) >= arguments.least else 1)


def copy_tree(tree: Path) -> None:
    """The files that git knows and the compiled modules of the installed fastbg, in `tree`."""
    if tree.exists():
        shutil.rmtree(tree)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    found = importlib.util.find_spec("fastbg._cpu")
    if found is None or found.origin is None:
        sys.exit("fastbg._cpu is not installed: `pip install .` first")
    for module in Path(found.origin).parent.glob("_*.so"):
        shutil.copy2(module, tree / "fastbg")
    shutil.copytree(tree / "kernels", tree / "fastbg" / "kernels")


def configure(tree: Path, modules: list[str], tests: list[str]) -> None:
    """Tell mutmut, which reads the pyproject.toml of its folder."""
    selected = [f"tests/{path.name}" for name in tests for path in (tree / "tests").glob(name)]
    lines = {
        "source_paths": ["fastbg"],
        "only_mutate": modules,
        "also_copy": ["bench", "csrc", "kernels", "CMakeLists.txt", "README.md"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-p", "no:benchmark"],
        "pytest_add_cli_args_test_selection": sorted(selected),
        "process_isolation": "forkserver",  # torch's threads do not survive a fork
    }
    section = "\n".join(f"{key} = {value!r}" for key, value in lines.items())
    project = (tree / "pyproject.toml").read_text(encoding="utf-8")
    project = project.replace(', "--benchmark-skip"', "")
    (tree / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{section}\n", encoding="utf-8")


def report(tree: Path, only: str) -> float:
    """Print what became of the mutants named like `only`; the share that was noticed."""
    listed = mutmut(tree, "results", "--all", "true")
    pairs = (line.strip().rpartition(": ") for line in listed.splitlines() if ": " in line)
    outcome = {name: status for name, _, status in pairs if status != "not checked"}
    words = 0
    for name, status in outcome.items():
        if status not in NOTICED:
            change = mutmut(tree, "show", name)
            words += changes_words_only(change)
            kind = "words only, " if changes_words_only(change) else ""
            print(f"\n{kind}{status}: {change}")
    counts = Counter(outcome.values())
    noticed = sum(counts[status] for status in NOTICED)
    share = noticed / max(len(outcome) - words, 1)
    print(
        f"{only}: {noticed} of {len(outcome) - words} mutants noticed, {share:.1%}; beside them "
        f"{words} survivors that change words only ({dict(counts)})"
    )
    return share


def mutmut(tree: Path, *arguments: str) -> str:
    """What mutmut prints in `tree`."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    return done.stdout


def changes_words_only(change: str) -> bool:
    """Whether the removed and the added lines of a diff are alike but for the texts in quotes."""
    removed, added = (
        re.findall(rf"^{re.escape(sign)}(?!{re.escape(sign)})(.*)$", change, re.MULTILINE)
        for sign in "-+"
    )
    blank = [
        re.sub(r"""(?<=")[^"]*(?=")|(?<=')[^']*(?=')""", "", "\n".join(lines))
        for lines in (removed, added)
    ]
    return blank[0] == blank[1]


if __name__ == "__main__":
    main()
