"""Offline scoring: a file of rows through the server's own validation and engine."""

from tabserve.scoring.plan import Plan, Progress
from tabserve.scoring.running import run
from tabserve.scoring.terminal import progress, show

__all__ = ["Plan", "Progress", "progress", "run", "show"]
