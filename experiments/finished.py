"""Finished runs: from their folders, or from what an earlier report kept of them."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs import defaults
from experiments import config as configuration
from experiments import rundir


class ReportError(Exception):
    """The folders cannot serve; the message says why."""


class Run(NamedTuple):
    """A finished run."""

    task: str
    config: dict[str, Any]
    result: dict[str, Any]
    rows: list[dict[str, Any]]
    provenance: dict[str, Any]

    @property
    def estimator(self) -> str:
        """Registry key, after the multi-sample objective if that is not its own."""
        objective, estimator = self.config.get("objective", "elbo"), self.config["estimator"]
        if objective == "elbo":
            return estimator
        own = estimator in ("score_function", "gumbel_softmax")
        return objective if own else f"{objective}_{estimator}"

    @property
    def name(self) -> tuple[str, str]:
        """Task and estimator."""
        return self.task, self.estimator

    @property
    def valid_nats(self) -> float:
        """Validation bound of the parameters that were tested."""
        return next(v for name, v in self.result.items() if name.startswith("valid_nll_"))

    @property
    def test_nats(self) -> float | None:
        """The reported bound; None of a pilot."""
        return next((v for name, v in self.result.items() if name.startswith("test_nll_")), None)


class Mean(NamedTuple):
    """A mean over seeds."""

    value: float
    error: float | None
    """The standard error of the mean; None of one seed."""
    seeds: int

    def clearly_above(self, other: "Mean") -> bool:
        """Whether it is greater by more than three standard errors of the difference.

        Of three seeds against three that is about the 5 % level of Student's t. With fewer than
        three seeds of either, nothing is clear.
        """
        if min(self.seeds, other.seeds) < 3:
            return False
        return self.value - other.value > 3 * math.hypot(self.error or 0, other.error or 0)


def mean(values: Sequence[float]) -> Mean:
    """The mean of one value for each seed."""
    several = len(values) > 1
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if several else None
    return Mean(float(np.mean(values)), error, len(values))


def load(folders: Sequence[Path]) -> list[Run]:
    """All finished runs of sweeps, pilots too, and the chosen runs of earlier reports, once each.

    Raises:
      ReportError: a folder holds no finished runs.
    """
    runs = []
    for folder in folders:
        paths = sorted(folder.glob("points/*/result.json"))
        runs += [_load_run(path.parent) for path in paths]
        reports = [folder / f"{table}.json" for table in ("table1", "table2")]
        for report in (path for path in reports if path.exists()):
            runs += _load_report(report)
        if not paths and not any(path.exists() for path in reports):
            raise ReportError(
                f"{folder} holds no finished runs of a sweep (points/*/result.json), and no report"
            )
    return list({(run.result["config_hash"], run.config["seed"]): run for run in runs}.values())


def load_pilots(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of pilots.csv of those folders that are earlier reports of Table 1, once each."""
    rows: dict[str, dict[str, Any]] = {}
    for path in (folder / "pilots.csv" for folder in folders):
        if path.exists() and (path.parent / "table1.json").exists():
            with path.open() as file:
                rows |= {row["config_hash"]: row for row in csv.DictReader(file)}
    return list(rows.values())


def load_classifier_pilots(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The pilots of those folders that are earlier reports of Table 2."""
    paths = (folder / "table2.json" for folder in folders)
    return [row for p in paths if p.exists() for row in json.loads(p.read_text())["pilots"]]


def kept(groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """What a report keeps of its runs, each group being the seeds of one config."""
    return {
        runs[0].result["config_hash"]: {
            "config": {name: v for name, v in runs[0].config.items() if name != "data.dir"},
            "seeds": {run.config["seed"]: run.result for run in runs},
            "provenance": rundir.portable(runs[0].provenance),  # of the first; all of them follow
            "provenances": {run.config["seed"]: rundir.portable(run.provenance) for run in runs},
        }
        for runs in groups
    }


def _load_report(path: Path) -> list[Run]:
    """The runs that a report chose, from what it kept of them."""
    curves = _read(path.parent / "curves.csv")
    of_classifiers = _read(path.parent / "table2_curves.csv")
    runs = []
    for entry in json.loads(path.read_text())["runs"].values():
        for seed, result in entry["seeds"].items():
            config = _completed(entry["config"] | {"seed": int(seed)})
            provenance = entry.get("provenances", {}).get(seed, entry["provenance"])
            run = Run(_task_of(config), config, result, [], provenance)
            valid = next(name for name in result if name.startswith("valid_nll_"))
            for row in curves:
                # A report of before the column "run" has one run for each estimator and seed.
                of_run = row.get("run", result["config_hash"]) == result["config_hash"]
                if not of_run or (row["task"], row["estimator"], row["seed"]) != (*run.name, seed):
                    continue
                values = {valid: row["valid_nats"], "curve_nll_": row["test_nats"]}
                numbers = {name: float(text) for name, text in values.items() if text}
                run.rows.append({"step": int(row["step"]), "loss": float(row["loss"]), **numbers})
            for row in of_classifiers:
                if row["run"] == result["config_hash"]:
                    bound, accuracy = -float(row["bound"]), float(row["accuracy"]) / 100
                    numbers = {valid: bound, "valid_accuracy": accuracy}
                    run.rows.append({"step": int(row["step"]), **numbers})
            runs.append(run)
    return runs


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def _load_run(folder: Path) -> Run:
    config, result, starts = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("config", "result", "provenance")
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    config = _completed(config)
    return Run(_task_of(config), config, result, rows, starts[-1])


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run, and those that were added after it, at their defaults."""
    default = defaults.TASKS[config["task"]](config["data.name"])
    return dict(configuration.fields(default)) | config


def _task_of(config: Mapping[str, Any]) -> str:
    latents = "bern" if config["model.num_classes"] == 2 else "cat"
    return f"{latents}_{config['task']}"
