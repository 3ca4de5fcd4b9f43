"""A run in the terminal: a bar that is renewed, or plain lines where none can be."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from tabserve.scoring.plan import Plan
from tabserve.scoring.plan import Progress as Told

_LINE_EVERY_S = 10.0


@contextmanager
def progress(console: Console) -> Iterator[Any]:
    """Gives what is told of the progress."""
    if console.is_terminal:
        with Progress(
            BarColumn(None),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task("", total=1.0, rows="")
            yield lambda told: bar.update(task, completed=told.share, rows=_rows(told))
        return
    printed = time.monotonic()

    def line(told: Told) -> None:
        nonlocal printed
        if time.monotonic() - printed >= _LINE_EVERY_S:
            printed = time.monotonic()
            left_s = told.elapsed_s * (1 - told.share) / max(told.share, 1e-9)
            text = f"{_rows(told)}, {told.share:.0%}, about {left_s:,.0f} s left"
            console.print(Text(text), soft_wrap=True)

    yield line


def show(told: Told, plan: Plan, console: Console) -> None:
    """The report."""
    resumed = f", {told.n_resumed:,} of them by an earlier run" if told.n_resumed else ""
    lines = [
        f"Scored {told.n_scored:,} rows into {plan.out}{resumed}, "
        f"{told.rows_per_s:,.0f} rows/s in {told.elapsed_s:,.1f} s."
    ]
    if told.n_rows == 0:
        lines.append(f"Warning: there is no row in {plan.source}.")
    if told.n_rejected:
        rows = "row" if told.n_rejected == 1 else "rows"
        lines.append(f"Rejected {told.n_rejected:,} {rows}; {plan.rejects_path} says why.")
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _rows(told: Told) -> str:
    return f"{told.n_rows:,} rows, {told.rows_per_s:,.0f} rows/s"
