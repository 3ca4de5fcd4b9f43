"""What TabServe is doing, told on standard error while it does it: a line for each step, or one
that is renewed where there is a terminal.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click

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
