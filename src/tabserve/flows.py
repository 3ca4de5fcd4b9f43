"""Flows driven to their responses: by a thread that waits, or by an event loop that does not."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from tabserve.batching import computed
from tabserve.errors import BadRequest, DeadlineExceeded
from tabserve.types import Computation, Flow, Request, Response


def run(flow: Flow, request: Request) -> Response:
    """Drive a flow to its response in this thread."""
    result: Any = None
    while True:
        try:
            awaited = _advanced(flow, result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if isinstance(awaited, Computation):
            (result,) = computed([awaited])
        else:
            with suppress(TimeoutError):
                awaited.exception(timeout=max(0.0, request.deadline - time.monotonic()))
            result = _result(awaited)


class Turn:
    """What has come in one turn of the event loop: taken through each stage together, at its end.

    Nothing waits for requests that may come. What the processor has to fetch for a stage, which is
    most of what a single row costs, it fetches once.
    """

    def __init__(self) -> None:
        self._going: list[tuple[Exchange, Any]] = []

    def begin(
        self, flow: Flow, request: Request, answered: Callable[[Response], None]
    ) -> "Exchange":
        """answered: told the response, once; not where the loop ends before."""
        exchange = Exchange(self, flow, request, answered)
        self.go_on(exchange, None)
        return exchange

    def go_on(self, exchange: "Exchange", result: Any) -> None:
        if not self._going:
            asyncio.get_running_loop().call_soon(self._end)
        self._going.append((exchange, result))

    def _end(self) -> None:
        going, self._going = self._going, []
        while going:
            computing = []
            for exchange, result in going:
                computation = exchange.advance(result)
                if computation is not None:
                    computing.append((exchange, computation))
            results = computed([computation for _, computation in computing])
            going = [
                (exchange, result) for (exchange, _), result in zip(computing, results, strict=True)
            ]


class Exchange:
    """One request on its way to its response, on an event loop."""

    __slots__ = ("_answered", "_awaited", "_flow", "_request", "_timer", "_turn")

    def __init__(
        self, turn: Turn, flow: Flow, request: Request, answered: Callable[[Response], None]
    ) -> None:
        self._turn = turn
        self._flow = flow
        self._request = request
        self._answered = answered
        self._awaited: Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def leave(self) -> None:
        """The client has left: what is still to come need not be computed."""
        self._resume(BadRequest("The client left before its answer."))

    def advance(self, result: Any) -> Computation | None:
        """Up to what the flow wants computed, to a future that it waits for, or to its response.

        result: of what it waited for, or the error that it came to; None at first.
        """
        try:
            awaited = _advanced(self._flow, result)
        except StopIteration as stop:
            self._answered(stop.value)
            return None
        if isinstance(awaited, Computation):
            return awaited
        self._wait(awaited)
        return None

    def _wait(self, future: "Future[Any]") -> None:
        self._awaited = future
        loop = asyncio.get_running_loop()
        left_s = max(0.0, self._request.deadline - time.monotonic())
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
            assert self._timer is not None
            self._timer.cancel()
            self._turn.go_on(self, _result(future, otherwise))


def _advanced(flow: Flow, result: Any) -> "Future[Any] | Computation":
    """What the flow waits for next. Raises StopIteration, with the response."""
    return flow.throw(result) if isinstance(result, BaseException) else flow.send(result)


def _result(future: "Future[Any]", otherwise: Exception | None = None) -> Any:
    """Of a future that was waited for: what it came to. One that is not done is given up."""
    if not future.done():
        future.cancel()
        return otherwise or DeadlineExceeded("The model did not answer in time.")
    return future.exception() or future.result()
