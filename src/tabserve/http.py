"""HTTP without a framework: routes, the path of a request, the error body, and two ways to run it.

A handler is a function of a Request; where it waits it is a generator that yields the Future it
waits for. `run` drives it in a thread, `run_async` on an event loop, and neither shows in it.
"""

import asyncio
import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson

from tabserve.auth import HEADER, Keys
from tabserve.batching import computed
from tabserve.errors import (
    BadRequest,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    TabserveError,
    TooLarge,
)
from tabserve.limits import RateLimiter
from tabserve.logs import LogLine, RequestLog
from tabserve.metrics import Metrics
from tabserve.types import Computation, Flow, Handler, Request, Response, new_ids, timestamp

logger = logging.getLogger("tabserve")

# Taken over from the client, so it must not be able to break a log line or a header.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True)
class Route:
    """One method on one exact path.

    public: needs no key. limited: counts against the rate limit.
    operation: its OpenAPI operation; None keeps it out of the document.
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    limited: bool = False
    operation: dict[str, Any] | None = field(default=None, compare=False)


class Dispatcher:
    """Takes every request through route, key, rate limit, size and handler.

    keys, limiter: None where there are none. clock: monotonic.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        metrics: Metrics,
        log: RequestLog,
        keys: Keys | None = None,
        limiter: RateLimiter | None = None,
        max_body: int = 4 * 2**20,
        deadline_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_body = max_body
        self._routes: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._routes.setdefault(route.path, {})[route.method] = route
        self._metrics = metrics
        self._log = log
        self._keys = keys
        self._limiter = limiter
        self._deadline_s = deadline_s
        self._clock = clock
        # Paths that are in the document: the files of the docs pages would be as many series again.
        self._latency = {
            path: metrics.latency.labels(path)
            for path, methods in self._routes.items()
            if any(route.operation is not None for route in methods.values())
        }
        self._latency_elsewhere = metrics.latency.labels("other")

    def respond(self, request: Request) -> Flow:
        """The whole path of a request; whatever happens, it ends in a Response."""
        request.started = self._clock()
        request.deadline = request.started + self._deadline_s
        request.request_id = _request_id(request.headers.get("x-request-id"))
        self._metrics.in_flight.inc()
        try:
            response = yield from self._answer(request)
            code = ""
        except TabserveError as error:
            if isinstance(error, Internal):
                logger.error("request %s failed: %s", request.request_id, error)
            response, code = error_response(error, request.request_id), error.code
        except Exception as error:  # noqa: BLE001 - told to the operator, and to the client as 500
            _log_failure(error, request.request_id)
            response = error_response(Internal("The server failed."), request.request_id)
            code = Internal.code
        finally:
            self._metrics.in_flight.dec()
        response.headers["X-Request-ID"] = request.request_id
        self._observe(request, response, code)
        return response

    def _answer(self, request: Request) -> Flow:
        route = self._route(request)
        client = request.client if route.public else self._holder(request)
        if route.limited and self._limiter is not None:
            self._admit(client, self._limiter)
        if request.failure is not None:
            raise request.failure
        if len(request.body) > self.max_body:
            raise TooLarge(f"Expected a body of at most {self.max_body} bytes.")
        result = route.handler(request)
        return (yield from result) if isinstance(result, Generator) else result

    def _route(self, request: Request) -> Route:
        methods = self._routes.get(request.path)
        if methods is None:
            raise NotFound("There is no such route; /docs lists those there are.")
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
            raise MethodNotAllowed(allowed)
        return methods[method]

    def _holder(self, request: Request) -> str:
        """Whose limit counts: the key's, or the address's where there are no keys."""
        if self._keys is None:
            return request.client
        return "key:" + self._keys.holder(request.headers.get(HEADER.lower()))

    def _admit(self, client: str, limiter: RateLimiter) -> None:
        retry_after_s = limiter.admit(client)
        if retry_after_s > 0:
            rate = limiter.rate
            raise RateLimited(
                f"The limit is {rate.count} requests in {rate.period_s} s.", retry_after_s
            )

    def _observe(self, request: Request, response: Response, code: str) -> None:
        elapsed_s = self._clock() - request.started
        self._latency.get(request.path, self._latency_elsewhere).observe(elapsed_s)
        if code:
            self._metrics.errors.labels(code).inc()
        at = time.time()

        def lines() -> list[LogLine]:
            common: LogLine = {
                "timestamp": timestamp(at),
                "event": "error" if code else "prediction" if response.log else "request",
                "request_id": request.request_id,
                "method": request.method,
                "path": request.path[:200],
                "status": response.status,
                "latency_ms": round(1000 * elapsed_s, 3),
            }
            if code:
                common["code"] = code
            return [common | line for line in response.log()] if response.log else [common]

        self._log.write(lines, response.n_log_lines)


_Step = Callable[[], "Future[Any] | Computation"]


def json_response(content: Any, status: int = 200) -> Response:
    return Response(status, orjson.dumps(content))


def error_response(error: TabserveError, request_id: str) -> Response:
    """The one error body of the native protocol."""
    detail: Any = error.problems if isinstance(error, InvalidInput) else str(error)
    response = json_response(
        {"error": error.code, "detail": detail, "request_id": request_id}, error.status
    )
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        # Whole seconds, and never before the moment itself.
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return response


def run(flow: Flow, request: Request) -> Response:
    """Drive a flow to its response in this thread."""
    step: _Step = lambda: next(flow)  # noqa: E731
    while True:
        try:
            future = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if isinstance(future, Computation):
            (result,) = computed([future])
            step = _going_on(flow, result)
            continue
        try:
            future.exception(timeout=max(0.0, request.deadline - time.monotonic()))
        except TimeoutError:
            future.cancel()
        step = _resumption(flow, future)


class Turn:
    """What the requests of one turn of the event loop have to compute: at its end, as one batch.

    Nothing waits for requests that may come. What the processor has to fetch for a computation,
    which is most of what a single row costs, it fetches once.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Computation, asyncio.Future[Any]]] = []

    async def result(self, computation: Computation) -> Any:
        """Its outputs, or the error that it comes to."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._end)
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((computation, future))
        return await future

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, []
        wanted = [(one, future) for one, future in waiting if not future.done()]
        for (_, future), result in zip(wanted, computed([one for one, _ in wanted]), strict=True):
            future.set_result(result)


async def run_async(
    flow: Flow, request: Request, left: Callable[[], Coroutine[Any, Any, None]], turn: Turn
) -> Response:
    """Drive a flow to its response without blocking the event loop.

    left: ends once the client has left; its rows need not be computed then.
    """
    step: _Step = lambda: next(flow)  # noqa: E731
    while True:
        try:
            future = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        if isinstance(future, Computation):
            try:
                step = _going_on(flow, await turn.result(future))
            except asyncio.CancelledError:
                flow.close()
                raise
            continue
        if not future.done():
            timeout_s = max(0.0, request.deadline - time.monotonic())
            waiting = asyncio.wrap_future(future)
            leaving = asyncio.ensure_future(left())
            for awaited in (waiting, leaving):
                # asyncio logs an error that nobody looked at, and its message may hold the row.
                awaited.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.wait(
                    {waiting, leaving},
                    timeout=timeout_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            except asyncio.CancelledError:
                future.cancel()
                flow.close()
                raise
            finally:
                leaving.cancel()
            if not future.done():
                future.cancel()
                if leaving.done():
                    step = _failing(flow, BadRequest("The client left before its answer."))
                    continue
        step = _resumption(flow, future)


def _resumption(flow: Flow, future: "Future[Any]") -> _Step:
    """How the flow goes on: with the result, the failure, or the deadline's."""
    if not future.done() or future.cancelled():
        return _failing(flow, DeadlineExceeded("The model did not answer in time."))
    return _going_on(flow, future.exception() or future.result())


def _going_on(flow: Flow, result: Any) -> _Step:
    """With what was computed, or the error that it came to."""
    if isinstance(result, BaseException):
        return _failing(flow, result)
    return lambda: flow.send(result)


def _failing(flow: Flow, error: BaseException) -> _Step:
    return lambda: flow.throw(error)


def _request_id(given: str | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return new_ids(1)[0]


def _log_failure(error: Exception, request_id: str) -> None:
    """The place and the kind of the failure; its message may hold the row, so it stays out."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s failed: %s\n%s", request_id, type(error).__name__, frames)
