"""Tables and folders: runs are read from sweeps and earlier reports, tables are written.

A report of a table keeps all that it was made from, so that a later report can add runs to it:
the configurations, results and provenance of the tested runs in ``NAME.json``, their learning
curves and the pilots in CSV files.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reporting import layouts
from experiments.reporting.table import Row, Table
from experiments.storage.errors import RecordError, ReportError
from experiments.storage.files import csv_text, read_csv, read_json, write_atomically, write_json
from experiments.storage.provenance import portable, provenance
from experiments.storage.records import PLACES, Run, check, check_row, checked, read_run

HASHES = ("row", "run", "config_hash")
"""The columns of CSV files that hold hashes, which are text even where they look like numbers."""


class Found(NamedTuple):
    """What folders hold."""

    runs: list[Run]
    """Finished runs, pilots too; of those with the same settings and seed the last one found."""
    pilots: Mapping[str, list[Row]]
    """Rows of the pilots' CSV files of earlier reports, by the name of the table."""


def find(folders: Sequence[Path], tables: Sequence[Table], offered: Sequence[Path] = ()) -> Found:
    """The finished runs of sweeps, and what earlier reports kept of theirs.

    Args:
      folders: each holds ``points/*/result.json``, the report of a table, or both.
      tables: whose reports to look for.
      offered: folders of the same kind whose runs are pilots here, tested or not: their settings
        were offered to the cells.

    Raises:
      ReportError: a folder holds neither.
      RecordError: a file is malformed.
    """
    runs: list[Run] = []
    pilots: dict[str, list[Row]] = {table.name: [] for table in tables}
    for folder in folders:
        results = sorted(folder.glob("points/*/result.json"))
        reported = [table for table in tables if (folder / f"{table.name}.json").exists()]
        if not results and not reported:
            raise ReportError(
                f"{folder} holds no finished runs of a sweep (points/*/result.json), and no "
                "report; a page of single runs is made with --html=FILE"
            )
        runs += [read_run(path.parent) for path in results]
        for table in reported:
            runs += _read_report(folder, table)
            if (path := folder / table.pilots_file).is_file():
                pilots[table.name] += read_csv(path, HASHES)
    for folder in offered:
        other = find([folder], tables)
        for table in tables:
            pilots[table.name] += other.pilots[table.name]
            pilots[table.name] += map(table.pilot_row, filter(table.belongs, other.runs))
    return Found(list({(run.settings, run.seed): run for run in runs}.values()), pilots)


def _read_report(folder: Path, table: Table) -> list[Run]:
    """The runs that a report kept."""
    curves: dict[tuple[str, int], list[Row]] = {}
    curves_path = folder / table.curves_file
    if curves_path.is_file():
        for row in read_csv(curves_path, HASHES):
            curves.setdefault((row["run"], row["seed"]), []).append(row)
    path = folder / f"{table.name}.json"
    about = read_json(path)
    check(about, {"runs": "an object"}, str(path))
    runs = []
    for config_hash, entry in about["runs"].items():
        where = f"{path}, run {config_hash}"
        objects = ("config", "seeds", "provenances")
        check(entry, dict.fromkeys(objects, "an object"), where)
        for seed, result in entry["seeds"].items():
            if not seed.isdigit():
                raise RecordError(f"{where}: expected seeds as whole numbers, got {seed!r}")
            config = {**entry["config"], "seed": int(seed)}
            run = checked(config, result, [], entry["provenances"].get(seed), where)
            rows = table.rows_of_curve(curves.get((run.config_hash, run.seed), []))
            for number, row in enumerate(rows):
                check_row(row, rows[:number], f"{curves_path}, run {run.config_hash}")
            runs.append(run._replace(rows=rows))
    return runs


class Report(NamedTuple):
    """What a table's files hold."""

    texts: Mapping[str, str]
    """The CSV, Markdown and HTML files by name."""
    kept: Mapping[str, Any]
    """The runs that NAME.json keeps."""
    rows: Sequence[Row]
    """The rows of NAME.csv."""
    curves: Sequence[Row]
    """The rows of the learning curves."""


def make(table: Table, found: Found) -> Report:
    """Make a table.

    Args:
      table: its description.
      found: runs of all tables; those that do not belong to this one are left out.

    Raises:
      ReportError: all runs are pilots, or they are on several data sets.
      RecordError: a run lacks a metric or a field.
    """
    runs = [run for run in found.runs if table.belongs(run)]
    if len(names := {str(run.config.get("data.name")) for run in runs}) > 1:
        raise ReportError(
            f"{table.title}: the runs are on several data sets ({', '.join(sorted(names))}); "
            "report those of each apart"
        )
    pilots = table.pilot_rows(runs, found.pilots[table.name])
    cells = table.cells(runs, pilots)
    if not cells:
        fields = ", ".join(measure.field for measure in table.measures)
        raise ReportError(f"no run of {table.name} has {fields}: all are pilots")
    tested = _by_config(run for run in runs if table.is_tested(run))
    rows = table.csv_rows(cells)
    curves = table.curve_rows([run for seeds in tested for run in seeds], cells)
    blocks = table.layout(table, cells)
    files = {f"{table.name}.csv": rows, table.curves_file: curves, table.pilots_file: pilots}
    texts = {
        name: csv_text(content, table.digits, decimals=table.decimals)
        for name, content in files.items()
        if content
    }
    texts[f"{table.name}.md"] = layouts.markdown(blocks)
    texts[f"{table.name}.html"] = layouts.html(table.title, blocks)
    return Report(texts, _kept(tested), rows, curves)


def write(table: Table, found: Found, out: Path, *, draw: bool = True) -> str:
    """Write a table to a folder; returns it as Markdown.

    The files are ``NAME.csv``, ``NAME.md``, ``NAME.html`` and ``NAME.json``, the learning curves
    and the pilots where there are any, and the figures.

    Args:
      table: its description.
      found: runs of all tables; those that do not belong to this one are left out.
      out: the folder.
      draw: whether to draw the figures.

    Raises:
      ReportError: all runs are pilots.
      RecordError: a run lacks a metric or a field.
    """
    report = make(table, found)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in report.texts.items():
        write_atomically(out / name, text)
    about = {"provenance": provenance(device=False), "runs": report.kept}
    write_json(out / f"{table.name}.json", about)
    if draw:
        table.draw(report.rows, report.curves, out)
    return report.texts[f"{table.name}.md"]


def _by_config(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs by configuration, each with its seeds in order."""
    of_config: dict[str, list[Run]] = {}
    for run in runs:
        of_config.setdefault(run.settings, []).append(run)
    return [sorted(seeds, key=lambda run: run.seed) for seeds in of_config.values()]


def _kept(groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """What a report keeps of its runs; each group is the seeds of one configuration."""
    return {
        seeds[0].config_hash: {
            "config": {name: v for name, v in seeds[0].config.items() if name not in PLACES},
            "seeds": {str(run.seed): run.result for run in seeds},
            "provenances": {str(run.seed): portable(run.provenance) for run in seeds},
        }
        for seeds in groups
    }


def redraw(table: Table, folder: Path) -> list[Path]:
    """Draw the figures of a report from its CSV files; returns their paths.

    Raises:
      RecordError: a file cannot be read.
    """
    path = folder / table.curves_file
    curves = read_csv(path, HASHES) if path.is_file() else []
    return table.draw(read_csv(folder / f"{table.name}.csv", HASHES), curves, folder)


def outdated(tables: Sequence[Table], results: Path) -> list[str]:
    """What differs from the tables made from the runs that the reports keep, in lines.

    Nothing is written. Figures are not compared.

    Args:
      tables: whose reports to look for.
      results: every folder in it that holds a report is checked.

    Raises:
      ReportError: there is no report.
      RecordError: a file is malformed.
    """
    differences, reports = [], 0
    for table in tables:
        for path in sorted(results.glob(f"*/{table.name}.json")):
            report = make(table, find([path.parent], [table]))
            reports += 1
            if read_json(path)["runs"] != report.kept:
                differences.append(f"{path} differs from what a report keeps of its runs")
            for name, text in report.texts.items():
                file = path.parent / name
                if not file.is_file() or file.read_text() != text:
                    differences.append(f"{file} differs from the table made from {path}")
    if not reports:
        raise ReportError(f"{results} holds no report of a table")
    return differences
