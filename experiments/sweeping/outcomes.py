"""The outcome of a sweep: runs its points, reports lines, a table, a figure and the best point."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import figures
from experiments.running.terminal import say
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

    outcomes: list[Outcome] = []
    for outcome in _outcomes(
        [same[0] for same in runs.values()], workdir, place, together, retries
    ):
        same = runs[outcome.point.hash]
        outcomes += [outcome._replace(point=point) for point in same]
        others = f" and {len(same) - 1} more of the same run" if len(same) > 1 else ""
        what = _fields(outcome.point, names) + others
        say(f"{len(outcomes)}/{len(listed)}  {what}: {_validation(outcome)}")
        # In the order of the sweep, whichever ended first: so ties are always broken alike.
        outcomes.sort(key=lambda one: in_order[one.point.hash])
        rows = [_row(one, names, run_of[one.point.hash]) for one in outcomes]
        write_csv(workdir / f"{name}.csv", rows, digits=6)

    about = {"provenance": provenance(), "swept": names, "points": len(listed)}
    costs = {i: value for i, one in enumerate(outcomes) if (value := cost(one)) is not None}
    if costs and compares:
        best = min(costs, key=lambda i: costs[i])
        about["best"] = rows[best]
        _print_best(outcomes[best], names, runs[run_of[outcomes[best].point.hash]], workdir)
    elif costs:
        print(_about_nothing(name, listed[0]))
    write_json(workdir / f"{name}.json", about)
    print(f"table: {workdir / f'{name}.csv'}")
    if costs:  # last, when all else is on disk
        figure = workdir / f"{name}.png"
        figures.draw_sweep([rows[i] for i in costs], names, listed[0].config.select, figure)
        print(f"figure: {figure}")
    return outcomes


def _outcomes(
    trained: Sequence[Point],
    workdir: Path,
    place: workers.Workers | None,
    together: int,
    retries: int,
) -> Iterator[Outcome]:
    """How points end: those that are finished at once, the others as they come."""
    waiting = []
    for point in trained:
        if (result := jobs.result_of(workdir, point)) is not None:
            yield Outcome(point, result)
        else:
            waiting.append(point)
    cut = list(points.jobs(waiting, together))
    yield from jobs.run(cut, workdir, place, retries) if place else jobs.run_here(cut, workdir)


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


def _row(outcome: Outcome, names: Sequence[str], trained: str) -> dict[str, Any]:
    """A row of the table: the swept fields, then how it ended."""
    point, result = outcome.point, outcome.result or {}
    return {
        **{name: point.field(name) for name in names},
        **_metrics(outcome),
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


def _print_best(best: Outcome, names: Sequence[str], same: Sequence[Point], workdir: Path) -> None:
    of_test = {k: v for k, v in _metrics(best).items() if k.startswith("test/")}
    tested = "".join(f", {name} {value:.5g}" for name, value in of_test.items())
    print(f"best on validation: {_fields(best.point, names)}")
    if len(same) > 1:
        own = points.swept(same)
        others = [_fields(point, own) for point in same if point.hash != best.point.hash]
        print(f"  the same run as {len(others)} more: {'; '.join(others)}")
    print(f"  {_validation(best)}{tested}")
    print(f"  {jobs.folder(workdir, same[0])}")


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
