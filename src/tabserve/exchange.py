"""Requests driven to their responses: by a thread that waits, or by an event loop that does not."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import ref

from tabserve.batching import computed
from tabserve.cpus import usable_cpus
from tabserve.errors import ClientLeft, DeadlineExceeded, Overloaded
from tabserve.http import Dispatcher
from tabserve.responses import failure, log_failure
from tabserve.types import Computation, Pending, Request, Response

# What is left to do of answered requests waits for so many of them, or for so long.
_MOST_LEFT = 16
_LEFT_S = 0.005
# An only client that has its answer sends the next request within this, if it always asks again.
# To be woken takes about as long as to compute an answer; not to sleep costs no more than that.
_AWAKE_S = 50e-6


def respond(core: Dispatcher, request: Request) -> Response:
    """In this thread, which waits for the model."""
    response = _responded(core, request)
    core.idle()
    return response


def _responded(core: Dispatcher, request: Request) -> Response:
    found = core.begin(request)
    while isinstance(found, Pending):
        awaited = found.awaited
        if isinstance(awaited, Computation):
            (result,) = computed([awaited])
        else:
            with suppress(TimeoutError):
                awaited.exception(timeout=max(0.0, request.deadline - monotonic()))
            result = _result(awaited)
        found = core.end(request, found, result)
    return found


class Turn:
    """What has come in one turn of the event loop: taken through each stage together, at its end.

    Nothing waits for requests that may come. What the processor has to fetch for a stage, which is
    most of what a single row costs, it fetches once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # asking for the running loop is a system call
        self._begun: list[Exchange] = []
        self._is_due = False  # that it is taken
        self._cores: set[Dispatcher] = set()  # that have something left to do
        self._n_answered = 0  # since they did
        self._timer: asyncio.TimerHandle | None = None
        # Where there is one CPU, the client needs it.
        self._may_stay_awake = usable_cpus() > 1
        self._awake_until = 0.0
        self._is_awake = False

    def begin(
        self, core: Dispatcher, request: Request, answered: Callable[[Response], None]
    ) -> "Exchange":
        """To be taken, with `take` or `soon`. answered: told the response, once; not where the loop
        ends before.
        """
        exchange = Exchange(self, core, request, answered)
        self._begun.append(exchange)
        return exchange

    def soon(self) -> None:
        """Take what has begun at the turn's end."""
        if self._begun and not self._is_due:
            self._is_due = True
            self._call_soon(self.take)

    def take(self) -> None:
        """What has begun, through all stages: at the turn's end, or before, where nothing else can
        come in it.
        """
        begun, self._begun, self._is_due = self._begun, [], False
        if not begun:
            return
        exchanges, computations = [], []
        for exchange in begun:
            computation = exchange.begin()
            if computation is not None:
                exchanges.append(exchange)
                computations.append(computation)
        for exchange, result in zip(exchanges, computed(computations), strict=True):
            exchange.end(result)

    def stay_awake(self) -> None:
        """The loop looks for what comes next before it waits for it."""
        if not self._may_stay_awake:
            return
        self._awake_until = monotonic() + _AWAKE_S
        if not self._is_awake:
            self._is_awake = True
            self._call_soon(self._look)

    def _look(self) -> None:
        if monotonic() < self._awake_until:
            self._call_soon(self._look)
        else:
            self._is_awake = False

    def done(self, core: Dispatcher) -> None:
        """One of its requests was answered: it has something left to do, which is done for several
        at once, and soon.
        """
        self._cores.add(core)
        self._n_answered += 1
        if self._n_answered == _MOST_LEFT:
            self._call_soon(self._idle)
        elif self._timer is None and (loop := self._loop()) is not None:
            self._timer = loop.call_later(_LEFT_S, self._idle_at_last)

    def _idle(self) -> None:
        cores, self._cores, self._n_answered = self._cores, set(), 0
        for core in cores:
            core.idle()

    def _idle_at_last(self) -> None:
        self._timer = None
        self._idle()

    def _call_soon(self, function: Callable[[], None]) -> None:
        loop = self._loop()
        assert loop is not None
        loop.call_soon(function)


class Exchange:
    """One request on its way to its response, on an event loop. Whatever it meets there is its own:
    those of the same turn go on.
    """

    __slots__ = ("_answered", "_awaited", "_core", "_pending", "_request", "_timer", "_turn")

    def __init__(
        self,
        turn: Turn,
        core: Dispatcher,
        request: Request,
        answered: Callable[[Response], None],
    ) -> None:
        self._turn = turn
        self._core = core
        self._request = request
        self._answered = answered
        self._pending: Pending
        self._awaited: Future[Any] | None = None
        self._timer: asyncio.TimerHandle

    def begin(self) -> Computation | None:
        """Up to what is to be computed at once, to what it waits for, or to its response."""
        try:
            found = self._core.begin(self._request)
        except Exception as error:  # noqa: BLE001 - told to its client and to the operator
            found = failure(error, self._request.request_id)
        return self._go_on(found)

    def end(self, result: Any) -> None:
        """To its response, or to what it waits for next. result: what was computed, or the error
        that it came to.
        """
        try:
            found = self._core.end(self._request, self._pending, result)
        except Exception as error:  # noqa: BLE001 - told to its client and to the operator
            found = failure(error, self._request.request_id)
        computation = self._go_on(found)
        if computation is not None:
            (result,) = computed([computation])
            self.end(result)

    def leave(self) -> None:
        """The client has left: what is not begun need not be computed."""
        self._resume(ClientLeft("The client left before its answer."))

    def _go_on(self, found: Response | Pending) -> Computation | None:
        """With what is to be computed at once, if anything is."""
        if isinstance(found, Response):
            self._answer(found)
            return None
        self._pending, awaited = found, found.awaited
        if isinstance(awaited, Computation):
            return awaited
        self._wait(awaited)
        return None

    def _answer(self, response: Response) -> None:
        try:
            self._answered(response)
        except Exception as error:  # noqa: BLE001 - its client alone is left without an answer
            log_failure(error, self._request.request_id)
        self._turn.done(self._core)

    def _wait(self, future: "Future[Any]") -> None:
        self._awaited = future
        loop = asyncio.get_running_loop()
        left_s = max(0.0, self._request.deadline - monotonic())
        self._timer = loop.call_later(left_s, self._resume)

        def done(_: "Future[Any]") -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._resume)

        future.add_done_callback(done)

    def _resume(self, otherwise: Exception | None = None) -> None:
        """Done, too late, or the client has left: whichever comes first.

        otherwise: the error, where it is not done; else the deadline's.
        """
        future, self._awaited = self._awaited, None
        if future is not None:
            self._timer.cancel()
            self.end(_result(future, otherwise))


def _result(future: "Future[Any]", otherwise: Exception | None = None) -> Any:
    """Of a future that was waited for: what it came to. One that is not done is given up."""
    if not future.done():
        if future.cancel():  # its turn had not come
            return otherwise or Overloaded("The model was not free in time.")
        return otherwise or DeadlineExceeded("The model did not answer in time.")
    return future.exception() or future.result()
