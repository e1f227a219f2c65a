"""The outcome of a sweep: runs its points, reports lines, a table, a figure and the best point."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import figures
from experiments.reporting.statistics import Mean, mean, standard_errors_needed
from experiments.running.terminal import Progress, say
from experiments.storage.files import write_csv, write_json
from experiments.storage.provenance import provenance
from experiments.sweeping import jobs, points, workers
from experiments.sweeping.jobs import Outcome
from experiments.sweeping.points import Point


def run(
    listed: Sequence[Point],
    workdir: Path,
    place: workers.Workers | None,
    *,
    name: str = "sweep",
    together: int = 1,
    retries: int = 0,
) -> list[Outcome]:
    """Run points; table ``NAME.csv``, figure ``NAME.png``, best point and ``NAME.json``.

    Args:
      listed: the points; those that are finished are not run again.
      workdir: folder of the sweep.
      place: where jobs run; None: in this process.
      name: of what is written.
      together: points of one program at most.
      retries: times that a killed job is started again.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    names = points.swept(listed)
    # The first of each is trained for all that are the same run: one that is finished, if any is.
    runs = {
        same[0].hash: same
        for same in (
            sorted(group, key=lambda point: jobs.result_of(workdir, point) is None)
            for group in points.runs(listed)
        )
    }
    run_of = {point.hash: trained for trained, same in runs.items() for point in same}
    in_order = {point.hash: i for i, point in enumerate(listed)}
    number = f", {place.number} at a time" if place else ""
    say(f"{name}: {len(listed)} points, {len(runs)} runs{number}, in {workdir}")
    compares = len(runs) == len(listed) or len(runs) > len({point.config.seed for point in listed})
    if compares:
        for same in runs.values():
            if len(same) > 1:
                say(_about_same(same, names))
    else:
        say(_about_nothing(name, listed[0]))

    trained = [same[0] for same in runs.values()]
    outcomes: list[Outcome] = []
    left = _Left(workdir, trained)
    for outcome in each(trained, workdir, place, together, retries, left.show):
        same = runs[outcome.point.hash]
        outcomes += [outcome._replace(point=point) for point in same]
        others = f" and {len(same) - 1} more of the same run" if len(same) > 1 else ""
        what = _fields(outcome.point, points.concerning(outcome.point, names)) + others
        say(f"{len(outcomes)}/{len(listed)}  {what}: {_validation(outcome)}")
        left.ended(outcome)
        # In the order of the sweep, whichever ended first: so ties are always broken alike.
        outcomes.sort(key=lambda one: in_order[one.point.hash])
        rows = [_row(one, names, run_of[one.point.hash]) for one in outcomes]
        configurations = _configurations(outcomes, names)
        write_csv(workdir / f"{name}.csv", [*rows, *map(_summary, configurations)], digits=6)
    left.close()

    about = {"provenance": provenance(), "swept": names, "points": len(listed)}
    ranked = _ranked(configurations)
    if ranked and compares:
        best = ranked[0]
        own = run_of[best.point.hash]
        rest = [one for one in ranked[1:] if run_of[one.point.hash] != own]
        tied = [one for one in rest if not best.clearly_better(one)]
        winner = _summary(best) | _tested(best)
        about |= {"best": winner, "tied": [_summary(one) for one in tied]}
        _print_best(best, tied, len(rest), runs, run_of, workdir)
        for one in best.outcomes:  # of the others no number of the test set is in the table
            rows[outcomes.index(one)] |= _of_split(one, "test/")
        shown = [winner if one is best else _summary(one) for one in configurations]
        write_csv(workdir / f"{name}.csv", [*rows, *shown], digits=6)
    elif ranked:
        print(_about_nothing(name, listed[0]))
    write_json(workdir / f"{name}.json", about)
    print(f"table: {workdir / f'{name}.csv'}")
    if ranked:  # last, when all else is on disk
        figure = workdir / f"{name}.png"
        figures.draw_sweep(
            [_summary(one) for one in ranked],
            [name for name in names if name != "seed"],
            listed[0].config.select,
            ranked[0].maximize,
            figure,
        )
        print(f"figure: {figure}")
    return outcomes


def each(
    trained: Sequence[Point],
    workdir: Path,
    place: workers.Workers | None,
    together: int,
    retries: int,
    look: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """How points end: those that are finished at once, the others as they come; nothing written."""
    waiting = []
    for point in trained:
        if (result := jobs.result_of(workdir, point)) is not None:
            yield Outcome(point, result)
        else:
            waiting.append(point)
    cut = list(points.jobs(waiting, together))
    if place:
        yield from jobs.run(cut, workdir, place, retries, look)
    else:
        yield from jobs.run_here(cut, workdir)


class _Left:
    """The steps that are left and the time that they take, by the speed of this sweep so far."""

    def __init__(self, workdir: Path, trained: Sequence[Point]):
        self._workdir, self._number = workdir, len(trained)
        self._running = {point.hash: point for point in trained}
        self._total = sum(point.config.num_steps for point in trained)
        self._looked = time.monotonic()
        self._progress = Progress(self._done(), self._total, every=60)

    def _done(self) -> int:
        return self._total - sum(
            max(0, point.config.num_steps - jobs.steps_of(self._workdir, point))
            for point in self._running.values()
        )

    def show(self) -> None:
        """Show them, at most every ten seconds."""
        if time.monotonic() - self._looked > 10:
            self._looked = time.monotonic()
            ended = self._number - len(self._running)
            self._progress.show(self._done(), {"runs ended": f"{ended}/{self._number}"})

    def ended(self, outcome: Outcome) -> None:
        """One run has ended."""
        del self._running[outcome.point.hash]
        self.show()

    def close(self) -> None:
        """The sweep has ended."""
        self._progress.close()


# --- by configuration ------------------------------------------------------------------------


class _Configuration(NamedTuple):
    """The outcomes of one configuration, one for each seed."""

    names: Sequence[str]
    """The swept fields."""
    outcomes: list[Outcome]

    @property
    def point(self) -> Point:
        return self.outcomes[0].point

    @property
    def label(self) -> str:
        names = [name for name in points.concerning(self.point, self.names) if name != "seed"]
        return _fields(self.point, names) if names else "the one configuration"

    @property
    def failed(self) -> int:
        """Seeds without a finite metric to choose by."""
        return sum(cost(one) is None for one in self.outcomes)

    @property
    def maximize(self) -> bool:
        return any((one.result or {}).get("maximize", False) for one in self.outcomes)

    def mean(self, metric: str) -> Mean | None:
        """Over the seeds that have it."""
        values = [_metrics(one).get(metric) for one in self.outcomes]
        known = [value for value in values if value is not None]
        return mean(known) if known else None

    @property
    def selected(self) -> Mean | None:
        """The metric that chooses."""
        return self.mean(f"valid/{self.point.config.select}")

    def clearly_better(self, other: "_Configuration") -> bool:
        """Whether by more than chance, see :class:`Mean`."""
        ours, theirs = self.selected, other.selected
        if ours is None or theirs is None:
            return theirs is None
        return ours.clearly_above(theirs) if self.maximize else theirs.clearly_above(ours)


def _configurations(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[_Configuration]:
    """The outcomes by what is swept beside the seed, in the order of the sweep."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        fields = [one.point.field(name) for name in names if name != "seed"]
        found.setdefault(json.dumps(fields), []).append(one)
    return [_Configuration(names, of_each) for of_each in found.values()]


def _ranked(configurations: Sequence[_Configuration]) -> list[_Configuration]:
    """Those that have a value, the best first.

    One that failed with some seed comes after all that did not: the seeds that are left flatter it.
    """

    def rank(one: _Configuration) -> tuple[int, float]:
        value = one.selected.value if one.selected else 0.0
        return one.failed, -value if one.maximize else value

    return sorted((one for one in configurations if one.selected is not None), key=rank)


def _summary(one: _Configuration) -> dict[str, Any]:
    """The row of a configuration: means over seeds on validation, with standard errors."""
    metrics = [n for outcome in one.outcomes for n in _of_split(outcome, "valid/")]
    row: dict[str, Any] = {"level": "configuration"}
    row |= {name: one.point.field(name) for name in one.names if name != "seed"}
    return row | _means(one, metrics) | {
        "seeds": len(one.outcomes) - one.failed, "failed": one.failed, "config_hash": one.point.hash
    }  # fmt: skip


def _tested(one: _Configuration) -> dict[str, Any]:
    """The same of the test set."""
    return _means(one, [n for outcome in one.outcomes for n in _of_split(outcome, "test/")])


def _means(one: _Configuration, metrics: Iterable[str]) -> dict[str, Any]:
    found = {name: one.mean(name) for name in dict.fromkeys(metrics)}
    known = {name: value for name, value in found.items() if value is not None}
    means = {name: value.value for name, value in known.items()}
    return means | {f"{name}_stderr": value.error for name, value in known.items()}


def cost(outcome: Outcome) -> float | None:
    """What choices minimise: the selected metric on validation, negative where higher is better.

    None of a point that failed, or whose metric is not finite: it is not chosen.
    """
    value = _metrics(outcome).get(f"valid/{outcome.point.config.select}")
    if value is None or outcome.result is None:
        return None
    return -value if outcome.result["maximize"] else value


def _metrics(outcome: Outcome) -> dict[str, float | None]:
    """The metrics of validation and test, by name."""
    result = outcome.result or {}
    return {name: result[name] for name in result if name.startswith(("valid/", "test/"))}


def _of_split(outcome: Outcome, split: str) -> dict[str, float | None]:
    return {name: value for name, value in _metrics(outcome).items() if name.startswith(split)}


def _row(outcome: Outcome, names: Sequence[str], trained: str) -> dict[str, Any]:
    """The row of a run: the swept fields, then how it ended on validation."""
    point, result = outcome.point, outcome.result or {}
    return {
        "level": "run",
        **{name: point.field(name) for name in names},
        **_of_split(outcome, "valid/"),
        "steps": result.get("steps"),
        "selected_step": result.get("selected_step"),
        "steps_per_second": result.get("steps_per_second"),
        "seconds": result.get("seconds"),
        "config_hash": point.hash,
        "same_run_as": "" if trained == point.hash else trained,
        "error": outcome.error,
    }


# --- in words --------------------------------------------------------------------------------


def _fields(point: Point, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={point.field(name)}" for name in names) or "the point"


def _validation(outcome: Outcome) -> str:
    """How a point ended, without a look at the test set: choices are not made by it."""
    select = f"valid/{outcome.point.config.select}"
    value = _metrics(outcome).get(select)
    return outcome.error or f"{select} {'is not finite' if value is None else f'{value:.5g}'}"


_SHOWN_TIES = 5


def _print_best(
    best: _Configuration,
    tied: Sequence[_Configuration],
    compared: int,
    runs: Mapping[str, Sequence[Point]],
    run_of: Mapping[str, str],
    workdir: Path,
) -> None:
    """The configuration that is best on validation, its numbers, and what ties with it.

    Args:
      best: the configuration.
      tied: others that cannot be told from it, of other runs.
      compared: number of all others, of other runs.
      runs: the points of each run, by the hash of the first of them.
      run_of: that hash, by the hash of a point.
      workdir: folder of the sweep.
    """
    chosen = [one for one in best.outcomes if cost(one) is not None]
    seeds = f" ({len(chosen)} seeds)" if len(chosen) > 1 else ""
    print(f"best on validation: {best.label}{seeds}")
    same = runs[run_of[best.point.hash]]
    if len(same) > 1:
        own = points.swept(same)
        others = [_fields(point, own) for point in same if point.hash != best.point.hash]
        print(f"  the same run as {len(others)} more: {'; '.join(others)}")
    select = f"valid/{best.point.config.select}"
    tested = [name for name in _tested(best) if not name.endswith("_stderr")]
    print(f"  {', '.join(f'{name} {_text(best.mean(name))}' for name in (select, *tested))}")
    if tied:
        print(f"  {_about_ties(best, tied, compared)}")
    elif compared:
        print("  clearly better than all others (docs/sweeps.md)")
    for one in chosen:
        print(f"  {jobs.folder(workdir, runs[run_of[one.point.hash]][0])}")


def _about_ties(best: _Configuration, tied: Sequence[_Configuration], others: int) -> str:
    """What cannot be distinguished from the best, of so many others."""
    fewest = min(one.selected.seeds if one.selected else 1 for one in (best, *tied))
    why = "with one seed, no difference is known to be more than chance"
    if fewest > 1:
        why = f"within {standard_errors_needed(fewest):g} standard errors of the difference"
    shown = "; ".join(f"{one.label}: {_text(one.selected)}" for one in tied[:_SHOWN_TIES])
    more = f"; and {len(tied) - _SHOWN_TIES} more" if len(tied) > _SHOWN_TIES else ""
    return f"ties with {len(tied)} of {others} others ({why}): {shown}{more}"


def _text(value: Mean | None) -> str:
    """A mean, with its standard error where it has one."""
    if value is None:
        return "not finite"
    return f"{value.value:.5g}" + (f" ± {value.error:.2g}" if value.error is not None else "")


def _about_same(same: Sequence[Point], names: Sequence[str]) -> str:
    own = points.swept(same)
    common = [name for name in names if name not in own]
    where = f" with {_fields(same[0], common)}" if common else ""
    each = "; ".join(_fields(point, own) for point in same)
    return f"{len(same)} points{where} {_sameness(same[0])} and are trained once: {each}"


def _sameness(point: Point) -> str:
    if read := points.schedules_read(point):
        return f"have the same {' and '.join(read)} at every step"
    return f"differ in nothing that {point.config.estimator} reads"


def _about_nothing(name: str, point: Point) -> str:
    """Of a sweep that is one run for each seed, by one of its points."""
    why = f"all points of a seed {_sameness(point)} and are trained once"
    if not points.schedules_read(point):
        return f"the {name} has nothing to compare: {why}"
    steps = f"{point.config.num_steps:,} steps"
    return (
        f"{steps} are too few for the {name} to compare anything: {why}. Take more steps, or rates "
        "for the length of the run (PerRun of configs/sweeps)"
    )
