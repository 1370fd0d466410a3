"""Tables of the command line."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

# Rich is imported where it prints, so that `--help` stays quick.
if TYPE_CHECKING:
    from rich.table import Table

UNLIMITED = 10_000
"""Width of a table in characters where no terminal limits it."""


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as columns; a row may lack some of them. Print nothing without rows."""
    if not rows:
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        cells = [row.get(name) for name in columns]
        table.add_row(*("" if cell is None else _text(cell) for cell in cells))
    _print(table)


def print_values(values: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        table.add_row(name, _text(value))
    _print(table)


def _print(table: "Table") -> None:
    """Print a table as wide as it is, or as the terminal if that is narrower."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    # A pipe has no width: one row is one line, for grep.
    if not console.is_terminal:
        console.width = UNLIMITED
    # Rich would end the program if nobody reads: `print` raises instead, and the command decides.
    with console.capture() as capture:
        console.print(table)
    print(capture.get(), end="")


def _text(value: Any) -> str:
    """Return the text of a value."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
