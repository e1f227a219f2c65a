"""From finished runs to tables: CSV, Markdown, JSON and figures, without jax.

A table is a description (:class:`experiments.reporting.table.Table`); :func:`all_tables` lists
those that ``python -m experiments.report`` writes.
"""

from pathlib import Path

from experiments.reporting import bernoulli, paper, reinmax, table1, table2
from experiments.reporting.table import Table


def all_tables(paper_folder: Path) -> tuple[Table, ...]:
    """All tables of the project.

    Args:
      paper_folder: holds ``curves.csv``, the paper's learning curves.

    Raises:
      RecordError: that file cannot be read.
    """
    of_paper = table1.table(paper.read_curves(paper_folder / "curves.csv"))
    return of_paper, table2.TABLE, bernoulli.TABLE, reinmax.GREY, reinmax.POLYNOMIAL
