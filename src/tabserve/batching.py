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
from typing import Any

from tabserve.errors import DeadlineExceeded, Internal, ModelNotReady, Overloaded
from tabserve.types import Computation, Compute, Rows

# Rows after which a batch is closed. What queues behind it would gain nothing from joining, and
# would wait for all of it.
MAX_JOINED_ROWS = 4096


@dataclass(slots=True)
class _Job:
    rows: Rows
    deadline: float
    future: "Future[Any]" = field(default_factory=Future)


class Batcher:
    """Bounded queue in front of one function and the one thread that calls it.

    max_queue: requests that may wait; past it `submit` raises Overloaded at once.
    joinable: whether rows of several requests may be computed together.
    on_depth: told the length of the queue.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        joinable: bool = True,
        max_queue: int = 1000,
        on_depth: Callable[[int], None] = lambda depth: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._joinable = joinable
        self._max_queue = max_queue
        self._on_depth = on_depth
        self._clock = clock
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._computing_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="tabserve-batcher", daemon=True)
        self._thread.start()

    def submit(self, rows: Rows, deadline: float = float("inf")) -> "Future[Any]":
        """What is computed of these rows, in time. deadline: on the monotonic clock.

        Raises Overloaded. The future fails with what the computation raised, or DeadlineExceeded
        where the turn came too late; cancelling it before its turn costs its neighbours nothing.
        """
        job = _Job(rows, deadline)
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

    @property
    def computing_s(self) -> float:
        """For how long the present call of the function lasts already; 0 where there is none."""
        since = self._computing_since
        return 0.0 if since is None else self._clock() - since

    def end(self) -> None:
        """Let the thread finish what is queued and end; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def close(self, timeout_s: float | None = None) -> None:
        """The same, and wait for it; a model that takes longer is left behind."""
        self.end()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while batch := self._next_batch():
            jobs = self._in_time(batch)
            self._computing_since = self._clock()
            self._answer(jobs)
            self._computing_since = None

    def _next_batch(self) -> list[_Job]:
        """At least one job, waiting for it; empty once closed."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            batch = [self._queue.popleft()]
            n_rows = batch[0].rows.n_rows
            while self._joinable and self._queue:
                n_rows += self._queue[0].rows.n_rows
                if n_rows > MAX_JOINED_ROWS:
                    break
                batch.append(self._queue.popleft())
            self._on_depth(len(self._queue))
        return batch

    def _in_time(self, batch: list[_Job]) -> list[_Job]:
        """Those that somebody waits for still."""
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
        return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        results = together(self._compute, [job.rows for job in jobs])
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)


def computed(computations: Sequence[Computation]) -> list[Any]:
    """What each comes to, or the error that it alone causes."""
    if len(computations) == 1:
        return together(computations[0].compute, [computations[0].rows])
    alike: dict[Compute, list[int]] = {}
    for place, computation in enumerate(computations):
        alike.setdefault(computation.compute, []).append(place)
    results: dict[int, Any] = {}
    for compute, places in alike.items():
        found = together(compute, [computations[place].rows for place in places])
        results.update(zip(places, found, strict=True))
    return [results[place] for place in range(len(computations))]


def together(compute: Compute, requests: Sequence[Rows]) -> list[Any]:
    """What each request comes to, computed as one batch; those of a batch that fails are halved
    until it is found whose fault it was, and that one's is the error.
    """
    if not requests:
        return []
    try:
        return list(compute(requests))
    except BaseException as error:  # noqa: BLE001 - handed to the caller whose rows they were
        if len(requests) == 1:
            return [_harmless(error)]
    middle = len(requests) // 2
    return [*together(compute, requests[:middle]), *together(compute, requests[middle:])]


def _harmless(error: BaseException) -> Exception:
    """A model that calls sys.exit must not end the server of everybody else, and no future on an
    event loop may hold a StopIteration.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return Internal(f"The model raised {type(error).__name__}.")
