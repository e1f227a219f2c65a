"""Write ``docs/estimators.md`` from the registry's facts and the measured results.

    python -m scripts.estimator_table

The facts are those that the tests hold each entry to; the numbers are read from ``results/``. The
tests compare the committed page with a fresh one, so it cannot go stale.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import app

from gsm.estimators import ESTIMATORS, Entry

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "estimators.md"
RESULTS = ROOT / "results"
CATEGORICAL = RESULTS / "variance" / "small_vae"
BERNOULLI = RESULTS / "variance" / "small_vae_bernoulli"

_UNBIASED = {
    "any": "yes",
    "quadratic": "if f is quadratic",
    "quadratic in Bernoulli units": "if f is quadratic in Bernoulli units, or affine",
    "affine": "if f is affine in each variable",
    "none": "no",
}


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of the encoder's gradient at the last step, at the schedule's temperature, by name."""
    with (folder / "variance.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "encoder"]
    last = max(int(row["step"]) for row in rows)
    return {
        row["estimator"]: row
        for row in rows
        if int(row["step"]) == last and row["at"] == "schedule"
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(text: str) -> str:
    value = float(text)
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _bias(row: dict[str, Any]) -> str:
    """The bias, or the upper end of its band where it cannot be distinguished from 0."""
    if float(row["bias_low"]) > 0:
        return _number(row["bias"])
    return f"< {max(float(row['bias_high']), 0.01):.2f}"


def _evaluations(entry: Entry) -> str:
    formulas = {"m": f"m ({entry.num_samples})", "n * k + 1": "n k + 1", "k ** n": "kⁿ"}
    return formulas.get(str(entry.evaluations), str(entry.evaluations))


def facts_row(name: str, entry: Entry, row: dict[str, Any] | None) -> list[str]:
    """What there is to know of one estimator before choosing it."""
    return [
        f"`{name}`",
        entry.source,
        _UNBIASED[entry.unbiased] + ("; two classes only" if entry.bernoulli_only else ""),
        _evaluations(entry),
        "yes" if entry.derivatives else "no",
        ", ".join(entry.learned) or "-",
        _number(row["variance"]) if row else "0" if name == "exact" else "-",
        entry.choose,
    ]


def measured_row(name: str, row: dict[str, Any]) -> list[str]:
    """What was measured of one estimator on a small VAE."""
    temperature = f"{float(row['temperature']):.2f}" if row["temperature"] else "-"
    costs = (_number(row[c]) for c in ("variance", "variance_per_evaluation", "variance_per_time"))
    return [f"`{name}`", temperature, _bias(row), *costs, f"{float(row['cosine']):.2f}"]


def _where(folder: Path) -> str:
    about = json.loads((folder / "variance.json").read_text())
    return f"`{about['provenance']['command']}` on {about['provenance']['device']}"


def page() -> str:
    """The whole page."""
    categorical, bernoulli = measured(CATEGORICAL), measured(BERNOULLI)
    either = bernoulli | categorical
    facts = [facts_row(name, entry, either.get(name)) for name, entry in ESTIMATORS.items()]
    head = ["estimator", "temperature", "bias", "variance", "at equal evaluations of f",
            "at equal time", "cosine"]  # fmt: skip
    step, keys = next((r["step"], r["keys"]) for r in categorical.values())

    last_figure = (CATEGORICAL / f"estimators_step{step}.png").relative_to(ROOT)

    def measured_table(rows: dict[str, dict[str, Any]]) -> str:
        ordered = sorted(rows.items(), key=lambda item: float(item[1]["variance"]))
        return table(head, [measured_row(name, row) for name, row in ordered])

    return f"""# The estimators

Written by `python -m scripts.estimator_table` from the registry in
[`gsm/estimators.py`](../gsm/estimators.py) and from `results/`. The tests hold what it states of
bias, evaluations, derivatives and learned parts, and the page to the registry and the results.

{
        table(
            [
                "`ESTIMATORS[...]`",
                "source",
                "unbiased",
                "evaluations of f",
                "needs f'",
                "learned parts",
                "variance",
                "choose it when",
            ],
            facts,
        )
    }

*Evaluations*: for one estimate of n variables with k classes; m samples (default in brackets).
*Needs f'*: f is differentiated by its argument; where not, it may be a black box. *Learned parts*
train through the surrogate and live in the train state ([`gsm/learned.py`](../gsm/learned.py)).
*Variance* of one estimate of the encoder's gradient, over the gradient's squared length, on the
first of the two small models below (`disarm`: on the second).

## Measured on a model whose gradient is known

A VAE with two latents of eight classes has 64 outcomes, so its gradient is exact. It was trained
with Gumbel-Softmax for {int(step):,} steps; then each estimator estimated the gradient of one
minibatch {int(keys):,} times ({_where(CATEGORICAL)}):

{measured_table(categorical)}

*Bias*: distance of the mean estimate from the exact gradient, over its length; "<": cannot be
distinguished from 0, and the number is the upper end of its 95 % band. *At equal evaluations of f*:
variance times evaluations, which is what averaging leaves of a budget of one. *At equal time*:
variance times the time of an estimate in units of Gumbel-Softmax's on that machine, where an estimate
is a value and its gradient, as training computes them. Bands are bootstrap-t bands over groups of
draws ([`gsm/diagnostics.py`](../gsm/diagnostics.py)). *Cosine* of one
estimate to the exact gradient. `slope_annealed_st` stands at the slope that its schedule has there;
learned parts had 1,000 steps to adapt to the standing model.

![All estimators at the end of training, with 95 % bands](../{last_figure})

![Bias, variance and cosine over the temperature](../results/variance/small_vae/temperature.png)

The same with six Bernoulli units, again 64 outcomes ({_where(BERNOULLI)}):

{measured_table(bernoulli)}

## The toy problem, E (b - 0.45)²

One Bernoulli unit, as Tucker et al. 2017 have it (`python -m experiments.toy`): where descent on
each estimator's gradients ends. The optimum is b = 0 for sure.

![Optimisation curves](../results/variance/toy/optimisation.png)

![Bias and variance over the temperature](../results/variance/toy/temperature.png)

## The paper's model on binarised MNIST

Twenty latents of ten classes, whose exact gradient nobody can enumerate: the reference is the mean
of 400 `local_expectation` estimates ({_where(RESULTS / "variance" / "cat_vae")}).

![All estimators on the categorical VAE](../results/variance/cat_vae/estimators_step100000.png)

## Gumbel-Softmax over the temperature (Figure 1 of the paper)

![Expectation and samples](../results/temperature/temperature.png)
"""


def main(argv: list[str]) -> None:
    del argv
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    app.run(main)
