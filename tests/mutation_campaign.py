"""Mutation campaign: change one line at a time, and see whether the tests notice (mutmut).

    python tests/mutation_campaign.py statistics            # every mutant of an area
    python tests/mutation_campaign.py data --only '*[37]'   # those whose number ends in 3 or 7
    python tests/mutation_campaign.py data --sample 20      # 20 of each file, drawn by --seed

Prints the share that was noticed, and the change of each mutant that survived. A mutant that makes
the tests hang counts as noticed, a line that no test runs does not. Survivors that change nothing
but the words of a text are listed apart: tests hold no wording.
"""

import argparse
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]

# What is mutated, and the tests that are to notice: quick ones, as they run for each mutant.
AREAS = {
    "statistics": (
        ["fastbg/stats/*.py"],
        ["test_statistics.py", "test_coverage.py", "test_experiment_gram.py"],
    ),
    "similarity": (
        ["fastbg/measures/*.py"],
        [
            "test_similarity.py",
            "test_metrics.py",
            "test_gram_texture.py",
            "test_experiment_gram.py",
            "test_evaluation.py",
        ],
    ),
    "attribution": (["fastbg/attribution/*.py"], ["test_attribution*.py", "test_wrapped.py"]),
    "experiments": (["fastbg/experiments/*.py"], ["test_experiment*.py"]),
    "data": (
        ["fastbg/data/*.py"],
        [
            "test_images.py",
            "test_layouts.py",
            "test_manifests.py",
            "test_builtin.py",
            "test_evaluation.py",
        ],
    ),
    "checkpoints": (
        [
            "fastbg/models/checkpoints.py",
            "fastbg/models/formats.py",
            "fastbg/models/wrappers.py",
            "fastbg/models/foreign.py",
            "fastbg/models/plausible.py",
            "fastbg/models/files/*.py",
        ],
        [
            "test_checkpoints.py",
            "test_wrappers.py",
            "test_weights_files.py",
            "test_plausible.py",
            "test_wrapped.py",
        ],
    ),
}
# Whole runs and processes of their own are too slow to be repeated for each mutant; limits of time
# do not hold under mutmut, which looks at each call.
LEFT_OUT = [
    "test_attribution_memory.py::test_a_256x256_input_fits_in_4_gib",
    "test_attribution_memory.py::test_a_small_budget_makes_a_small_process",
    "test_experiment_inward.py::test_a_whole_run_reports_both_methods",
    "test_experiment_seam.py::test_the_command",
    "test_experiment_swap.py::test_a_run_of_all_three_with_two_networks",
    "test_images.py::TestReadImage::test_no_cut_gives_wrong_pixels",
    "test_manifests.py::test_the_same_in_another_process",
    "test_weights_files.py::test_pickles_that_ask_for_too_much",
]
NOTICED = ("killed", "timeout", "segfault")


def main() -> None:
    """Mutate one area in a copy of the tree; the exit status is 1 below the share asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of mutants to try")
    parser.add_argument("--sample", type=int, metavar="N", help="of these, N at most of each file")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--children", default=str(os.cpu_count()), help="mutants tried at once")
    parser.add_argument("--least", type=float, default=0.9, help="share that is to be noticed")
    parser.add_argument("--tree", type=Path, default=ROOT / "build" / "mutation")
    arguments = parser.parse_args()
    tree = arguments.tree.resolve() / arguments.area
    copy_tree(tree)
    modules, tests = AREAS[arguments.area]
    configure(tree, modules, tests)
    names = [arguments.only]
    if arguments.sample is not None:
        names = sample(tree, arguments.only, arguments.sample, arguments.seed)
    run(tree, ["--max-children", arguments.children, *names], check=True)
    sys.exit(0 if report(tree) >= arguments.least else 1)


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
        "pytest_add_cli_args": [
            *("-p", "no:cacheprovider", "-p", "no:benchmark"),
            *(f"--deselect=tests/{test}" for test in LEFT_OUT),
        ],
        "pytest_add_cli_args_test_selection": sorted(selected),
        "process_isolation": "forkserver",  # torch's threads do not survive a fork
    }
    section = "\n".join(f"{key} = {value!r}" for key, value in lines.items())
    project = (tree / "pyproject.toml").read_text(encoding="utf-8")
    project = project.replace(', "--benchmark-skip"', "")
    (tree / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{section}\n", encoding="utf-8")


def run(tree: Path, arguments: list[str], *, check: bool) -> None:
    """`mutmut run` in `tree`."""
    # The children are forked: OpenMP's threads would not be there.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", "run", *arguments]
    subprocess.run(command, cwd=tree, env=environment, check=check)


def sample(tree: Path, only: str, count: int, seed: int) -> list[str]:
    """Names of at most `count` mutants of each file, drawn among those that are like `only`."""
    # mutmut makes the mutants, and sees which tests meet them, in a run only. Of no mutant, this
    # one ends with mutmut's AssertionError.
    run(tree, ["none of them"], check=False)
    listed = (line.strip().rpartition(": ")[0] for line in results(tree))
    by_file = defaultdict(list)
    for name in sorted(fnmatch.filter(listed, only)):
        by_file[name.rpartition(".")[0]].append(name)
    draw = np.random.default_rng(seed)
    chosen = []
    for module, names in by_file.items():
        drawn = draw.permutation(names)[:count].tolist()
        print(f"{module}: {len(drawn)} of {len(names)} mutants")
        # As a pattern, since mutmut stops at the plain name of a mutant that no test meets.
        chosen += [f"*{name}" for name in drawn]
    return chosen


def results(tree: Path) -> list[str]:
    """Lines "NAME: STATUS" of all mutants."""
    return [line for line in mutmut(tree, "results", "--all", "true").splitlines() if ": " in line]


def report(tree: Path) -> float:
    """Print what became of the mutants that were tried; the share that was noticed."""
    pairs = (line.strip().rpartition(": ") for line in results(tree))
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
        f"{tree.name}: {noticed} of {len(outcome) - words} mutants noticed, {share:.1%}; beside "
        f"them {words} survivors that change words only ({dict(counts)})"
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
