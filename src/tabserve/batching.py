"""Computes what has queued as one batch, in a thread of its own.

It never waits for more: a request that finds the engine idle is computed at once, and one that
finds it busy joins the others that came meanwhile. Who would wait in vain is told so at once.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tabserve.cost import Cost
from tabserve.errors import Internal, ModelNotReady, Overloaded
from tabserve.types import Computation, Compute, Rows

# A batch is closed at so many rows: a request that joined it would gain nothing more, and would
# wait for all of it.
MAX_JOINED_ROWS = 4096

# What was learnt of the model's cost is believed for so long after its last call: a model that is
# thought to be too slow for everybody would never be called again.
_BELIEVED_S = 1.0
# A request is refused if its answer is expected later than at this share of its time: the rest is a
# margin for what is only estimated.
_USABLE = 0.9


@dataclass(slots=True)
class _Job:
    rows: Rows
    deadline: float
    future: "Future[Any]" = field(default_factory=Future)


class Batcher:
    """Bounded queue in front of one function and the one thread that calls it.

    max_queue, max_queue_rows: requests, and rows of theirs, that may wait.
    max_wait_s: that one may be expected to wait, by what the function's calls took lately.
    joinable: whether rows of several requests may be computed together.
    on_queued: told how many came into the queue, below 0 how many left it.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        joinable: bool = True,
        max_queue: int = 1000,
        max_queue_rows: int = 100_000,
        max_wait_s: float = inf,
        on_queued: Callable[[int], None] = lambda change: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._joinable = joinable
        self._max_queue = max_queue
        self._max_queue_rows = max_queue_rows
        self._max_wait_s = max_wait_s
        self._on_queued = on_queued
        self._clock = clock
        self._queue: deque[_Job] = deque()
        self._queued_rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._cost = Cost()
        self._computing_since: float | None = None
        self._computing_rows = 0
        self._computed_at = -inf
        self._thread = threading.Thread(target=self._work, name="tabserve-batcher", daemon=True)
        self._thread.start()

    def submit(self, rows: Rows, deadline: float = inf) -> "Future[Any]":
        """What is computed of these rows, in time. deadline: on the monotonic clock.

        Raises Overloaded where the queue is full, or the answer is not to be expected in time. The
        future fails with what the computation raised, or Overloaded where the turn came too late;
        cancelling it before its turn costs its neighbours nothing.
        """
        job = _Job(rows, deadline)
        with self._changed:
            if self._closed:
                raise ModelNotReady("The model is being shut down.")
            self._refuse_in_vain(job)
            self._queue.append(job)
            self._queued_rows += rows.n_rows
            self._on_queued(1)
            self._changed.notify()
        return job.future

    def _refuse_in_vain(self, job: _Job) -> None:
        """Raises Overloaded."""
        now, n_rows = self._clock(), job.rows.n_rows
        wait_s = self._wait_s(now)
        if len(self._queue) >= self._max_queue or (
            self._queue and self._queued_rows + n_rows > self._max_queue_rows
        ):
            raise Overloaded(
                f"{len(self._queue)} requests are waiting for the model already; try again.",
                wait_s,
            )
        if wait_s > self._max_wait_s:
            raise Overloaded("The model is busy for longer than a request may wait.", wait_s)
        is_known = self._computing_since is not None or now < self._computed_at + _BELIEVED_S
        if is_known and wait_s + self._cost.of(n_rows) > _USABLE * (job.deadline - now):
            raise Overloaded("The model cannot answer within the time for this request.", wait_s)

    def _wait_s(self, now: float) -> float:
        """Until the model is free for what comes next, as far as is known."""
        n_calls: float = len(self._queue)
        if self._joinable and n_calls:
            n_calls = max(1.0, self._queued_rows / min(self._cost.most_rows, MAX_JOINED_ROWS))
        wait_s = self._cost.of(self._queued_rows, n_calls)
        since = self._computing_since  # read once: the other thread changes it
        if since is None:
            return wait_s
        expected_s = self._cost.of(self._computing_rows)
        elapsed_s = now - since
        # A call that lasts longer than expected may last as long again.
        return wait_s + (expected_s - elapsed_s if elapsed_s < expected_s else elapsed_s)

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
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """False at the end. While the thread waits, none of its variables holds what was computed:
        a request's callbacks hold its model, which could not go once another takes its place.
        """
        jobs = self._in_time(batch := self._next_batch())
        if jobs:
            self._computing_rows = sum([job.rows.n_rows for job in jobs])
            self._computing_since = began = self._clock()
            self._answer(jobs)
            self._computing_since, self._computed_at = None, self._clock()
            self._cost.learn(self._computing_rows, self._computed_at - began)
        return bool(batch)

    def _next_batch(self) -> list[_Job]:
        """At least one job, waiting for it; empty once closed."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            batch = [self._queue.popleft()]
            n_rows, ends = batch[0].rows.n_rows, batch[0].deadline
            most_rows, now = min(self._cost.most_rows, MAX_JOINED_ROWS), self._clock()
            while self._joinable and self._queue:
                n_joined = n_rows + self._queue[0].rows.n_rows
                ends = min(ends, self._queue[0].deadline)
                if n_joined > most_rows or now + self._cost.of(n_joined) > ends:
                    break
                n_rows = n_joined
                batch.append(self._queue.popleft())
            self._queued_rows -= n_rows
            self._on_queued(-len(batch))
        return batch

    def _in_time(self, batch: list[_Job]) -> list[_Job]:
        """Those that somebody waits for still, and that can be answered before he leaves."""
        now = self._clock()
        is_known = now < self._computed_at + _BELIEVED_S
        jobs = []
        for job in batch:
            if not job.future.set_running_or_notify_cancel():
                continue  # its caller left
            left_s = job.deadline - now
            if left_s <= 0 or (is_known and left_s < self._cost.of(job.rows.n_rows)):
                job.future.set_exception(Overloaded("The model was not free in time."))
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
