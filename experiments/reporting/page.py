"""One page of HTML from folders of runs, sweeps, tables and measurements of estimators.

A folder is known by its files: ``result.json`` or ``run.json`` of a run, ``sweep.csv`` of a sweep,
``table1.json`` and the like of a report, ``variance.csv``, ``timing.csv`` and ``temperature.csv``
of the commands of these names.
"""

import collections
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reporting import folders as reports
from experiments.reporting import layouts, paper, table1, web
from experiments.reporting.table import Row, Table
from experiments.reporting.web import Series, chart, escape, folded, number, picture, table
from experiments.storage.errors import RecordError, ReportError
from experiments.storage.files import read_csv, read_json
from experiments.storage.records import Run, check, checked, read_run

GUIDE = (
    "nll: a negative bound on log p(x) in nats, lower is better; rate: its KL part; test numbers "
    "are those of the selected step (the glossary of docs/concepts.md)."
)


class Section(NamedTuple):
    """A part of the page."""

    kind: str
    title: str
    body: str


def page(given: Sequence[Path], tables: Sequence[Table], curves: paper.Curves, title: str) -> str:
    """The page of some folders and of all that are in them.

    Args:
      given: the folders.
      tables: the tables whose reports are shown.
      curves: the paper's learning curves.
      title: of the page.

    Raises:
      ReportError: a folder holds nothing that is known.
      RecordError: a file is malformed.
    """
    found: dict[tuple[Path, str, str], Section] = {}
    runs: dict[Path, Run] = {}
    for top in given:
        before = len(found)
        for folder in _inside(top):
            name = os.path.relpath(folder, top.parent)
            for section, run in _sections(folder, name, tables, curves):
                found[folder, section.kind, section.title] = section
                if run is not None:
                    runs[folder] = run
        if len(found) == before:
            raise ReportError(f"{top} holds no run, sweep, table or measurement")
    sections = sorted(found.values(), key=lambda one: list(_KINDS).index(one.kind))
    parts = [f'<p class="quiet">{escape(GUIDE)}</p>', _contents(sections)]
    kind = ""
    for place, section in enumerate(sections):
        if section.kind != kind:
            kind = section.kind
            parts.append(f'<h2 id="{kind}">{_KINDS[kind]}</h2>')
            parts += [_all_runs(runs)] if kind == "runs" else []
        parts.append(f'<h3 id="s{place}">{escape(section.title)}</h3>\n{section.body}')
    return web.document(title, "\n".join(parts))


_KINDS = {
    "tables": "Tables of the paper",
    "sweeps": "Sweeps",
    "runs": "Runs",
    "estimators": "Gradient estimators",
    "timing": "Speed",
    "temperature": "Gumbel-Softmax over the temperature",
}


def _inside(top: Path) -> Iterator[Path]:
    """A folder and those in it; of the runs of a sweep none."""
    yield top
    of_sweep = (top / "sweep.csv").is_file()
    for folder in sorted(path for path in top.iterdir() if path.is_dir()):
        if not (of_sweep and folder.name == "points"):
            yield from _inside(folder)


def _sections(
    folder: Path, name: str, tables: Sequence[Table], curves: paper.Curves
) -> Iterator[tuple[Section, Run | None]]:
    """What a folder holds."""
    for one in tables:
        if (folder / f"{one.name}.json").is_file():
            report = reports.find([folder], [one])
            yield Section("tables", f"{one.title} ({name})", _table(one, report, folder)), None
    if (folder / "sweep.csv").is_file():
        yield Section("sweeps", name, _sweep(folder)), None
    if (folder / "result.json").is_file() or (folder / "run.json").is_file():
        run, starts = _read_run(folder)
        yield Section("runs", name, _run(run, starts, folder, curves)), run
    for file, kind, body in (
        ("variance", "estimators", _estimators), ("timing", "timing", _rows),
        ("temperature", "temperature", _rows),
    ):  # fmt: skip
        if (folder / f"{file}.csv").is_file():
            shown = body(read_csv(folder / f"{file}.csv")) + _figures(folder)
            yield Section(kind, name, shown + _about(folder / f"{file}.json")), None


def _contents(sections: Sequence[Section]) -> str:
    links = [
        f'<a href="#s{place}">{escape(section.title)}</a>' for place, section in enumerate(sections)
    ]
    return f"<nav>{' '.join(links)}</nav>"


# --- parts -----------------------------------------------------------------------------------


def _figures(folder: Path, skip: Sequence[str] = ()) -> str:
    """All PNG files of a folder but some."""
    files = [path for path in sorted(folder.glob("*.png")) if path.stem not in skip]
    return "\n".join(picture(path, path.stem.replace("_", " ")) for path in files)


def _fields(values: dict[str, Any]) -> str:
    return table(["field", "value"], ((escape(k), escape(str(v))) for k, v in values.items()))


def _about(path: Path) -> str:
    """The configuration and provenance that a command left beside its rows."""
    if not path.is_file():
        return ""
    about = read_json(path)
    parts = {name: value for name, value in about.items() if isinstance(value, dict)}
    return "".join(folded(name, _fields(value)) for name, value in parts.items())


def _rows(rows: Sequence[Row]) -> str:
    header = list(rows[0]) if rows else []
    return table(map_text(header), ([escape(number(row[name])) for name in header] for row in rows))


def map_text(names: Sequence[str]) -> list[str]:
    """Names as HTML."""
    return [escape(name) for name in names]


def _table(one: Table, found: reports.Found, folder: Path) -> str:
    """A table of the paper, its figures and the configurations behind its cells."""
    runs = [run for run in found.runs if one.belongs(run)]
    cells = one.cells(runs, found.pilots[one.name])
    parts = []
    for block in one.layout(one, cells):
        header = [layouts.inline(text) for text in block.header]
        parts += layouts.paragraphs(block.above)
        parts.append(table(header, ([layouts.inline(t) for t in row] for row in block.rows)))
        parts += layouts.paragraphs(block.below)
    parts.append(_figures(folder))
    of_cells = (
        folded(
            f"{cell.column}, {cell.row}, {cell.steps:,} steps",
            _fields(cell.runs[0].config) + _fields(cell.runs[0].provenance),
        )
        for cell in cells
    )
    parts.append(folded("configuration and provenance of each cell", "\n".join(of_cells)))
    return "\n".join(parts)


def _sweep(folder: Path) -> str:
    """Configurations, the best one, the figure."""
    rows = [row for row in read_csv(folder / "sweep.csv") if row.get("level") != "run"]
    known = [name for name in rows[0] if any(row[name] is not None for row in rows)] if rows else []
    hidden = ("level", "config_hash")
    shown = [name for name in known if name not in hidden and not name.endswith("_stderr")]

    def cell(row: Row, name: str) -> str:
        error = row.get(f"{name}_stderr")
        return escape(number(row[name]) + (f" ± {error:.2g}" if error is not None else ""))

    about = read_json(folder / "sweep.json") if (folder / "sweep.json").is_file() else {}
    best = about.get("best")
    text = ""
    if best is not None:
        fields = [name for name in about.get("swept", ()) if name in best]
        chosen = ", ".join(f"{name} = {best[name]}" for name in fields) or "the one configuration"
        ties = len(about.get("tied", ()))
        others = "another" if ties == 1 else f"{ties} others"
        tied = f"ties with {others}" if ties else "no other ties with it"
        text = f"<p>Best on validation: {escape(chosen)}; {tied}.</p>"
    return "\n".join(
        [
            text,
            table(map_text(shown), ([cell(row, name) for name in shown] for row in rows)),
            _figures(folder),
            _about(folder / "sweep.json"),
        ]
    )


def _estimators(rows: Sequence[Row]) -> str:
    """Bias, variance and cosine of each estimator: what changes the encoder, at the last point."""
    over = "step" if rows and "step" in rows[0] else "logit"
    groups = {row.get("group") for row in rows}
    group = next((one for one in ("classifier", "encoder", "maps_0") if one in groups), "all")
    kept = [row for row in rows if row.get("group") == group and row["at"] == "schedule"]
    columns = {
        over: over, "estimator": "estimator", "temperature": "temperature",
        "bias": "bias / |gradient|", "variance": "variance / |gradient|²",
        "cosine": "cosine of one estimate", "evaluations": "evaluations of f",
        "relative_time": "time / that of gumbel_softmax",
    }  # fmt: skip
    text = (
        f'<p class="quiet">Gradient with respect to {escape(str(group))}, at the temperature of '
        "the schedule. Bias and variance: lower is better; cosine: higher.</p>"
    )
    cells = ([escape(number(row.get(name))) for name in columns] for row in kept)
    return text + table(map_text(list(columns.values())), cells)


# --- runs ------------------------------------------------------------------------------------


def _read_run(folder: Path) -> tuple[Run, list[dict[str, Any]]]:
    """The run of its own folder, or one that ``scripts.collect`` copied; and its starts."""
    if (folder / "result.json").is_file():
        return read_run(folder), read_json(folder / "provenance.json")
    path = folder / "run.json"
    about = read_json(path)
    check(about, {"config": "an object", "result": "an object"}, str(path))
    starts = about.get("provenance")
    if not isinstance(starts, list) or not starts:
        raise RecordError(f"{path}: field 'provenance': expected a list of starts")
    curve = folder / "curve.csv"  # a published model has none
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in (read_csv(curve) if curve.is_file() else [])
    ]
    return checked(about["config"], about["result"], rows, starts[-1], str(path)), starts


def _all_runs(runs: dict[Path, Run]) -> str:
    """A line for each run."""
    metrics = collections.Counter(
        name for run in runs.values() for name in run.result if name.startswith(("test/", "valid/"))
    )
    # Those of the test set first, and of these what most runs have: a screen cuts a wide table.
    names = sorted(metrics, key=lambda name: (not name.startswith("test/"), -metrics[name], name))
    header = ["run", "task", "estimator", "data", "seed", "steps", "selected step", *names, "s"]
    rows = []
    for folder, run in runs.items():
        result = run.result
        values = [result.get("selected_step"), *(result.get(name) for name in names)]
        rows.append(
            [
                escape(folder.name), escape(run.task), f"<code>{escape(run.estimator)}</code>",
                escape(str(result.get("dataset") or "")), str(run.seed), number(run.steps),
                *(number(value) for value in values), number(round(result.get("seconds", 0))),
            ]
        )  # fmt: skip
    return table(map_text(header), rows)


_BETTER = {"nll": "lower is better", "accuracy": "higher is better", "cost": "lower is better"}
_UNITS = {"nll": "nats per example", "rate": "nats per example"}
_DRAWN = ("learning_curve",)
"""Figures of earlier versions that the charts of the page stand for."""


def _run(run: Run, starts: Sequence[dict[str, Any]], folder: Path, curves: paper.Curves) -> str:
    """The numbers, curves and pictures of a run, its configuration and provenance."""
    metrics = [name for name in run.result if name.startswith(("test/", "valid/"))]
    values = ", ".join(f"{escape(name)} {number(run.result[name])}" for name in metrics)
    step = run.result.get("selected_step", run.steps)
    parts = [f"<p>{values}, at the selected step {number(step)} of {number(run.steps)}.</p>"]
    names = dict.fromkeys(n for row in run.rows for n in row if n.startswith("valid/"))
    for name in names:
        metric = name.removeprefix("valid/")
        series = [_along(run, name, "validation")]
        if metric == "nll":
            series += [_along(run, "curve/nll", "test images"), *_published(run, curves)]
        if (tested := run.result.get(f"test/{metric}")) is not None:
            series.insert(1, Series(f"test: {number(tested)}", [step], [tested]))
        about = ", ".join(filter(None, (_UNITS.get(metric), _BETTER.get(metric))))
        label = f"{metric} ({about})" if about else metric
        parts.append(chart(series, "step", label, whole=metric != "nll"))
    parts.append(chart([_along(run, "loss", "training")], "step", "training loss"))
    annealed = [n for n in ("temperature", "learned/temperature") if any(n in r for r in run.rows)]
    parts.append(chart([_along(run, n, n) for n in annealed], "step", "temperature", whole=True))
    pictures = folder / "figures" if (folder / "figures").is_dir() else folder
    drawn = (*_DRAWN, *(name.removeprefix("valid/") for name in names), "loss", "temperature")
    parts.append(_figures(pictures, skip=drawn))
    parts.append(folded("configuration", _fields(run.config)))
    parts += [
        folded(f"provenance, start {place}", _fields(start))
        for place, start in enumerate(starts, 1)
    ]
    return "\n".join(filter(None, parts))


def _along(run: Run, name: str, label: str) -> Series:
    rows = [row for row in run.rows if row.get(name) is not None]
    return Series(label, [row["step"] for row in rows], [row[name] for row in rows])


def _published(run: Run, curves: paper.Curves) -> list[Series]:
    """The paper's test curve of the same task and estimator, up to the end of the run."""
    try:
        steps, nats = curves[table1.task(run), run.estimator]
    except (KeyError, RecordError):  # a task that the paper does not have
        return []
    kept = [(step, value) for step, value in zip(steps, nats, strict=True) if step <= run.steps]
    return [Series("the paper, test", [s for s, _ in kept], [v for _, v in kept], dashed=True)]
