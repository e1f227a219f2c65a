"""Which settings the cells of a column were offered, and what sets one cell apart from the others.

Two cells of a column can be compared where both estimators were offered the same values of the
common settings (learning rate, weight decay, ...), from which validation chose.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.storage.records import Run, identity

Row = Mapping[str, Any]


class Offers(NamedTuple):
    """What a table knows of the settings that its cells were offered."""

    own: tuple[str, ...]
    """How the names of those fields begin that belong to an estimator, or to its own grid: of all
    other fields the estimators of a column should have been offered the same values."""
    pilots: Mapping[str, str]
    """Columns of the pilots' CSV file that hold other fields, and those fields."""
    pilot_column: str
    """The column of that file with the column key."""
    pilot_row: str
    """The column of that file with the row key."""
    rows: frozenset[str] = frozenset()
    """Rows that count by their pilots even where no column of the table has a cell of them yet:
    else which settings are usual would change while a table is being filled."""

    def differences(
        self, column: Mapping[str, Sequence[Run]], pilots: Sequence[Row]
    ) -> Callable[[str, Run], str]:
        """A function that says how a run differs from what most rows of its column were offered.

        A run differs where it has a value of a field that most were not offered, or where its row
        was not tried with a value that most were.

        Args:
          column: the tested runs of a column, by row key.
          pilots: rows of the pilots' CSV file for this column: what else was tried, also by rows
            that have no tested run in this column yet.

        Returns:
          A function of row key and run; its text is empty where nothing differs.
        """
        tried = self._tried(column, pilots)
        offered = _offered_to_most(tried)

        def differences(row: str, run: Run) -> str:
            found = []
            for name, value in sorted(self._common(run.config).items()):
                if value not in offered[name]:
                    found.append(f"`{name}` {value}")
                elif missing := offered[name] - tried[row][name]:
                    found.append(f"`{name}` {', '.join(sorted(missing))} not tried")
            return "; ".join(found)

        return differences

    def _tried(
        self, column: Mapping[str, Sequence[Run]], pilots: Sequence[Row]
    ) -> dict[str, dict[str, set[str]]]:
        """The values of the common fields, as JSON, that each row of a column was run with."""
        tried: dict[str, dict[str, set[str]]] = {}
        for row, runs in column.items():
            for run in runs:
                for name, value in self._common(run.config).items():
                    tried.setdefault(row, {}).setdefault(name, set()).add(value)
        for pilot in pilots:
            of_row = tried.setdefault(pilot[self.pilot_row], {})
            for csv_column, name in self.pilots.items():
                if pilot.get(csv_column) is not None:  # an older report did not keep all of them
                    value = json.dumps(float(pilot[csv_column]))
                    of_row.setdefault(name, set()).add(value)
        return tried

    def _common(self, config: Row) -> dict[str, str]:
        return {
            name: json.dumps(value)
            for name, value in identity(config).items()
            if name != "seed" and not name.startswith(self.own)
        }


def _offered_to_most(tried: Mapping[str, Mapping[str, set[str]]]) -> dict[str, set[str]]:
    """For each field the values that more than half of the rows with that field were run with."""
    counts: dict[str, Counter[str]] = {}
    rows: Counter[str] = Counter()
    for values in tried.values():
        rows.update(values.keys())
        for name, of_field in values.items():
            counts.setdefault(name, Counter()).update(of_field)
    return {
        name: {value for value, number in of_field.items() if number > rows[name] / 2}
        for name, of_field in counts.items()
    }
