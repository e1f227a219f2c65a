"""Write the paper's tables from finished runs: ``python -m experiments.report --runs=FOLDER``.

Reads the finished runs of one or more sweeps, and what an earlier report kept of its own. For each
column and row of a table the configuration is chosen on validation; published values stand beside
ours. CSV, Markdown, HTML, JSON, curves, pilots and figures go to ``--out``.

``--check`` writes nothing: it makes the tables of ``results/`` again from the runs that they keep,
and fails where a committed file, or a copy in README.md or docs/, differs.
"""

import sys
from pathlib import Path

from absl import app, flags

from experiments.reporting import all_tables, folders
from experiments.running import explain
from experiments.running.terminal import loading
from experiments.storage.errors import RecordError, ReportError

_RUNS = flags.DEFINE_multi_string(
    "runs", [], "Folder of a sweep or of an earlier report; may be repeated."
)
_PAPER = flags.DEFINE_string("paper", "results/paper", "Folder of the paper's curves.csv.")
_OUT = flags.DEFINE_string("out", None, "Where to write; default: report in the first folder.")
_CHECK = flags.DEFINE_bool("check", False, "Only check that the committed tables are fresh.")


def write() -> None:
    """Write all tables that the runs belong to."""
    tables = all_tables(Path(_PAPER.value))
    runs = [Path(folder) for folder in _RUNS.value]
    out = Path(_OUT.value) if _OUT.value else runs[0] / "report"
    found = folders.find(runs, tables)
    wanted = [table for table in tables if any(map(table.belongs, found.runs))]
    if not wanted:
        raise ReportError("no run belongs to a table")
    print("\n".join(folders.write(table, found, out) for table in wanted))
    print(f"written to {out}")


def check() -> None:
    """Exit with 1 where a committed table is not what its runs make."""
    documents = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
    tables = all_tables(Path(_PAPER.value))
    if differences := folders.outdated(tables, Path("results"), documents):
        raise ReportError("; ".join(differences))
    print("the tables are fresh")


def _parse(argv: list[str]) -> list[str]:
    if text := explain.answer(argv):
        print(text)
        sys.exit(0)
    return flags.FLAGS(argv)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: expected flags only, got {argv[1]!r}")
    if not _RUNS.value and not _CHECK.value:
        sys.exit("error: --runs is missing: the folder of a sweep or of an earlier report")
    try:
        check() if _CHECK.value else write()
    except (RecordError, ReportError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    loading.close()
    app.run(main, flags_parser=_parse)
