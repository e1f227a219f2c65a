"""Write ``docs/estimators.md`` from the facts of the registry and the measured results.

    python -m scripts.estimator_table
    python -m scripts.estimator_table --check

The tests verify the facts of each entry; the numbers are read from ``results/``. ``--check`` writes
nothing and fails where the committed page differs.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from gsm.registry import ESTIMATORS, Entry

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


def number(text: str) -> str:
    """A measured number, with two decimals below 10."""
    value = float(text)
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def bias(row: dict[str, Any]) -> str:
    """The bias, or the upper end of its band where it cannot be distinguished from 0."""
    if float(row["bias_low"]) > 0:
        return number(row["bias"])
    return f"< {max(float(row['bias_high']), 0.01):.2f}"


def evaluations(entry: Entry) -> str:
    """Evaluations of f for one estimate, as a formula."""
    formulas = {"m": f"m ({entry.num_samples})", "n * k + 1": "n k + 1", "k ** n": "kⁿ"}
    return formulas.get(str(entry.evaluations), str(entry.evaluations))


def unbiased(entry: Entry) -> str:
    """The costs for which an estimator is unbiased."""
    return _UNBIASED[entry.unbiased] + ("; two classes only" if entry.bernoulli_only else "")


def facts_row(name: str, entry: Entry, row: dict[str, Any] | None) -> list[str]:
    """What there is to know of one estimator before choosing it."""
    return [
        f"`{name}`",
        entry.source,
        unbiased(entry),
        evaluations(entry),
        "yes" if entry.derivatives else "no",
        ", ".join(entry.learned) or "-",
        number(row["variance"]) if row else "0" if name == "exact" else "-",
        entry.choose,
    ]


def measured_row(name: str, row: dict[str, Any]) -> list[str]:
    """What was measured of one estimator on a small VAE."""
    temperature = f"{float(row['temperature']):.2f}" if row["temperature"] else "-"
    costs = (number(row[c]) for c in ("variance", "variance_per_evaluation", "variance_per_time"))
    return [f"`{name}`", temperature, bias(row), *costs, f"{float(row['cosine']):.2f}"]


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

Start with `reinmax` where f has a derivative and with `rloo` where it is a black box; the table
says what the others are for. It is written by `python -m scripts.estimator_table` from the
registry ([`gsm/registry.py`](../gsm/registry.py)) and from `results/`; the tests verify what it
states of bias, evaluations, derivatives and learned parts.

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
                "choose it for",
            ],
            facts,
        )
    }

*Evaluations*: for one estimate of n variables with k classes; m samples (default in brackets).
*Needs f'*: the estimator differentiates f with respect to the sample; otherwise f may be a black
box. *Learned parts* train through the surrogate ([`gsm/learned.py`](../gsm/learned.py)).
*Variance*: of one estimate of the encoder's gradient, divided by the squared length of the
gradient, on the first of the two small models below (`disarm`: on the second).

## Measured on a model whose gradient is known

A VAE with two latents of eight classes has 64 outcomes, so its gradient is exact. It was trained
with Gumbel-Softmax for {int(step):,} steps; then each estimator estimated the gradient of one
minibatch {int(keys):,} times ({_where(CATEGORICAL)}):

{measured_table(categorical)}

*Bias*: distance of the mean estimate from the exact gradient, divided by the length of the
gradient; "<": it cannot be distinguished from 0, and the number is the upper end of its 95 % band.
*At equal evaluations of f*: variance times evaluations, the variance that averaging leaves for a
budget of one evaluation. *At equal time*: variance times the time of an estimate relative to
Gumbel-Softmax on that machine, where an estimate is a value and its gradient, as training computes
them. *Cosine*: between one estimate and the exact gradient. Bands are bootstrap-t bands over groups
of draws ([`gsm/diagnostics.py`](../gsm/diagnostics.py)). `slope_annealed_st` has the slope of its
schedule at that step; learned parts had 1,000 steps to adapt while the model did not change.

![All estimators at the end of training, with 95 % bands](../{last_figure})

![Bias, variance and cosine against the temperature](../results/variance/small_vae/temperature.png)

The same with six Bernoulli units, again 64 outcomes ({_where(BERNOULLI)}):

{measured_table(bernoulli)}

## The toy problem, E (b - 0.45)²

One Bernoulli unit, as in Tucker et al. 2017 (`python -m experiments.toy`): where gradient descent
with each estimator ends. The optimum is b = 0 with probability 1.

![Optimisation curves](../results/variance/toy/optimisation.png)

![Bias and variance against the temperature](../results/variance/toy/temperature.png)

## The paper's model on binarised MNIST

Twenty latents of ten classes cannot be enumerated: the reference is the mean of 400
`local_expectation` estimates ({_where(RESULTS / "variance" / "cat_vae")}).

![All estimators on the categorical VAE](../results/variance/cat_vae/estimators_step100000.png)

## Gumbel-Softmax against the temperature (Figure 1 of the paper)

Written by `python -m experiments.temperature`.

![Expectation and samples](../results/temperature/temperature.png)
"""


def main(argv: list[str]) -> None:
    del argv
    text = page()
    if not _CHECK.value:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit(
            f"error: {PAGE.relative_to(ROOT)} is not fresh; run python -m scripts.estimator_table"
        )
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    _CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail where the page is not fresh.")
    app.run(main)
