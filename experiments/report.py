"""Write the paper's tables from finished runs: ``python -m experiments.report --runs=FOLDER``.

Reads the finished runs of one or more sweeps, and what an earlier report kept of its own. For each
column and row of a table the configuration is chosen on validation; published values stand beside
ours. CSV, Markdown, HTML, JSON, curves, pilots and figures go to ``--out``.

``--offered=FOLDER`` is for a table whose settings other runs chose, such as pilots: the runs there
count as pilots of this table. A cell is marked where it has a setting that most cells of its column
were not offered.

``--html=FILE`` writes one page instead, which needs no other file and no network: all runs, sweeps,
tables and measurements of the folders, such as ``--runs=results``.

``--cells`` writes ``results/README.md``: every cell of the committed tables beside the published
value, with seeds, minutes and command.

``--check`` writes nothing: it makes the tables of ``results/`` again from the runs that they keep,
and fails where a committed file differs. The copies in docs/ are those of scripts.doc_tables.
"""

import sys
from pathlib import Path

from absl import app, flags

from experiments.reporting import all_tables, cells, folders, page, paper
from experiments.running import explain
from experiments.running.terminal import loading
from experiments.storage.errors import RecordError, ReportError
from experiments.storage.files import write_atomically

_RESULTS = Path("results")

_RUNS = flags.DEFINE_multi_string(
    "runs", [], "Folder of a sweep or of an earlier report; may be repeated."
)
_OFFERED = flags.DEFINE_multi_string(
    "offered", [], "Folder whose runs chose settings of these cells; may be repeated."
)
_PAPER = flags.DEFINE_string("paper", "results/paper", "Folder of the paper's curves.csv.")
_HTML = flags.DEFINE_string("html", None, "Write only one page, of all that --runs hold, there.")
_OUT = flags.DEFINE_string("out", None, "Where to write; default: report in the first folder.")
_CELLS = flags.DEFINE_bool(
    "cells", False, "Only write results/README.md: every cell of the committed tables."
)
_CHECK = flags.DEFINE_bool("check", False, "Only check that the committed tables are fresh.")


def write() -> None:
    """Write all tables that the runs belong to."""
    tables = all_tables(Path(_PAPER.value))
    runs = [Path(folder) for folder in _RUNS.value]
    out = Path(_OUT.value) if _OUT.value else runs[0] / "report"
    found = folders.find(runs, tables, [Path(folder) for folder in _OFFERED.value])
    wanted = [table for table in tables if any(map(table.belongs, found.runs))]
    if not wanted:
        raise ReportError("no run belongs to a table")
    print("\n".join(folders.write(table, found, out) for table in wanted))
    print(f"written to {out}")


def write_page() -> None:
    """Write one page of HTML that needs no other file."""
    tables, curves = (
        all_tables(Path(_PAPER.value)),
        paper.read_curves(Path(_PAPER.value) / "curves.csv"),
    )
    out, runs = Path(_HTML.value or ""), [Path(folder) for folder in _RUNS.value]
    for folder in runs:
        if not folder.is_dir():
            raise ReportError(f"--runs={folder} is no folder")
    text = page.page(runs, tables, curves, out.stem)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)
    print(f"written to {out} ({len(text) / 1e6:.1f} MB)")


def write_cells() -> None:
    """Write the page of every cell."""
    path = _RESULTS / cells.FILE
    write_atomically(path, cells.page(all_tables(Path(_PAPER.value)), _RESULTS))
    print(f"written to {path}")


def check() -> None:
    """Exit with 1 where a committed table is not what its runs make."""
    tables = all_tables(Path(_PAPER.value))
    differences = folders.outdated(tables, _RESULTS)
    path = _RESULTS / cells.FILE
    if not path.is_file() or path.read_text() != cells.page(tables, _RESULTS):
        differences.append(f"{path} differs from what --cells writes")
    if differences:
        raise ReportError("; ".join(differences))
    print("the tables are fresh")


def _parse(argv: list[str]) -> list[str]:
    if text := explain.answer(argv):
        explain.print_and_exit(text)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: expected flags only, got {argv[1]!r}")
    of_results = _CHECK.value or _CELLS.value
    options = (_RUNS, _OFFERED, _OUT, _HTML, _CELLS, _CHECK)
    given = [f"--{option.name}" for option in options if option.value]
    if of_results and len(given) > 1:
        sys.exit(f"error: {given[-1]} concerns results/ alone and excludes {given[0]}")
    if _HTML.value and (_OUT.value or _OFFERED.value):
        other = "--out" if _OUT.value else "--offered"
        sys.exit(f"error: --html writes one page instead of tables and excludes {other}")
    if not _RUNS.value and not of_results:
        sys.exit("error: --runs is missing: the folder of a sweep or of an earlier report")
    try:
        if of_results:
            check() if _CHECK.value else write_cells()
        else:
            write_page() if _HTML.value else write()
    except (RecordError, ReportError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    loading.close()
    app.run(main, flags_parser=_parse)
