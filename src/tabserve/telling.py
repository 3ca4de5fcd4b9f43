"""What commands tell. While they do something, on standard error: a line for each step, or one
that is renewed where there is a terminal. What they found, in columns.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # a server starts without them
    from rich.console import Console
    from rich.text import Text

_logger = logging.getLogger("tabserve")


@contextmanager
def steps_told(*, also_in_lines: bool) -> Iterator[None]:
    """Within it what is logged is shown; a warning stays on the screen.

    also_in_lines: where there is no terminal, steps are shown too and not warnings alone.
    """
    handler = _Telling()
    before = _logger.level, _logger.propagate
    _logger.addHandler(handler)
    is_told = also_in_lines or handler.is_terminal
    _logger.setLevel(logging.INFO if is_told else logging.WARNING)
    _logger.propagate = False
    try:
        with handler.status:
            yield
    finally:
        _logger.removeHandler(handler)
        _logger.level, _logger.propagate = before


class _Telling(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.status: Any = nullcontext()
        self._renew: Any = None
        self.is_terminal = sys.stderr.isatty()
        if self.is_terminal:
            from rich.console import Console

            self.status = Console(stderr=True).status("")
            self._renew = self.status.update

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self._renew is not None and record.levelno < logging.WARNING:
            from rich.text import Text

            self._renew(Text(text))
        else:
            click.echo(text, err=True)


def show_columns(rows: Sequence[Sequence["Text"]], console: "Console") -> None:
    """In a terminal each column is wrapped in itself. Elsewhere each row is one line, whole, for
    grep and the log of a pipeline.
    """
    from rich.table import Column, Table
    from rich.text import Text

    if console.is_terminal:
        columns = [Column(overflow="fold") for _ in rows[0]]
        table = Table(*columns, box=None, show_header=False, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.plain.ljust(width) for cell, width in zip(row, widths, strict=True)]
        console.print(Text("  ".join(cells).rstrip()), soft_wrap=True)
