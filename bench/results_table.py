"""The table of claims in docs/results.md, from a run folder.

    fastbg run --out RUN && python bench/results_table.py RUN

Writes one row for each statement that the experiments test, a column for each network, between
the two marks of docs/results.md. **Bold**: the verdict where it was decided.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from fastbg.reports.content import Verdict
from fastbg.runs.records import stored_experiments
from fastbg.runs.reporting import section
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import Outcome

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
MARKS = ("<!-- begin: python bench/results_table.py -->", "<!-- end -->")
DECIDED = (Outcome.HOLDS, Outcome.FAILS)


def cell(verdicts: list[Verdict]) -> str:
    """What one network, or several together, say of one statement."""
    texts = []
    for verdict in verdicts:
        outcome = verdict.outcome.value
        outcome = f"**{outcome}**" if verdict.outcome in DECIDED else outcome
        about = f"{verdict.about}: " if verdict.about else ""
        texts.append(f"{about}{verdict.ours}: {outcome}")
    return "; ".join(texts).replace("|", r"\|")


def table(store: RunStore) -> str:
    """The rows in Markdown, in the order of the claims."""
    verdicts: list[Verdict] = []
    for experiment in stored_experiments(store):
        found = section(store, experiment)
        verdicts += found.verdicts if found is not None else ()
    nets = list(dict.fromkeys(v.net for v in verdicts if v.net is not None))
    rows: dict[tuple[str, str], dict[str | None, list[Verdict]]] = {}
    for verdict in verdicts:
        columns = rows.setdefault((verdict.claim, verdict.statement), {})
        columns.setdefault(verdict.net, []).append(verdict)
    lines = [
        f"| claim | statement | the paper | {' | '.join(nets)} | compared |",
        "|---" * (len(nets) + 4) + "|",
    ]
    for (claim, statement), columns in sorted(rows.items(), key=lambda row: int(row[0][0][1:])):
        papers = dict.fromkeys(v.paper for each in columns.values() for v in each)
        texts = [cell(columns.get(net, [])) for net in (*nets, None)]
        lines.append(f"| {claim} | {statement} | {'; '.join(papers)} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder")
    with RunStore.read(parser.parse_args().run) as store:
        made = table(store)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    text = f"{before}{MARKS[0]}\n\n{made}\n\n{MARKS[1]}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
