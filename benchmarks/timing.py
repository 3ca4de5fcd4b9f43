"""Times that are compared: taken in turns, so that what slows the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, TypeVar

Name = TypeVar("Name")


def in_turns(measures: dict[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """What each gives, round by round."""
    found: dict[Name, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def call_s(call: Callable[[Any], Any], inputs: Sequence[Any], seconds: float) -> float:
    """The median of single calls, each with the next input, for so long; three calls at least."""
    endless = cycle(inputs)
    call(next(endless))
    samples: list[float] = []
    ends = time.perf_counter() + seconds
    while len(samples) < 3 or time.perf_counter() < ends:
        given = next(endless)
        began = time.perf_counter()
        call(given)
        samples.append(time.perf_counter() - began)
    return statistics.median(samples)
