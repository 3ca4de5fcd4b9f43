"""Figures as a table: drawn in a terminal, Markdown elsewhere."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column is text, the others are figures."""
    console = Console()
    table = Table(box=box.ROUNDED if console.is_terminal else box.MARKDOWN)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    if console.is_terminal:
        console.print(table)
        return
    # Wide enough for any line, and without the empty lines around it.
    console = Console(width=1000)
    with console.capture() as printed:
        console.print(table)
    print(f"{printed.get().strip()}\n", flush=True)


def figure(value: float) -> str:
    """Three digits that count: 1,234, 56.7, 0.123."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
