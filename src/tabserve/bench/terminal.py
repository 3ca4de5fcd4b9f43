"""A load test in the terminal: progress while it runs, and its report."""

import asyncio
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tabserve.bench import figures
from tabserve.bench.plan import Plan
from tabserve.bench.report import Histogram, Report
from tabserve.bench.tally import Tally

_PROGRESS_EVERY_S = 0.5
_MAX_BAR = 50  # characters


def announce(plan: Plan, console: Console) -> None:
    """Say what begins now."""
    console.print(
        Text(f"{plan.url}{plan.predict_path}: {figures.load(plan)}, {plan.duration_s:g} s"),
        soft_wrap=True,
    )


async def show_progress(
    plan: Plan, tally: Tally, console: Console, clock: Callable[[], float]
) -> None:
    """Renew one line until cancelled; does nothing where a line cannot be renewed.

    Not rich's Progress: its thread takes the interpreter lock from the requests that are timed.
    """
    if not console.is_terminal:
        return
    try:
        while True:
            await asyncio.sleep(_PROGRESS_EVERY_S)
            elapsed_s = clock() - tally.begins
            n_succeeded = len(tally.latencies_s)
            line = (
                f"{elapsed_s:5.1f} of {plan.duration_s:g} s   {n_succeeded / elapsed_s:,.0f}"
                f" requests/s   {n_succeeded:,} answers   {tally.failures.total():,} failures"
            )
            console.print(_line(line, console), end="\r")
    finally:
        console.print(_line("", console), end="\r")


def show(report: Report, console: Console) -> None:
    """Print the report."""
    console.print()
    _print_figures(console, figures.throughput(report))
    if report.errors:
        _print_figures(console, figures.errors(report), "Errors", style="red")
    if report.histogram is not None:
        _print_figures(console, figures.latencies(report), "Latency")
        console.print()
        console.print(_bars(report.histogram, console))
    for remark in figures.remarks(report):
        console.print()
        console.print(Text(remark, style="yellow"))


def _print_figures(
    console: Console, lines: figures.Figures, title: str | None = None, style: str = "bold"
) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for label, text in lines:
        table.add_row(Text(label, style="dim"), Text(text))
    if title is not None:
        console.print()
        console.print(Text(title, style=style))
    console.print(table)


def _bars(histogram: Histogram, console: Console) -> Table:
    """One bar a bin, its length in proportion to the count; some length for any answer at all."""
    block = "#" if console.options.ascii_only else "█"
    most = max(histogram.counts)
    width = max(1, min(_MAX_BAR, console.width - 40))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    for low, high, count in zip(
        histogram.edges_ms, histogram.edges_ms[1:], histogram.counts, strict=False
    ):
        bar = block * (max(1, round(width * count / most)) if count else 0)
        table.add_row(f"{figures.ms(low)} to {figures.ms(high)}", f"{count:,}", Text(bar, "cyan"))
    return table


def _line(text: str, console: Console) -> Text:
    """The text over the whole line but its last column, where terminals would wrap."""
    line = Text(text, no_wrap=True, overflow="crop")
    line.truncate(console.width - 1, pad=True)
    return line
