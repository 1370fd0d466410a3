"""Tables: columns are declared once, and written for a terminal, in Markdown or in HTML."""

import html
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.frame.summaries import ranged


class Column(NamedTuple):
    """One column of a table.

    Attributes:
      head: text above the column.
      cell: `row -> text`.
    """

    head: str
    cell: Callable[[Any], str]


class Table(NamedTuple):
    """Columns and the rows that they show.

    Attributes:
      columns: from left to right.
      rows: anything that the columns accept, often a row of a result file.
    """

    columns: Sequence[Column]
    rows: Sequence[Any]

    @property
    def lines(self) -> list[list[str]]:
        """The heads, then the cells of each row."""
        cells = [[column.cell(row) for column in self.columns] for row in self.rows]
        return [[column.head for column in self.columns], *cells]


def field(head: str, name: str, form: str = "") -> Column:
    """Declare a column of one field; a row that lacks the field has an empty cell."""
    return Column(head, lambda row: "" if row.get(name) is None else format(row[name], form))


def spread_field(head: str, name: str, form: str = ",.0f") -> Column:
    """Declare a column of medians with their range; a row may lack the field."""
    return Column(head, lambda row: ranged(row[name], form) if row.get(name) else "")


def as_markdown(table: Table) -> str:
    """Write a table in Markdown."""
    heads, *cells = table.lines
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *cells))


def as_text(table: Table) -> str:
    """Write a table for a terminal, with aligned columns."""
    lines = table.lines
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in padded)


def as_html(table: Table) -> str:
    """Write a table in HTML."""

    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    heads, *lines = table.lines
    return "\n".join(
        ["<table>", row("th", heads), *(row("td", line) for line in lines), "</table>"]
    )
