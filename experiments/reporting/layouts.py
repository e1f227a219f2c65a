"""How the cells of a table are laid out, as a grid or a line for each, in Markdown and HTML."""

import dataclasses
import html as entities
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiments.reporting.table import Block, Cell, Measure, Table, is_on_mnist

_OTHER_SETTINGS = (
    "A number such as [1] marks a cell with settings that most estimators of its column",
    "were not offered, or one that was not offered settings that most were (notes below):",
    "it is compared with no other cell.",
)


def with_error(measure: Measure, cell: Cell) -> str:
    """The mean of a cell, with its standard error where it has several seeds."""
    mean = measure.mean(cell)
    text = f"{mean.value:.{measure.digits}f}"
    return text if mean.error is None else f"{text} ± {mean.error:.{measure.digits}f}"


def with_published(measure: Measure, cell: Cell, text: str) -> str:
    """A text, and the published value in brackets where there is one."""
    value = measure.published(cell)
    return text if value is None else f"{text} ({value:.1f})"


def shown(measure: Measure) -> Callable[[Cell], str]:
    """The text of a cell: mean, standard error and published value."""
    return lambda cell: with_published(measure, cell, with_error(measure, cell))


@dataclasses.dataclass(frozen=True)
class Grid:
    """One measure, a line for each row key and a column for each column key.

    There is one grid for each number of steps. A cell with other settings than most of its column
    has the number of a note that names them, and a line to itself where its row also has a cell
    without. Bold is what is clearly better than all others of its column.
    """

    title: Callable[[int], Sequence[str]]
    """The lines above the grid, for its number of steps."""
    rows_are: str = "estimator"
    order: Callable[[Iterable[str]], list[str]] | None = None
    """The order of the lines; by default that of the table."""
    last_line: Callable[[int], tuple[str, Mapping[str, str]]] | None = None
    """A name, and texts by column key, for a line below the grid; for its number of steps."""
    beside: Callable[[Cell], str] = lambda cell: ""
    """What stands behind the number of a cell."""
    about_beside: str = ""
    """A line above a grid in which something does."""

    def __call__(self, table: Table, cells: Sequence[Cell]) -> list[Block]:
        return [
            self._grid(table, [cell for cell in cells if cell.steps == steps], steps)
            for steps in sorted({cell.steps for cell in cells})
        ]

    def _grid(self, table: Table, cells: Sequence[Cell], steps: int) -> Block:
        (measure,) = table.measures
        marks = dict.fromkeys(cell.other_settings for cell in _by_row(self, table, cells))
        notes = {text: number for number, text in enumerate(filter(None, marks), 1)}
        above = [
            *self.title(steps),
            *([self.about_beside] if any(map(self.beside, cells)) else ()),
            *_about_seeds(cells, measure),
            *(_OTHER_SETTINGS if notes else ()),
        ]
        columns = dict(table.titles)
        for cell in cells:  # a column without a title comes last, under its key
            columns.setdefault(cell.column, cell.column)
        rows = []
        for row in _rows(self, table, cells):
            first, second = [], []  # the second for other settings, where there are both
            for column in columns:
                of_both = [cell for cell in cells if (cell.column, cell.row) == (column, row)]
                of_both.sort(key=lambda cell: bool(cell.other_settings))
                texts = [self._text(cell, cells, measure, notes) for cell in of_both]
                first.append(texts[0] if texts else "")
                second.append(texts[1] if len(texts) > 1 else "")
            rows.append([f"`{row}`", *first])
            if any(second):
                rows.append([f"`{row}`, other settings", *second])
        if self.last_line is not None and is_on_mnist(cells[0].runs[0]):
            name, of_column = self.last_line(steps)
            rows.append([name, *(of_column.get(column, "") for column in columns)])
        below = [f"* [{number}] {text}" for text, number in notes.items()]
        return Block(above, [self.rows_are, *columns.values()], rows, below)

    def _text(
        self, cell: Cell, cells: Sequence[Cell], measure: Measure, notes: Mapping[str, int]
    ) -> str:
        text = with_error(measure, cell)
        text = f"**{text}**" if _leads(cell, cells, measure) else text
        if cell.other_settings:
            text += f" [{notes[cell.other_settings]}]"
        return with_published(measure, cell, text + self.beside(cell))


def _rows(grid: Grid, table: Table, cells: Sequence[Cell]) -> list[str]:
    return (grid.order or table.order)(cell.row for cell in cells)


def _by_row(grid: Grid, table: Table, cells: Sequence[Cell]) -> list[Cell]:
    rows = _rows(grid, table, cells)
    return sorted(cells, key=lambda cell: rows.index(cell.row))


def _leads(cell: Cell, cells: Sequence[Cell], measure: Measure) -> bool:
    """Whether a cell is clearly better than all others that were offered the same settings."""
    equal = [one for one in cells if one.column == cell.column and not one.other_settings]
    others = [one for one in equal if one is not cell]
    if cell.other_settings or not others:
        return False
    return all(measure.is_clearly_better(cell, other) for other in others)


def _about_seeds(cells: Sequence[Cell], measure: Measure) -> list[str]:
    """What the lines above a grid say about seeds and bold numbers."""
    seeds = [len(cell.runs) for cell in cells]
    lines = []
    if max(seeds) > 1:
        side = "above" if measure.higher_is_better else "below"
        lines += [
            "±: standard error of the mean over the seeds. "
            f"Bold: {side} all others of its column by",
            "more than three standard errors of the difference (12.7 where a cell has two seeds).",
        ]
    if min(seeds) == 1:
        which = "One seed each" if max(seeds) == 1 else "Without ±: one seed"
        lines += [
            f"{which}: how far another seed would move a cell is not known, so that none is bold"
            f"{',' if measure.nats else '.'}",
            *["and differences of less than 1 nat are not ordered."] * measure.nats,
        ]
    return lines


@dataclasses.dataclass(frozen=True)
class Lines:
    """Any number of measures, and a line for each cell."""

    title: Callable[[Sequence[Cell]], Sequence[str]]
    """The lines above."""
    columns: Mapping[str, Callable[[Cell], str]]
    """Headings, and the text of a cell below each."""
    notes: Callable[[Sequence[Cell]], Sequence[str]] = lambda cells: ()
    """The lines below."""

    def __call__(self, table: Table, cells: Sequence[Cell]) -> list[Block]:
        rows = [[of(cell) for of in self.columns.values()] for cell in cells]
        return [Block(self.title(cells), list(self.columns), rows, self.notes(cells))]


def markdown(blocks: Iterable[Block]) -> str:
    """Blocks as Markdown.

    >>> print(markdown([Block(["Nats."], ["estimator", "VAE"], [["`rloo`", "105.3"]])]), end="")
    Nats.
    <BLANKLINE>
    | estimator | VAE |
    |---|---|
    | `rloo` | 105.3 |
    """
    texts = []
    for block in blocks:
        rule = "|---" * len(block.header) + "|"
        header, *rows = [f"| {' | '.join(row)} |" for row in (block.header, *block.rows)]
        below = ["", *block.below] if block.below else []
        texts.append("\n".join([*block.above, "", header, rule, *rows, *below]) + "\n")
    return "\n".join(texts)


_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.3em 0.8em; text-align: left }}
</style>
{body}</html>
"""


def html(title: str, blocks: Iterable[Block]) -> str:
    """Blocks as a page of HTML that needs no other file."""
    body = []
    for block in blocks:
        body += [*paragraphs(block.above), "<table>", _html_row("th", block.header)]
        body += [*(_html_row("td", row) for row in block.rows), "</table>"]
        body += paragraphs(block.below)
    return _PAGE.format(title=inline(title), body="".join(f"{line}\n" for line in body))


def _html_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{inline(cell)}</{tag}>' for cell in cells)}</tr>"


def paragraphs(lines: Sequence[str]) -> list[str]:
    """Lines of Markdown as paragraphs and items."""
    paragraphs, items = [], []
    for part in "\n".join(lines).split("\n\n"):
        if part.startswith("* "):
            items += part.removeprefix("* ").split("\n* ")
        elif part:
            paragraphs.append(f"<p>{inline(part)}</p>")
    if items:
        paragraphs.append(f"<ul>{''.join(f'<li>{inline(item)}</li>' for item in items)}</ul>")
    return paragraphs


def inline(text: str) -> str:
    """Markdown within a line: code and bold.

    >>> inline("`rloo` < **3**")
    '<code>rloo</code> &lt; <strong>3</strong>'
    """
    text = re.sub(r"`(.*?)`", r"<code>\1</code>", entities.escape(text, quote=False))
    return re.sub(r"\*\*(.*?)\*\*", r"<strong>\1</strong>", text)
