"""What a sweep makes of its points: it runs them, and tells a line, a table, a figure, the best."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import figures, jobs, points, rundir, workers
from experiments.console import say
from experiments.jobs import Outcome
from experiments.points import Point


def run(
    listed: Sequence[Point],
    workdir: Path,
    place: workers.Workers | None,
    *,
    name: str = "sweep",
    maximize: str = "",
    together: int = 1,
    retries: int = 0,
) -> list[Outcome]:
    """Run points; table ``NAME.csv``, figure ``NAME.png``, best point and ``NAME.json``.

    Args:
      listed: the points; those that are finished are not run again.
      workdir: folder of the sweep.
      place: where jobs run; None: in this process.
      name: of what is written.
      maximize: the measure that chooses the best; "": the bound.
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
    tells = len(runs) == len(listed) or len(runs) > len({point.config.seed for point in listed})
    if tells:
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
        rows = [_row(one, names, maximize, run_of[one.point.hash]) for one in outcomes]
        write_table(rows, workdir / f"{name}.csv")

    about = {"provenance": rundir.provenance(), "swept": names, "points": len(listed)}
    costs = {
        i: value for i, one in enumerate(outcomes) if (value := cost(one, maximize)) is not None
    }
    if costs:
        figures.draw_sweep([rows[i] for i in costs], names, workdir / f"{name}.png")
        best = min(costs, key=lambda i: costs[i])
        if tells:
            about["best"] = rows[best]
            _tell_best(outcomes[best], names, runs[run_of[outcomes[best].point.hash]], workdir)
        else:
            print(_about_nothing(name, listed[0]))
        print(f"figure: {workdir / f'{name}.png'}")
    rundir.write_atomically(workdir / f"{name}.json", json.dumps(about, indent=1) + "\n")
    print(f"table: {workdir / f'{name}.csv'}")
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


def cost(outcome: Outcome, maximize: str) -> float | None:
    """What choices minimise: the negative validation bound, or minus the measure named.

    None of a point that failed, or that has no such number: it is not chosen.
    """
    if not maximize:
        return valid_nats(outcome)
    value = (outcome.result or {}).get(maximize)
    return None if value is None else -value


def valid_nats(outcome: Outcome) -> float | None:
    """The negative bound on validation; None of a point that failed."""
    samples = outcome.point.config.evaluation.valid_samples
    return (outcome.result or {}).get(f"valid_nll_m{samples}")


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """``sweep.csv``, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: f"{value:.6g}" if isinstance(value, float) else value
                for name, value in row.items()
            }
        )
    rundir.write_atomically(path, text.getvalue())


def _row(outcome: Outcome, names: Sequence[str], maximize: str, trained: str) -> dict[str, Any]:
    """A row of the table: the swept fields, then how it ended."""
    point, result = outcome.point, outcome.result or {}
    return {
        **{name: point.field(name) for name in names},
        **({maximize: result.get(maximize)} if maximize else {}),
        "valid_nats": valid_nats(outcome),
        "test_nats": _test_nats(outcome),
        "steps": result.get("steps"),
        "selected_step": result.get("selected_step"),
        "steps_per_second": result.get("steps_per_second"),
        "seconds": result.get("seconds"),
        "config_hash": point.hash,
        "same_run_as": "" if trained == point.hash else trained,
        "error": outcome.error,
    }


def _test_nats(outcome: Outcome) -> float | None:
    samples = outcome.point.config.evaluation.test_samples
    return (outcome.result or {}).get(f"test_nll_m{samples}")


# --- in words --------------------------------------------------------------------------------


def _fields(point: Point, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={point.field(name)}" for name in names) or "the point"


def _validation(outcome: Outcome) -> str:
    """How a point ended, without a look at the test set: choices are not made by it."""
    return outcome.error or f"validation {valid_nats(outcome):.2f} nats"


def _tell_best(best: Outcome, names: Sequence[str], same: Sequence[Point], workdir: Path) -> None:
    test = "" if (nats := _test_nats(best)) is None else f", test {nats:.2f}"
    print(f"best on validation: {_fields(best.point, names)}")
    if len(same) > 1:
        own = points.swept(same)
        others = [_fields(point, own) for point in same if point.hash != best.point.hash]
        print(f"  the same run as {len(others)} more: {'; '.join(others)}")
    print(f"  {_validation(best).replace(' nats', '')}{test} nats")
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
        return f"the {name} cannot tell anything: {why}"
    steps = f"{point.config.num_steps:,} steps"
    return (
        f"{steps} are too few for the {name} to tell anything: {why}. Take more steps, or rates "
        "for the length of the run (PerRun of configs/sweeps)"
    )
