"""Every cell of every committed table on one page: published, ours, seeds, minutes, command."""

from collections.abc import Sequence
from pathlib import Path

from experiments.reporting import folders, layouts
from experiments.reporting.table import Block, Cell, Measure, Table

FILE = "README.md"
"""The page in the folder of results, which code hosts show below the list of its files."""

_ABOVE = """\
# Every cell of every table

Mean over the seeds ± standard error beside the published value; minutes of one seed, training and
tests, on a core or two of machines that others used too; the command that trained the first seed,
with the commit of this repository: a config of the same name may have changed since. Each folder
keeps what its tables were made from: `NAME.json` has configuration, seeds, versions, device,
command and commit of every run.
`docs/reproduction.md` says what the tables show, and which protocols can be compared. Written by
`python -m experiments.report --cells`.
"""


def page(tables: Sequence[Table], results: Path) -> str:
    """The page, of all reports in a folder.

    Raises:
      RecordError: a report is malformed.
    """
    parts = [_ABOVE]
    for table in tables:
        for path in sorted(results.glob(f"*/{table.name}.json")):
            found = folders.find([path.parent], [table])
            runs = [run for run in found.runs if table.belongs(run)]
            pilots = table.pilot_rows(runs, found.pilots[table.name])
            blocks = [_block(table, table.cells(runs, pilots))]
            parts.append(f"## {path.parent.name}: {table.title}\n{layouts.markdown(blocks)}")
    return "\n".join(parts)


def _block(table: Table, cells: Sequence[Cell]) -> Block:
    numbers: dict[str, int] = {}  # of commands, with their commits
    rows = []
    for cell in cells:
        origin = cell.runs[0].provenance
        command = f"`{origin.get('sweep', origin['command'])}`{_at(origin.get('git_commit'))}"
        number = numbers.setdefault(command, len(numbers) + 1)
        settings = f" (other settings: {cell.other_settings})" if cell.other_settings else ""
        for measure in table.measures:
            published = measure.published(cell)
            rows.append([
                table.titles.get(cell.column, cell.column),
                f"`{cell.row}`{settings}",
                f"`{measure.field}`",
                f"{cell.steps:,}",
                "" if published is None else f"{published:.{_digits(measure)}f}",
                layouts.with_error(measure, cell),
                str(len(cell.runs)),
                f"{cell.minutes:.0f}" if cell.minutes >= 1 else "< 1",
                f"[{number}]",
            ])  # fmt: skip
    header = [
        "column",
        "row",
        "metric",
        "steps",
        "published",
        "ours",
        "seeds",
        "minutes",
        "command",
    ]
    return Block([], header, rows, [f"* [{number}] {text}" for text, number in numbers.items()])


def _digits(measure: Measure) -> int:
    return min(measure.digits, 2)


def _at(commit: str | None) -> str:
    """The commit that a command ran at; one with uncommitted changes is marked."""
    if commit is None:
        return ""
    revision, _, changes = commit.partition("+")
    return f" at `{revision[:7]}`" + (" with changes" if changes else "")
