"""Computes what has queued as one batch, in a thread of its own.

It never waits for more: a request that finds the engine idle is computed at once, and one that
finds it busy joins the others that came meanwhile.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from tabserve.errors import BadModelOutput, DeadlineExceeded, Internal, ModelNotReady, Overloaded
from tabserve.types import Columns, Computation, Engine, Outputs, Values, n_rows

# Rows after which a batch is closed. What queues behind it would gain nothing from joining, and
# would wait for all of it.
MAX_JOINED_ROWS = 4096


@dataclass(slots=True)
class _Job:
    columns: Columns
    n_rows: int
    deadline: float
    future: "Future[Outputs]" = field(default_factory=Future)


class Batcher:
    """Bounded queue in front of one engine and the one thread that calls it.

    max_queue: requests that may wait; past it `submit` raises Overloaded at once.
    joinable: whether rows of several requests may be computed together.
    on_batch, on_depth: told the rows of each batch and the length of the queue.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        joinable: bool = True,
        max_queue: int = 1000,
        on_batch: Callable[[int], None] = lambda rows: None,
        on_depth: Callable[[int], None] = lambda depth: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._joinable = joinable
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._on_depth = on_depth
        self._clock = clock
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tabserve-batcher", daemon=True)
        self._thread.start()

    def submit(self, columns: Columns, deadline: float = float("inf")) -> "Future[Outputs]":
        """The outputs of these rows, in time. deadline: on the monotonic clock.

        Raises Overloaded. The future fails with what the engine raised, or DeadlineExceeded where
        the turn came too late; cancelling it before its turn costs its neighbours nothing.
        """
        job = _Job(columns, n_rows(columns), deadline)
        with self._changed:
            if self._closed:
                raise ModelNotReady("The model is being shut down.")
            if len(self._queue) >= self._max_queue:
                raise Overloaded(
                    f"{len(self._queue)} requests are waiting for the model already; try again."
                )
            self._queue.append(job)
            self._on_depth(len(self._queue))
            self._changed.notify()
        return job.future

    def close(self, timeout_s: float | None = None) -> None:
        """Finish what is queued, then end the thread; a model that takes longer is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while batch := self._next_batch():
            self._compute(batch)

    def _next_batch(self) -> list[_Job]:
        """At least one job, waiting for it; empty once closed."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            batch = [self._queue.popleft()]
            rows = batch[0].n_rows
            while (
                self._joinable and self._queue and rows + self._queue[0].n_rows <= MAX_JOINED_ROWS
            ):
                batch.append(self._queue.popleft())
                rows += batch[-1].n_rows
            self._on_depth(len(self._queue))
        return batch

    def _compute(self, batch: list[_Job]) -> None:
        now = self._clock()
        jobs = []
        for job in batch:
            if not job.future.set_running_or_notify_cancel():
                continue  # its caller left
            if job.deadline <= now:
                job.future.set_exception(
                    DeadlineExceeded("The deadline passed before the model was free.")
                )
                continue
            jobs.append(job)
        if not jobs:
            return
        self._on_batch(sum(job.n_rows for job in jobs))
        self._answer(jobs)

    def _answer(self, jobs: list[_Job]) -> None:
        results = together(self._engine, [job.columns for job in jobs])
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)


def computed(computations: Sequence[Computation]) -> list[Outputs | Exception]:
    """What each comes to: its outputs, or the error that it alone causes."""
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, computation in enumerate(computations):
        first = next(iter(computation.values.values()))
        key = id(computation.engine), isinstance(first, np.ndarray)
        alike.setdefault(key, []).append(place)
    results: dict[int, Outputs | Exception] = {}
    for places in alike.values():
        parts = [computations[place].values for place in places]
        one = computations[places[0]]
        one.on_batch(sum(map(n_rows, parts)))
        results |= zip(places, together(one.engine, parts), strict=True)
    return [results[place] for place in range(len(computations))]


def together(engine: Engine, parts: Sequence[Values]) -> list[Outputs | Exception]:
    """What each comes to, computed as one batch; those of a batch that fails are halved until it
    is found whose fault it was.

    parts: all of lists, or all of arrays.
    """
    try:
        return _in_one_call(engine, parts)
    except BaseException as error:  # noqa: BLE001 - handed to the caller whose rows they were
        if len(parts) == 1:
            return [_harmless(error)]
    middle = len(parts) // 2
    return [*together(engine, parts[:middle]), *together(engine, parts[middle:])]


def _in_one_call(engine: Engine, parts: Sequence[Values]) -> list[Outputs | Exception]:
    counts = [n_rows(part) for part in parts]
    outputs = engine.predict(_joined(parts))
    for name, array in outputs.items():
        if len(array) != sum(counts):
            raise BadModelOutput(
                f"The model answered {len(array)} rows of {name} for {sum(counts)}."
            )
    if len(parts) == 1:
        return [outputs]
    bounds = pairwise(accumulate(counts, initial=0))
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in bounds]


def _joined(parts: Sequence[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for name, first in parts[0].items():
        columns: list[Any] = [part[name] for part in parts]
        joined[name] = (
            np.concatenate(columns)
            if isinstance(first, np.ndarray)
            else list(chain.from_iterable(columns))
        )
    return joined


def _harmless(error: BaseException) -> Exception:
    """A model that calls sys.exit must not end the server of everybody else, and no future on an
    event loop may hold a StopIteration.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return Internal(f"The model raised {type(error).__name__}.")
