"""When the next request of a load test starts."""

import asyncio
from collections.abc import Callable
from math import ceil

# A connection that refuses does so at once; without a pause its count would drown the rest.
_PAUSE_AFTER_BREAK_S = 0.1

# The event loop's timer counts in whole milliseconds, so a worker wakes up to this late. That is
# no wait for the server, so it is not counted as one; a later waking is, for it may hide a stall.
_TIMER_S = 0.002


class ClosedLoop:
    """Each connection sends its next request when its answer came, until the time is up.

    clock: seconds, monotonic; the time starts now.
    """

    def __init__(self, duration_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends = clock() + duration_s

    async def next_start(self, *, connection_broke: bool) -> float | None:
        """The time from which the request's latency counts; None when no more are to be sent."""
        if connection_broke:
            await asyncio.sleep(_PAUSE_AFTER_BREAK_S)
        now = self._clock()
        return now if now < self._ends else None

    def stop(self) -> None:
        self._ends = min(self._ends, self._clock())

    def n_unsent(self) -> int:
        """Requests whose time had come and that found no connection until the end."""
        return 0


class OpenLoop:
    """Requests start on a fixed schedule, whatever the answers; the wait for a connection counts.

    Latency counts from the scheduled start. Counted from the sending, a stall of the server would
    show in one request only and not in those that queued behind it (coordinated omission).
    Source: Gil Tene, wrk2, "Acknowledging the Coordinated Omission problem".
    """

    def __init__(self, rate: float, duration_s: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = rate
        self._begins = clock()
        self._ends = self._begins + duration_s
        # 30.000000000000004 slots are 30
        self._n_slots = ceil(rate * duration_s - 1e-9)
        self._n_taken = 0

    async def next_start(self, *, connection_broke: bool) -> float | None:
        """As ClosedLoop.next_start; waits until the request's time has come."""
        now = self._clock()
        if self._n_taken >= self._n_slots or now >= self._ends:
            return None
        due = self._begins + self._n_taken / self._rate
        self._n_taken += 1
        if due <= now:
            return due
        await asyncio.sleep(due - now)
        if due >= self._ends:  # stopped meanwhile
            return None
        woken = self._clock()
        return woken if woken - due < _TIMER_S else due

    def stop(self) -> None:
        self._ends = min(self._ends, self._clock())

    def n_unsent(self) -> int:
        due_by_the_end = ceil((self._ends - self._begins) * self._rate - 1e-9)
        return max(0, min(self._n_slots, due_by_the_end) - self._n_taken)
