"""What a table is: a description, and the cells that it chooses among finished runs.

A table groups runs by column, row and number of steps. In each group, the configuration of best
mean validation metric makes a cell, whose measures are means over its seeds. A description
(:class:`Table`) says which runs belong, what the keys and the measures are, which published values
stand beside them, and which files and figures come out; ``table1.py`` and ``table2.py`` are two.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.reporting.offers import Offers
from experiments.reporting.statistics import Mean, mean
from experiments.storage.records import Run

Row = dict[str, Any]
"""A row of a CSV file."""


class Cell(NamedTuple):
    """What validation chose for one column, row and number of steps."""

    column: str
    row: str
    runs: list[Run]
    """The runs of the chosen configuration, one for each seed."""
    rivals: list[Run]
    """All runs that the choice was made from."""
    other_settings: str = ""
    """How its settings differ from what most of its column were offered; "": in nothing."""

    @property
    def steps(self) -> int:
        return self.runs[0].steps

    @property
    def minutes(self) -> float:
        """Training and tests of one seed, the mean."""
        return mean([run.value("seconds") / 60 for run in self.runs]).value

    def field(self, name: str) -> Any:
        """A field of its configuration."""
        return self.runs[0].field(name)

    @property
    def config_hash(self) -> str:
        """The hash of its first seed's configuration, by which the files know the cell."""
        return self.runs[0].config_hash


def is_on_mnist(run: Run) -> bool:
    """Whether a run is on the images of all published values, or has no data at all."""
    return run.config.get("data.name", "mnist") in ("mnist", "binarized_mnist")


Reference = Callable[[str, str, int], float | None]
"""The published value at a column, row and number of steps; None where there is none."""


def published(values: Mapping[tuple[str, str], float]) -> Reference:
    """Published values by column and row that hold whatever the number of steps is.

    >>> published({("c", "exact"): 92.6})("c", "exact", 100)
    92.6
    """
    return lambda column, row, steps: values.get((column, row))


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that a cell shows: the mean over its seeds of one metric of the result."""

    field: str
    """The metric, as in "test/nll"."""
    scale: float = 1.0
    """Times the metric: -1 for a bound, 100 for per cent."""
    higher_is_better: bool = False
    """Concerns the scaled number."""
    digits: int = 2
    """Digits after the point in Markdown."""
    nats: bool = True
    """Whether it is in nats, of which one seed cannot order differences of less than 1."""
    reference: Reference = lambda column, row, steps: None

    def values(self, runs: Sequence[Run]) -> list[float]:
        """The scaled metric of each run."""
        return [self.scale * run.value(self.field) for run in runs]

    def mean(self, cell: Cell) -> Mean:
        return mean(self.values(cell.runs))

    def value(self, cell: Cell) -> float:
        return self.mean(cell).value

    def error(self, cell: Cell) -> float | None:
        """The standard error of the mean; None for one seed."""
        return self.mean(cell).error

    def published(self, cell: Cell) -> float | None:
        """The published value; None of runs on other data than published ones."""
        if not is_on_mnist(cell.runs[0]):
            return None
        return self.reference(cell.column, cell.row, cell.steps)

    def best(self, cell: Cell) -> float:
        """The best of all runs that the choice was made from."""
        return (max if self.higher_is_better else min)(self.values(cell.rivals))

    def is_clearly_better(self, cell: Cell, other: Cell) -> bool:
        """Whether a cell is better by more than chance, see :class:`Mean`."""
        one, two = self.mean(cell), self.mean(other)
        return one.clearly_above(two) if self.higher_is_better else two.clearly_above(one)

    def rank(self, runs: Sequence[Run]) -> float:
        """The mean with the best first in ascending order; NaN comes last."""
        value = mean(self.values(runs)).value
        value = -value if self.higher_is_better else value
        return value if value == value else float("inf")


class Block(NamedTuple):
    """A part of a table as it is shown: Markdown texts, of which HTML is made as well."""

    above: Sequence[str]
    """Lines above it."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: Sequence[str] = ()
    """Lines below it; one that starts with "* " is an item of a list."""


class Point(NamedTuple):
    """A point of a learning curve, of which a CSV file has a row."""

    run: Run
    at: Row
    """The row of metrics.jsonl."""
    tested: Row
    """The row of the step whose parameters were tested; empty where there is none."""
    cell: str | None
    """The hash of the cell that the run is a seed of; None for one that was not chosen."""


@dataclasses.dataclass(frozen=True)
class Along:
    """A metric along training: a column of the learning curves."""

    field: str
    scale: float = 1.0
    tested: str = ""
    """The metric of the result that the curve passes through at the tested step. ``field``, which
    concerns only a part of the same images, is moved by its difference to that metric there."""

    def __call__(self, point: Point) -> float | None:
        value = point.at.get(self.field)
        if self.tested and self.tested in point.run.result:
            tested, there = point.run.value(self.tested), point.tested.get(self.field)
            if point.at is point.tested:
                value = tested
            else:
                value = None if value is None or there is None else value - there + tested
        return None if value is None else self.scale * value


@dataclasses.dataclass(frozen=True)
class Table:
    """The description of a table."""

    name: str
    """The files are NAME.csv, NAME.md, NAME.html and NAME.json."""
    title: str
    """The title of the HTML page."""
    belongs: Callable[[Run], bool]
    column: Callable[[Run], str]
    row: Callable[[Run], str]
    titles: Mapping[str, str]
    """The columns in their order, and how they are shown. Other columns come after them."""
    order: Callable[[Iterable[str]], list[str]]
    """The row keys, each once, in the order of the table."""
    choice: Measure
    """By what the configuration of a cell is chosen: a metric on validation."""
    measures: tuple[Measure, ...]
    """What the table shows. A run without any of them is a pilot."""
    csv: Mapping[str, Callable[[Cell], Any]]
    """The columns of NAME.csv."""
    layout: Callable[["Table", Sequence[Cell]], list[Block]]
    """What is shown, as :class:`experiments.reporting.layouts.Grid` lays it out."""
    pilots: Mapping[str, Callable[[Run], Any]] = dataclasses.field(default_factory=dict)
    """The columns of the pilots' CSV file; one is "config_hash"."""
    pilots_order: tuple[str, ...] = ()
    """The columns that the pilots are sorted by."""
    pilots_file: str = ""
    curves: Mapping[str, Callable[[Point], Any]] = dataclasses.field(default_factory=dict)
    """The columns of the learning curves' CSV file; "run" and "step" are two of them, so that a
    later report can read the curves back."""
    curves_metric: str = ""
    """The metric that a row of metrics.jsonl needs to be a point; "": that of the choice."""
    curves_file: str = ""
    offers: Offers | None = None
    """Where given, cells that were offered other settings than their column are set apart."""
    digits: int = 4
    """Significant digits of the CSV files."""
    decimals: int | None = None
    """Digits after the point in the CSV files at most, instead of ``digits``."""
    draw: Callable[[Sequence[Row], Sequence[Row], Path], list[Path]] = lambda *_: []
    """Draws the figures from the rows of NAME.csv and of the curves into a folder."""

    def is_tested(self, run: Run) -> bool:
        """Whether a run has what the table shows; others are pilots."""
        return all(measure.field in run.result for measure in self.measures)

    def cells(self, runs: Iterable[Run], pilots: Sequence[Row] = ()) -> list[Cell]:
        """For each column, row and number of steps the choice of best mean validation metric.

        Configurations are compared on the seeds that all of them have, where there are such: two
        seeds may differ by more than two configurations. Where the choice has settings that most
        of its column were not offered, the best choice without such is a second cell beside it, if
        there is one.

        Args:
          runs: finished runs; pilots among them are left out.
          pilots: rows of the pilots' CSV file, which say what else was tried.

        Raises:
          RecordError: a run lacks the metric that the choice goes by.
        """
        groups: dict[tuple[str, int], dict[str, list[Run]]] = {}
        for run in sorted(filter(self.is_tested, runs), key=lambda run: run.seed):
            of_column = groups.setdefault((self.column(run), run.steps), {})
            of_column.setdefault(self.row(run), []).append(run)
        cells = []
        rows = {row for of_rows in groups.values() for row in of_rows}
        for (column, _), of_rows in groups.items():
            differences = self._differences(column, of_rows, rows, pilots)
            for row, rivals in of_rows.items():
                of_config: dict[str, list[Run]] = {}
                for run in rivals:
                    of_config.setdefault(run.settings, []).append(run)
                common = set.intersection(*({r.seed for r in runs} for runs in of_config.values()))
                ranked = [
                    Cell(column, row, seeds, rivals, differences(row, seeds[0]))
                    for seeds in sorted(of_config.values(), key=self._rank(common))
                ]
                equal = [cell for cell in ranked if not cell.other_settings]
                cells += [ranked[0], *equal[:1]] if ranked[0].other_settings else ranked[:1]
        order = self.order(cell.row for cell in cells)
        columns = list(dict.fromkeys([*self.titles, *sorted({cell.column for cell in cells})]))
        return sorted(
            cells,
            key=lambda cell: (
                columns.index(cell.column),
                order.index(cell.row),
                bool(cell.other_settings),
                cell.steps,
            ),
        )

    def _rank(self, common: set[int]) -> Callable[[list[Run]], float]:
        """The rank of a configuration's runs, among the common seeds where there are any."""
        return lambda runs: self.choice.rank(
            [run for run in runs if not common or run.seed in common]
        )

    def _differences(
        self, column: str, of_rows: Mapping[str, list[Run]], rows: set[str], pilots: Sequence[Row]
    ) -> Callable[[str, Run], str]:
        if (offers := self.offers) is None:
            return lambda row, run: ""
        rows = rows | offers.rows
        of_column = [
            pilot
            for pilot in pilots
            if pilot[offers.pilot_column] == column and pilot[offers.pilot_row] in rows
        ]
        return offers.differences(of_rows, of_column)

    def csv_rows(self, cells: Iterable[Cell]) -> list[Row]:
        """The rows of NAME.csv."""
        return [{name: of(cell) for name, of in self.csv.items()} for cell in cells]

    def curve_rows(self, runs: Iterable[Run], cells: Iterable[Cell]) -> list[Row]:
        """The rows of the learning curves: where the runs have the metric of the curves.

        There are none where the table keeps no curves.
        """
        if not self.curves:
            return []
        cell_of = {(run.config_hash, run.seed): cell for cell in cells for run in cell.runs}
        rows = []
        for run in runs:
            metric = self.curves_metric or self.choice.field
            evaluated = [row for row in run.rows if row.get(metric) is not None]
            cell = cell_of.get((run.config_hash, run.seed))
            step = run.result.get("selected_step", run.steps)
            tested = next((row for row in evaluated if row["step"] == step), {})
            for row in evaluated:
                point = Point(run, row, tested, cell and cell.config_hash)
                rows.append({name: of(point) for name, of in self.curves.items()})
        return rows

    def rows_of_curve(self, curve: Iterable[Row]) -> list[Row]:
        """The rows of metrics.jsonl that rows of the learning curves were made from."""
        metrics = {name: of for name, of in self.curves.items() if isinstance(of, Along)}
        return [
            {"step": row["step"]}
            | {
                of.field: row[name] / of.scale
                for name, of in metrics.items()
                if row[name] is not None
            }
            for row in curve
        ]

    def pilot_row(self, run: Run) -> Row:
        """The row of a run in the pilots' CSV file; empty where the table keeps no pilots."""
        return {name: of(run) for name, of in self.pilots.items()}

    def pilot_rows(self, runs: Sequence[Run], pilots: Sequence[Row] = ()) -> list[Row]:
        """The rows of the pilots' CSV file: earlier ones, and those among the runs.

        There are none where the table keeps no pilots.
        """
        if not self.pilots:
            return []
        new = [self.pilot_row(run) for run in runs if not self.is_tested(run)]
        tested = {run.config_hash for run in runs if self.is_tested(run)}
        rows = {row["config_hash"]: row for row in [*pilots, *new]}
        kept = [row for config_hash, row in rows.items() if config_hash not in tested]
        return sorted(kept, key=lambda row: tuple(row[name] for name in self.pilots_order))
