"""What a sweep makes of its points: it runs them, and tells a line, a table, a figure, the best."""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
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
    number = f", {place.number} at a time" if place else ""
    say(f"{name}: {len(listed)} points{number}, in {workdir}")
    found = [(point, jobs.result_of(workdir, point)) for point in listed]
    waiting = list(points.jobs([point for point, result in found if result is None], together))
    going = jobs.run(waiting, workdir, place, retries) if place else jobs.run_here(waiting, workdir)
    finished = (Outcome(point, result) for point, result in found if result is not None)
    in_order = {point.hash: i for i, point in enumerate(listed)}
    outcomes: list[Outcome] = []
    for outcome in itertools.chain(finished, going):
        outcomes.append(outcome)
        row = _row(outcome, names, maximize)
        say(f"{len(outcomes)}/{len(listed)}  {_fields(row, names)}: {_validation(row)}")
        # In the order of the sweep, whichever ended first: so ties are always broken alike.
        outcomes.sort(key=lambda one: in_order[one.point.hash])
        rows = [_row(one, names, maximize) for one in outcomes]
        write_table(rows, workdir / f"{name}.csv")
    about = {"provenance": rundir.provenance(), "swept": names, "points": len(listed)}
    if done := [
        (value, row)
        for row, one in zip(rows, outcomes, strict=True)
        if (value := cost(one, maximize)) is not None
    ]:
        about["best"] = best = min(done, key=lambda one: one[0])[1]
        figures.draw_sweep([row for _, row in done], names, workdir / f"{name}.png")
        test = "" if best["test_nats"] is None else f", test {best['test_nats']:.2f} nats"
        print(f"best on validation: {_fields(best, names)}\n  {_validation(best)}{test}")
        print(f"  {workdir / 'points' / best['config_hash']}")
        print(f"figure: {workdir / f'{name}.png'}")
    rundir.write_atomically(workdir / f"{name}.json", json.dumps(about, indent=1) + "\n")
    print(f"table: {workdir / f'{name}.csv'}")
    return outcomes


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


def _row(outcome: Outcome, names: Sequence[str], maximize: str) -> dict[str, Any]:
    """A row of the table: the swept fields, then how it ended."""
    point, result = outcome.point, outcome.result or {}
    return {
        **{name: point.field(name) for name in names},
        **({maximize: result.get(maximize)} if maximize else {}),
        "valid_nats": valid_nats(outcome),
        "test_nats": result.get(f"test_nll_m{point.config.evaluation.test_samples}"),
        "steps": result.get("steps"),
        "selected_step": result.get("selected_step"),
        "steps_per_second": result.get("steps_per_second"),
        "seconds": result.get("seconds"),
        "config_hash": point.hash,
        "error": outcome.error,
    }


def _fields(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={row[name]}" for name in names) or "the point"


def _validation(row: Mapping[str, Any]) -> str:
    """How a point ended, without a look at the test set: choices are not made by it."""
    return row["error"] or f"validation {row['valid_nats']:.2f} nats"
