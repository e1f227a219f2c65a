"""Write ``docs/estimators.md`` from the facts of the registry and the measured results.

    python -m scripts.estimator_table
    python -m scripts.estimator_table --check

The tests verify the facts of each entry; the numbers are read from ``results/``. ``--check`` writes
nothing and fails where the committed page differs.
"""

import csv
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from gsm.registry import ESTIMATORS, Entry

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "estimators.md"
RESULTS = ROOT / "results"
VARIANCE = RESULTS / "variance"

_UNBIASED = {
    "any": "yes",
    "quadratic": "if f is quadratic",
    "quadratic in Bernoulli units": "if f is quadratic in Bernoulli units, or affine",
    "affine": "if f is affine in each variable",
    "none": "no",
}
_FEW, _MANY = 4, 400  # evaluations of f for one gradient

Row = dict[str, Any]


# --- What was measured -----------------------------------------------------------------------


def measured(model: str, step: int | None = None) -> dict[str, Row]:
    """Rows of the encoder's gradient at the schedule's temperature, by name of the estimator.

    Args:
      model: folder of ``results/variance``.
      step: training step; None: the last.
    """
    with (VARIANCE / model / "variance.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "encoder"]
    step = max(int(row["step"]) for row in rows) if step is None else step
    return {
        row["estimator"]: row
        for row in rows
        if int(row["step"]) == step and row["at"] == "schedule"
    }


def steps_of(model: str) -> list[int]:
    """The training steps at which a model was measured."""
    with (VARIANCE / model / "variance.csv").open() as file:
        return sorted({int(row["step"]) for row in csv.DictReader(file)})


def is_biased(row: Row) -> bool:
    """Whether a bias can be distinguished from 0, and from the error of a reference's own mean."""
    return float(row["bias_low"]) > 2 * float(row["reference_error"] or 0)


def squared_error(row: Row, estimates: float) -> float:
    """Mean squared error of the mean of so many estimates: ``bias ** 2 + variance / m``."""
    return is_biased(row) * float(row["bias"]) ** 2 + float(row["variance"]) / estimates


def error_at(row: Row, evaluations: int) -> float | None:
    """The error of the mean of the estimates that so many evaluations of f give; None: of none."""
    estimates = evaluations / int(row["evaluations"])
    return squared_error(row, estimates) if estimates >= 1 else None


def trained() -> dict[tuple[str, str], Row]:
    """Rows of Table 1 after 100,000 steps by column and estimator, comparable ones first."""
    with (RESULTS / "table1" / "table1.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["steps"] == "100000"]
    found: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: bool(row["other_settings"])):
        found.setdefault((row["task"], row["estimator"]), row)
    return found


def classified() -> dict[str, Row]:
    """Rows of Table 2 under the paper's protocol after 10,000 steps, by name."""
    with (RESULTS / "table2" / "table2.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["steps"] == "10000"]
    return {row["inference"]: row for row in rows if row["config"] == "configs/semisup.py"}


# --- How it is written -----------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: str | float | None) -> str:
    """A measured number, with two decimals below 10."""
    if value is None:
        return "-"
    value = float(value)
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def bias(row: Row) -> str:
    """The bias, or the upper end of its band where it cannot be distinguished from 0."""
    if is_biased(row):
        return number(row["bias"])
    return f"< {max(float(row['bias_high']), 0.01):.2f}"


def nats(row: Row | None) -> str:
    """Test nats of a cell of Table 1, starred if it is not to be compared with others."""
    if row is None:
        return "-"
    return f"{float(row['test_nats']):.2f}{'*' if row['other_settings'] else ''}"


def evaluations(entry: Entry) -> str:
    """Evaluations of f for one estimate, as a formula."""
    formulas = {"m": f"m ({entry.num_samples})", "n * k + 1": "n k + 1", "k ** n": "kⁿ"}
    return formulas.get(str(entry.evaluations), str(entry.evaluations))


def unbiased(entry: Entry) -> str:
    """The costs for which an estimator is unbiased."""
    return _UNBIASED[entry.unbiased] + ("; two classes only" if entry.bernoulli_only else "")


def facts_row(name: str, entry: Entry) -> list[str]:
    """What there is to know of one estimator before choosing it."""
    aliases = f" ({', '.join(f'`{alias}`' for alias in entry.aliases)})" if entry.aliases else ""
    return [
        f"`{name}`{aliases}",
        entry.source,
        unbiased(entry),
        evaluations(entry),
        "yes" if entry.derivatives else "no",
        ", ".join(entry.learned) or "-",
        entry.choose,
    ]


def measured_row(name: str, row: Row) -> list[str]:
    """What was measured of one estimator at one point of a model."""
    return [
        f"`{name}`",
        f"{float(row['temperature']):.2f}" if row["temperature"] else "-",
        bias(row),
        number(row["variance"]),
        *(f"{float(row[column]):.2f}" for column in ("cosine", "cosine_of_mean")),
        number(error_at(row, _FEW)),
        number(error_at(row, _MANY)),
        number(squared_error(row, _MANY / float(row["relative_time"]))),
    ]


def measured_table(rows: Mapping[str, Row]) -> str:
    """All estimators at one point, those with the least error at few evaluations first."""
    head = [
        "estimator", "temperature", "bias", "variance", "cosine", "of the mean",
        f"error, {_FEW} evaluations", f"{_MANY} evaluations", f"time of {_MANY}",
    ]  # fmt: skip

    def order(item):
        few = error_at(item[1], _FEW)
        return (few is None, few)

    lines = table(head, [measured_row(*item) for item in sorted(rows.items(), key=order)])
    missing = [f"`{name}`" for name, entry in ESTIMATORS.items()
               if name not in {"exact", *rows} and not entry.bernoulli_only]  # fmt: skip
    return lines + (f"\n\nNot measured here: {', '.join(missing)}." if missing else "")


def errors_table(
    points: Mapping[str, tuple[str, int]], budgets: Sequence[int] = (_FEW, _MANY)
) -> str:
    """Errors at numbers of evaluations, at several points ``(model, step)`` by their label."""
    rows = [measured(*point) for point in points.values()]
    head = [
        label if len(budgets) == 1 else f"{label}: {budget} evaluations"
        for budget in budgets
        for label in points
    ]
    errors = {
        name: [
            number(error_at(at[name], budget)) if name in at else "-"
            for budget in budgets
            for at in rows
        ]
        for name in ESTIMATORS
    }
    cells = [[f"`{name}`", *row] for name, row in errors.items() if set(row) != {"-"}]
    return table(["estimator", *head], cells)


def _where(model: str) -> str:
    about = json.loads((VARIANCE / model / "variance.json").read_text())
    return f"`{about['provenance']['command']}` on {about['provenance']['device']}"


# --- The page --------------------------------------------------------------------------------


def prose(text: str, start: str = "") -> str:
    """A paragraph in lines of at most 100 characters, or an item of a list that starts so.
    Code, such as a command to copy, is not broken."""
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), " ".join(text.split()))
    lines = textwrap.fill(
        whole, 100, initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\0", " ")


def guide() -> str:
    """Four questions, with one answer each and the numbers that it stands on."""
    real, units = measured("cat_vae"), measured("small_vae_bernoulli")
    cells, accuracy = trained(), classified()

    def var(name: str) -> str:
        return number(real[name]["variance"])

    def few(name: str) -> str:
        return number(error_at(real[name], _FEW))

    def many(name: str) -> str:
        return number(error_at(real[name], _MANY))

    def cell(name: str) -> str:
        return nats(cells["cat_vae", name])

    def correct(name: str) -> str:
        row = accuracy[name]
        return f"{float(row['accuracy']):.1f} ± {float(row['accuracy_stderr']):.1f} %"

    times = float(real["gumbel_rao"]["relative_time"])
    middle = steps_of("cat_vae")[1]
    early = number(error_at(measured("cat_vae", middle)["reinmax"], _MANY))
    items = (
        f"""**Can the outcomes be enumerated?** If f can be evaluated at all kⁿ of them:
        `exact`, the gradient without noise. For the class of an image, one variable of ten
        classes, it is more accurate than `rloo` in Table 2: {correct("exact")}, `rloo`
        {correct("rloo")} (`gumbel_softmax` {correct("gumbel_softmax")}). If f can be evaluated
        for each class of each variable in little more than the time of one evaluation:
        `local_expectation`, of variance {var("local_expectation")} where `rloo` has
        {var("rloo")}. If each of its n k + 1 evaluations has its price, it does not pay off:
        at {_MANY} evaluations its error is {many("local_expectation")}, that of `rloo`
        {many("rloo")}.""",
        f"""**Is f differentiable, also inside the simplex?** `gumbel_softmax`. In each column
        of Table 1 it is within 1 nat of the lowest comparable cell. It has a bias,
        {bias(real["gumbel_softmax"])} times the length of the gradient at the end of training,
        but with {_FEW} evaluations for one gradient its error is {few("gumbel_softmax")}, that
        of `rloo` {few("rloo")}. With {_MANY} it is {many("gumbel_softmax")}, that of `rloo`
        {many("rloo")}: whoever can pay so many needs no relaxation.""",
        f"""**If f is differentiable, must its samples be one-hot?** `st_gumbel_softmax`: it too
        is within 1 nat of the lowest comparable cell of each column of Table 1, on the
        categorical VAE with {cell("st_gumbel_softmax")} nats (`straight_through`
        {cell("straight_through")}). `gumbel_rao` has the same mean gradient and a variance of
        {var("gumbel_rao")} in place of {var("st_gumbel_softmax")}, for {times:.1f} times the
        time of this f: take it for an expensive f. `reinmax` has less bias,
        {bias(real["reinmax"])} in place of {bias(real["st_gumbel_softmax"])}, and of all the
        least error where {_MANY} evaluations are averaged early in training ({early} after
        {middle:,} steps); in training with one that did not show in Table 1 ({cell("reinmax")}
        nats), nor beyond doubt in Table 2 ({correct("reinmax")}, `st_gumbel_softmax`
        {correct("st_gumbel_softmax")}).""",
        f"""**How many evaluations of a black box, or of an f whose gradient must be unbiased?**
        Several: `rloo`, or `arms` where all variables are Bernoulli units: as many antithetic
        samples, of variance {number(units["arms"]["variance"])} in place of
        {number(units["rloo"]["variance"])} on the six units below. An f with a derivative may
        try `rebar`, whose error with {_MANY} evaluations is {many("rebar")} here, that of
        `rloo` {many("rloo")}. One: `nvil`, of variance {var("nvil")} where `score_function` has
        {var("score_function")}.""",
    )
    return "\n".join(prose(item, f"{i}. ") for i, item in enumerate(items, 1))


def trained_table() -> str:
    """Test nats of Table 1 by estimator."""
    cells = trained()
    heads = {
        "cat_vae": "VAE (categorical)", "bern_vae": "VAE (Bernoulli)",
        "cat_sbn": "SBN (categorical)", "bern_sbn": "SBN (Bernoulli)",
    }  # fmt: skip
    names = [name for name in ESTIMATORS if any((one, name) in cells for one in heads)]
    rows = [[f"`{name}`", *(nats(cells.get((one, name))) for one in heads)] for name in names]
    return table(["estimator", *heads.values()], rows)


def why() -> list[str]:
    """Why training does not follow the cosine of one estimate."""
    real = measured("cat_vae")
    cosine, of_mean = (
        float(real["gumbel_softmax"][column]) for column in ("cosine", "cosine_of_mean")
    )
    return [
        f"### A cosine of {cosine:.2f} does not prevent training",
        prose(
            f"""The cosine of one estimate says how noisy it is: without bias it is about 1 /
            sqrt(1 + variance), {float(real["rloo"]["cosine"]):.2f} for `rloo` with four
            evaluations. But training does not follow one estimate. A minibatch of 100 images,
            Adam's mean over about ten steps, and small steps one after the other average the
            noise. The mean estimate of `gumbel_softmax` has a cosine of {of_mean:.2f} with the
            gradient, and descends. That alone does not order estimators: the mean of `reinmax` has
            {float(real["reinmax"]["cosine_of_mean"]):.2f}, and its model the higher test loss,
            though with other settings."""
        ),
        prose(
            """Late in training all of these numbers are relative to a gradient that nearly
            vanishes, and may depend on which estimator trained the model: little on this model,
            much on the small one below."""
        ),
    ]


def paper_model_by_rloo() -> list[str]:
    """The paper's model where RLOO trained it, beside the same step of Gumbel-Softmax."""
    (step,) = steps_of("cat_vae_rloo")
    return [
        prose(
            f"""These points were reached with Gumbel-Softmax. Where `rloo`, which is unbiased,
            trained the model for {step:,} steps ({_where("cat_vae_rloo")}), the order is nearly
            the same:"""
        ),
        errors_table(
            {
                "by `gumbel_softmax`": ("cat_vae", step),
                "by `rloo`": ("cat_vae_rloo", step),
            }
        ),
    ]


def units_by_rloo() -> list[str]:
    """200 Bernoulli units while RLOO trains them."""
    model = "bern_vae_rloo"
    steps = steps_of(model)
    picture = f"../results/variance/{model}/estimators_step{steps[-1]}.png"
    last = measured(model, steps[-1])
    errors = {name: error_at(row, _FEW) for name, row in last.items()}
    ranked = sorted(
        (error, name)
        for name, error in errors.items()
        if error is not None and ESTIMATORS[name].unbiased == "any"
    )
    listed = ", ".join(f"`{name}` {number(error)}" for error, name in ranked)
    return [
        "## 200 Bernoulli units along training",
        prose(
            f"""The linear Bernoulli VAE on dynamically binarised MNIST, whose training
            [reproduction.md](reproduction.md#200-bernoulli-units) compares at two and at four
            evaluations, while `rloo` trains it ({_where(model)}). Errors with {_FEW} evaluations,
            of an estimator without bias its variance:"""
        ),
        errors_table({f"step {step:,}": (model, step) for step in steps}, (_FEW,)),
        prose(f"Those that are unbiased for every f, at step {steps[-1]:,}: {listed}."),
        f"![All estimators on 200 Bernoulli units]({picture})",
    ]


def small_model_by_rloo() -> list[str]:
    """The small model where RLOO trained it."""
    here, there = measured("small_vae_rloo"), measured("small_vae")

    def few(rows: Mapping[str, Row], name: str) -> str:
        return number(error_at(rows[name], _FEW))

    return [
        prose(
            f"""The first of these two models again, trained with `rloo` for as many steps
            ({_where("small_vae_rloo")}, with other work beside). With {_FEW} evaluations `rloo`
            has an error of {few(here, "rloo")} and `gumbel_softmax` {
                few(here, "gumbel_softmax")
            }; where `gumbel_softmax` trained the model they were {few(there, "rloo")} and {
                few(there, "gumbel_softmax")
            }. Each leads where it trained:"""
        ),
        measured_table(here),
    ]


def page() -> str:
    """The whole page."""
    real_step, small_step = steps_of("cat_vae")[-1], steps_of("small_vae")[-1]
    small = measured("small_vae")
    keys = int(next(iter(small.values()))["keys"])
    pictures = "../results/variance"
    blocks = [
        "# The estimators",
        prose(
            """This page is written by `python -m scripts.estimator_table` from the registry
            ([`gsm/registry.py`](../gsm/registry.py)) and from `results/`; the tests verify what
            it states of bias, evaluations, derivatives and learned parts, and that what it
            recommends is what the numbers support. `gsm.compare` measures estimators on a cost
            of your own."""
        ),
        "## Which one?",
        guide(),
        prose(
            """The numbers are those of the paper's VAE at the end of training, explained below,
            and of Tables 1 and 2 ([reproduction.md](reproduction.md)): test nats after 100,000
            steps with one seed, and accuracy after 10,000 steps with three. A star marks a cell
            of Table 1 that is not to be compared with others, since other settings were tried
            for it."""
        ),
        table(
            ["`ESTIMATORS[...]` (aliases)", "source", "unbiased", "evaluations of f", "needs f'",
             "learned parts", "choose it for"],
            [facts_row(name, entry) for name, entry in ESTIMATORS.items()],
        ),
        prose(
            """*Evaluations*: for one estimate of n variables with k classes; m samples (default
            in brackets). *Needs f'*: the estimator differentiates f with respect to the sample;
            otherwise f may be a black box. *Learned parts* train through the surrogate
            ([`gsm/learned.py`](../gsm/learned.py)). Facts are stated for the defaults."""
        ),
        "## The paper's model on binarised MNIST",
        prose(
            f"""The VAE with twenty latents of ten classes, after {real_step:,} steps with
            Gumbel-Softmax. Its outcomes cannot be enumerated: the reference is the mean of 400
            `local_expectation` estimates ({_where('cat_vae')})."""
        ),
        measured_table(measured("cat_vae")),
        prose(
            f"""*Bias*: distance of the mean estimate from the gradient, divided by the length
            of the gradient; "<": it cannot be distinguished from 0, and the number is the upper
            end of its 95 % band. *Variance*: of one estimate, divided by the squared length of
            the gradient. *Cosine*: between one estimate and the gradient, and between the mean
            of all estimates and the gradient. *Error*: the mean squared error of one gradient,
            bias² + variance / m, where m estimates (m need not be whole) take {_FEW} or {_MANY}
            evaluations of f together (-: one estimate takes more), or the time of {_MANY}
            Gumbel-Softmax estimates on that machine, where an estimate is a value and its
            gradient, as training computes them. All are of the encoder's gradient for one
            minibatch. Bands are bootstrap-t bands over groups of draws
            ([`gsm/diagnostics.py`](../gsm/diagnostics.py)). `slope_annealed_st` has the slope
            of its schedule at that step; learned parts had 1,000 steps to adapt while the model
            did not change."""
        ),
        "The same errors from the first step on:",
        errors_table({f"step {step:,}": ("cat_vae", step) for step in steps_of("cat_vae")}),
        "![All estimators on the categorical VAE]"
        f"({pictures}/cat_vae/estimators_step{real_step}.png)",
        *paper_model_by_rloo(),
        "### Trained with it",
        "Test nats of Table 1, lower is better:",
        trained_table(),
        *why(),
        *units_by_rloo(),
        "## A model whose gradient is known",
        prose(
            f"""A VAE with two latents of eight classes has 64 outcomes, so its gradient is
            exact. It was trained with Gumbel-Softmax for {small_step:,} steps; then each
            estimator estimated the gradient of one minibatch {keys:,} times
            ({_where('small_vae')}):"""
        ),
        measured_table(small),
        "![All estimators at the end of training, with 95 % bands]"
        f"({pictures}/small_vae/estimators_step{small_step}.png)",
        "![Bias, variance and cosine against the temperature]"
        f"({pictures}/small_vae/temperature.png)",
        prose(
            f"""The same with six Bernoulli units, again 64 outcomes
            ({_where('small_vae_bernoulli')}). The machine had other work beside, so that times
            are rough here:"""
        ),
        measured_table(measured("small_vae_bernoulli")),
        "### Where an unbiased estimator trained the model",
        *small_model_by_rloo(),
        "## The toy problem, E (b - 0.45)²",
        prose(
            """One Bernoulli unit, as in Tucker et al. 2017 (`python -m experiments.toy`): where
            gradient descent with each estimator ends. The optimum is b = 0 with probability 1."""
        ),
        f"![Optimisation curves]({pictures}/toy/optimisation.png)",
        f"![Bias and variance against the temperature]({pictures}/toy/temperature.png)",
        "## Gumbel-Softmax against the temperature (Figure 1 of the paper)",
        "Written by `python -m experiments.temperature`.",
        "![Expectation and samples](../results/temperature/temperature.png)",
    ]  # fmt: skip
    return "\n\n".join(blocks) + "\n"


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
