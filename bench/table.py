"""bench/results/README.md, every claim beside what was measured, and the figures in docs/, from the results.

python -m bench.table
"""

from pathlib import Path

from bench.claims import CLAIMS, HEADER, machine_of, result_of, row
from bench.harness import RESULTS, ROOT
from bench.pages import filled
from finetune.artifacts import markdown_table

NAME = "README.md"
INTRODUCTION = """\
# What is claimed, and what was measured

Written by `python -m bench.table` from the results in this folder, as are the figures in `docs/`; `make bench` measures
them anew, `make bench-gpu` those of a GPU. A ratio is of two that took turns on one machine, in the rounds' least,
median and greatest. *met*: in every round; *met in the median*: not in every one. A line without a target is told, not
claimed.
"""


def crashes(results: Path) -> str:
    """What became of stages that were killed, starved and locked out."""
    result = result_of(results, "crashes")
    if result is None:
        return "`make crash-matrix`: not measured."
    outcomes = result["outcomes"]
    tries, hits = (sum(row[key] for row in outcomes) for key in ("tries", "hits"))
    different = [f"{row['stage']} ({row['fault']})" for row in outcomes if not row["identical"]]
    stages = len({row["stage"] for row in outcomes})
    return (
        f"`make crash-matrix`: {tries} faults in {stages} stages, {hits} of them while the stage was at work. The same "
        "command then ended in the hashes of an undisturbed run "
        f"{f'but for {different}' if different else 'every time'} ({result['date']}, {machine_of(result)})."
    )


def text(results: Path) -> str:
    rows = []
    for claim in CLAIMS:
        result = result_of(results, claim.bench)
        where = [result["date"], machine_of(result)] if result else ["", ""]
        rows.append([*row(claim, result), *where, f"`python -m bench.{claim.bench}`"])
    return f"{INTRODUCTION}\n{markdown_table((*HEADER, 'date', 'machine', 'command'), rows)}\n\n{crashes(results)}\n"


def main() -> None:
    (RESULTS / NAME).write_text(text(RESULTS))
    for page in (ROOT / "docs").glob("*.md"):
        page.write_text(filled(page.read_text(), RESULTS))
    print((RESULTS / NAME).read_text(), end="")


if __name__ == "__main__":
    main()
