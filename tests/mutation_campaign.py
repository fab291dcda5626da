"""Mutation campaign: change one line at a time, and see whether the tests notice (mutmut).

    python tests/mutation_campaign.py data                  # 60 mutants of an area, by --seed
    python tests/mutation_campaign.py data --sample 0       # every mutant
    python tests/mutation_campaign.py data --survivors      # again those that survived

Prints the share that was noticed and the change of each mutant that survived, and keeps both in
build/mutation/AREA.txt. A mutant that makes the tests hang counts as noticed: one that takes more
seconds of CPU than mutation_plugin.py allows, however busy the machine is. A line that no test runs
does not. Survivors that change nothing but the words of a message are listed apart, as tests
hold no wording, and so are those of equivalent_mutants.txt, which says why nothing can notice them.

Stopped at any moment, the same command goes on with the mutants that are left, unless fastbg has
changed. Tests may change: then `--survivors` tells whether they notice now.
"""

import argparse
import filecmp
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
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
            "test_iqa.py",
        ],
    ),
    "attribution": (
        ["fastbg/attribution/*.py"],
        [
            "test_attribution*.py",
            "test_wrapped.py",
            "test_effect*.py",
            "test_estimators.py",
            "test_faithfulness.py",
            "test_occlusion.py",
            "test_receptive_field.py",
            "test_sanity.py",
        ],
    ),
    "experiments": (
        ["fastbg/experiments/*.py"],
        ["test_experiment*.py", "test_seams.py", "test_cli_diffusion.py", "test_pipeline.py"],
    ),
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
    "test_builtin.py::test_no_square_of_an_image_is_in_another",
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
AGAIN = ("survived", "no tests", "suspicious", "timeout", "not run")  # of --survivors
NOT_RUN = 255  # exit status where pytest never began, as it knows no such test


def main() -> None:
    """Try mutants of one area in a copy of the tree; exit status 1 below the share asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--survivors", action="store_true", help="and hanging ones: again")
    parser.add_argument("--children", default=str(os.cpu_count()), help="mutants tried at once")
    parser.add_argument("--least", type=float, default=0.9, help="share that is to be noticed")
    parser.add_argument("--tree", type=Path, default=ROOT / "build" / "mutation")
    arguments = parser.parse_args()
    tree = arguments.tree.resolve() / arguments.area
    copy_tree(tree)
    configure(tree, *AREAS[arguments.area])
    # mutmut makes the mutants, and sees which tests meet them, in a run only. Of no mutant, this
    # one ends with mutmut's AssertionError.
    run(tree, ["none of them"], check=False)
    status = outcomes(tree)
    names = sample(status, arguments.sample, arguments.seed)
    to_try = {"not checked", *AGAIN} if arguments.survivors else {"not checked"}
    left = [name for name in names if status[name] in to_try]
    print(f"{len(left)} of {len(names)} mutants to try", flush=True)
    if left:
        # As patterns, since mutmut stops at the plain name of a mutant that no test meets. Those of
        # functions are no mutants': without them mutmut first runs every test once more, not only
        # those that meet these functions.
        functions = sorted({name.rpartition("__mutmut_")[0] for name in left})
        patterns = [f"*{name}" for name in [*left, *functions]]
        run(tree, ["--max-children", arguments.children, *patterns], check=True)
    share, text = report(tree, names)
    tree.with_suffix(".txt").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(0 if share >= arguments.least else 1)


def copy_tree(tree: Path) -> None:
    """The files that git knows and the compiled modules of the installed fastbg, in `tree`.

    Mutants and outcomes that are there stay, unless a file of fastbg is another now.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = [n for n in listed.stdout.split("\0") if n and (ROOT / n).is_file()]
    sources = [name for name in names if name.startswith("fastbg/")]
    _, changed, missing = filecmp.cmpfiles(ROOT, tree, sources, shallow=False)
    if tree.exists() and (changed or missing):
        shutil.rmtree(tree)
    for name in names:
        if not (tree / name).exists() or name.startswith("tests/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    found = importlib.util.find_spec("fastbg._cpu")
    if found is None or found.origin is None:
        sys.exit("fastbg._cpu is not installed: `pip install .` first")
    for module in Path(found.origin).parent.glob("_*.so"):
        shutil.copy2(module, tree / "fastbg")
    shutil.copytree(tree / "kernels", tree / "fastbg" / "kernels", dirs_exist_ok=True)


def configure(tree: Path, modules: list[str], tests: list[str]) -> None:
    """Tell mutmut, which reads the pyproject.toml of its folder."""
    selected = [f"tests/{path.name}" for name in tests for path in (tree / "tests").glob(name)]
    lines = {
        "source_paths": ["fastbg"],
        "only_mutate": modules,
        "also_copy": ["bench", "csrc", "kernels", "CMakeLists.txt", "README.md"],
        "pytest_add_cli_args": [
            *("-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "mutation_plugin"),
            *(f"--deselect=tests/{test}" for test in LEFT_OUT),
        ],
        "pytest_add_cli_args_test_selection": sorted(selected),
        "process_isolation": "forkserver",  # torch's threads do not survive a fork
        "track_dependencies": False,  # a changed file of fastbg empties the tree
        "on_dependency_change": "ignore",
        # mutation_plugin.py limits the CPU's seconds. These, of the clock, are for a mutant that
        # sleeps for ever.
        "timeout_multiplier": 1.0,
        "timeout_constant": 1800.0,
    }
    section = "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = project.replace(', "--benchmark-skip"', "")
    (tree / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{section}\n", encoding="utf-8")


def run(tree: Path, arguments: list[str], *, check: bool) -> None:
    """`mutmut run` in `tree`; what it prints, a spinner, goes to a file beside it."""
    # The children are forked: OpenMP's threads would not be there. tests/ and fastbg/ are those
    # of the tree, whatever PYTHONPATH says; pytest loads the plugin before it looks in tests/.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree / "tests")}
    command = [sys.executable, "-m", "mutmut", "run", *arguments]
    with tree.with_suffix(".log").open("wb") as log:
        done = subprocess.run(command, cwd=tree, env=environment, stdout=log, stderr=log)
    if check and done.returncode:
        sys.exit(f"mutmut failed: see {tree.with_suffix('.log')}")


def outcomes(tree: Path) -> dict[str, str]:
    """The status of each mutant by its name."""
    lines = mutmut(tree, "results", "--all", "true").splitlines()
    pairs = (line.strip().rpartition(": ") for line in lines if ": " in line)
    found = {name: status for name, _, status in pairs}
    for path in (tree / "mutants").rglob("*.meta"):  # mutmut says "timeout" of these, too
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= {name: "not run" for name, code in codes.items() if code == NOT_RUN}
    return found


def sample(names: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` of all names, or all for 0."""
    ordered = sorted(names)
    drawn = np.random.default_rng(seed).permutation(ordered).tolist()
    return sorted(drawn[:count]) if count else ordered


def report(tree: Path, names: list[str]) -> tuple[float, str]:
    """The share of these mutants that was noticed, and a text with each that was not."""
    status = outcomes(tree)
    counts = Counter(status[name] for name in names)
    noticed = sum(counts[kind] for kind in NOTICED)
    equivalent, listed, words, texts = read_equivalent(), 0, 0, []
    for name in names:
        if status[name] == "timeout":
            texts.append(f"timeout: {name}\n")
        if status[name] in NOTICED:
            continue
        change = mutmut(tree, "show", name).strip()
        reason = equivalent.get((function_of(name), lines_of(change)))
        listed += reason is not None
        words += reason is None and changes_words_only(change)
        kind = reason or ("words only" if changes_words_only(change) else status[name])
        texts.append(f"{kind}: {name}\n{change}\n")
    tried = len(names) - listed - words
    share = noticed / max(tried, 1)
    texts.append(
        f"{tree.name}: {noticed} of {tried} mutants noticed, {share:.1%}; beside them {words} "
        f"survivors that change words only and {listed} that change nothing ({dict(counts)})"
    )
    return share, "\n".join(texts)


def read_equivalent() -> dict[tuple[str, str], str]:
    """Reasons of equivalent_mutants.txt by function and changed lines."""
    text = (ROOT / "tests" / "equivalent_mutants.txt").read_text(encoding="utf-8")
    reasons = {}
    for part in text.split("\n\n")[1:]:  # the first says what the file is
        function, *change, reason = part.strip().splitlines()
        reasons[function, lines_of("\n".join(change))] = reason
    return reasons


def function_of(name: str) -> str:
    """fastbg.data.sets.ImageSet.load of mutmut's fastbg.data.sets.xǁImageSetǁload__mutmut_3."""
    module, _, function = name.rpartition("__mutmut_")[0].rpartition(".")
    plain = function.removeprefix("xǁ").replace("ǁ", ".").removeprefix("x_")
    return f"{module}.{plain}"


def lines_of(change: str) -> str:
    """The removed and added lines of a diff, without indentation."""
    found = re.findall(r"^([-+])(?![-+]{2})\s*(.*)$", change, re.MULTILINE)
    return "\n".join(sign + line for sign, line in found)


def mutmut(tree: Path, *arguments: str) -> str:
    """What mutmut prints in `tree`."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    return done.stdout


def changes_words_only(change: str) -> bool:
    """Whether a diff changes nothing but texts in quotes that hold a space: messages, not keys."""
    quoted = r"""(?<=")[^"]* [^"]*(?=")|(?<=')[^']* [^']*(?=')"""
    removed, added = (
        "\n".join(re.findall(rf"^[{sign}](?![-+]{{2}})(.*)$", change, re.MULTILINE))
        for sign in "-+"
    )
    return re.sub(quoted, "", removed) == re.sub(quoted, "", added)


if __name__ == "__main__":
    main()
