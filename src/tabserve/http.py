"""HTTP without a framework: routes, the path of a request, and the error body.

A handler is a function of a Request; where it waits it gives back what for. Whether a thread or an
event loop waits (exchange.py) does not show in it.
"""

import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson

from tabserve.auth import HEADER, Keys, Role, refuse_key_in
from tabserve.cors import Cors
from tabserve.errors import (
    BadRequest,
    ClientError,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    TabserveError,
    TooLarge,
    UnknownKey,
    UnsupportedCoding,
    UnsupportedMediaType,
)
from tabserve.hosts import Hosts
from tabserve.limits import Limiter, RateLimiter
from tabserve.logs import LogLine, RequestLog
from tabserve.metrics import Metrics
from tabserve.receiving import Bounds
from tabserve.types import Handler, Pending, Request, Response, new_id, timestamp

logger = logging.getLogger("tabserve")

# Taken over from the client, so it must not be able to break a log line or a header.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

_MILLISECONDS = re.compile(r"[1-9][0-9]{0,8}")

_KEY_HEADER = HEADER.lower()

# Of the keys that a route takes.
ANY_ROLE: frozenset[Role] = frozenset({"predict", "metrics", "admin"})
PREDICT: frozenset[Role] = frozenset({"predict", "admin"})
METRICS: frozenset[Role] = frozenset({"metrics", "admin"})
ADMIN: frozenset[Role] = frozenset({"admin"})

JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Route:
    """One method on one exact path.

    public: needs no key. limited: counts against the rate limit. has_rows: where that counts rows,
    the handler says how many (`charged`), and else it is one.
    roles: of the keys that it takes. takes: the type of the body, where it reads one.
    template: the path with the names of models and versions left open, under which its latency is
    counted; the path itself where left out.
    operation: its OpenAPI operation; None keeps it out of the document.
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    limited: bool = False
    has_rows: bool = False
    roles: frozenset[Role] = ANY_ROLE
    takes: str = ""
    operation: dict[str, Any] | None = field(default=None, compare=False)
    template: str = ""

    def below(self, prefix: str, template: str) -> "Route":
        """The same below a path."""
        inner = self.template or self.path
        return replace(self, path=prefix + self.path, template=template + inner)


_NO_METHODS: Mapping[str, Route] = {}


class Dispatcher:
    """Takes every request through route, key, rate limit, size and handler, to a response.

    keys, limiter: None where there are none. key_tries: counts wrong keys per address.
    counts_rows: whether the limit is of rows, and not of requests. cors: None where no page of
    another origin may ask. hosts: the names that it answers to. bounds: of what is taken of a
    request. clock: monotonic.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        metrics: Metrics,
        log: RequestLog,
        keys: Keys | None = None,
        key_tries: RateLimiter | None = None,
        limiter: Limiter | None = None,
        counts_rows: bool = False,
        cors: Cors | None = None,
        hosts: Hosts | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - it cannot be changed
        deadline_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bounds = bounds
        self._cors = cors
        self._hosts = hosts or Hosts()
        self._metrics = metrics
        self._log = log
        self._keys = keys
        self._key_tries = key_tries
        self._limiter = limiter
        self._counts_rows = counts_rows
        self._deadline_s = deadline_s
        self._clock = clock
        self.serve(routes)

    def serve(self, routes: Iterable[Route]) -> None:
        """Answer by these routes from now on; a request that was begun goes on by its own."""
        table: dict[str, dict[str, Route]] = {}
        latency: dict[str, str] = {}
        for route in routes:
            table.setdefault(route.path, {})[route.method] = route
            # Not of each file of the docs pages: they would be as many series again.
            if route.operation is not None or route.template:
                latency[route.path] = route.template or route.path
        # In one step each: no request sees half of a table.
        self._latency = _Latency(self._metrics, latency)
        self._routes = table

    @property
    def routes(self) -> list[Route]:
        """Those by which it answers now."""
        return [route for methods in self._routes.values() for route in methods.values()]

    def begin(self, request: Request) -> Response | Pending:
        """Its response, whatever happens; or what it waits for, with which `end` goes on."""
        request.started = self._clock()
        request.deadline = request.started + self._deadline_s
        request.request_id = _request_id(request.headers.get("x-request-id"))
        try:
            if "x-request-timeout-ms" in request.headers:
                request.deadline = min(request.deadline, request.started + _timeout_s(request))
            found = self._admitted(request).handler(request)
        except Exception as error:  # noqa: BLE001 - see told
            return self._failed(request, error)
        return self._waiting_or_finished(request, found)

    def end(self, request: Request, pending: Pending, result: Any) -> Response | Pending:
        """Its response, or what it waits for next. result: of what it waited for, or the error that
        it came to.
        """
        if isinstance(pending.awaited, Future):
            self._metrics.in_flight.dec()
        try:
            if isinstance(result, BaseException):
                raise result
            found = pending.then(result)
        except Exception as error:  # noqa: BLE001 - see told
            return self._failed(request, error)
        return self._waiting_or_finished(request, found)

    def _waiting_or_finished(
        self, request: Request, found: Response | Pending
    ) -> Response | Pending:
        if isinstance(found, Response):
            return self._finished(request, found)
        if isinstance(found.awaited, Future):
            self._metrics.in_flight.inc()
        return found

    def idle(self) -> None:
        """What is left of requests that are answered, and no client need wait for."""
        self._metrics.settle()
        self._log.make_ready()

    def _admitted(self, request: Request) -> Route:
        """The request's route, past key, rate limit and size."""
        if request.failure is not None:
            raise request.failure
        methods = self._routes.get(request.path, _NO_METHODS)
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        headers = request.headers
        host = headers.get("host")
        if host not in self._hosts.usual:
            self._hosts.check(host, is_public=route is not None and route.public)
        if request.query:
            refuse_key_in(request.query)
        if route is None:
            if self._cors is not None and self._cors.is_preflight(request):
                return Route("OPTIONS", request.path, self._cors.preflight)
            self._holder(request, ANY_ROLE)  # no stranger is told which routes there are
            raise _no_such(methods, has_docs="/docs" in self._routes)
        client = request.client if route.public else self._holder(request, route.roles)
        if route.limited and self._limiter is not None:
            wait_s = self._asked_limit(request, route, client, self._limiter)
            if isinstance(wait_s, Future):
                return replace(route, handler=self._handler_after(wait_s, route))
            self._refuse_beyond(wait_s)
        return self._fitting(request, route)

    def _fitting(self, request: Request, route: Route) -> Route:
        """The route, past what is told of the body."""
        if len(request.body) > self.bounds.max_body:
            raise self.bounds.body_too_large()
        if route.takes:
            _refuse_another_type(request.headers.get("content-type"), route.takes)
            if "content-encoding" in request.headers:
                coding = request.headers["content-encoding"]
                request.body = self.bounds.decoded(request.body, coding)
        return route

    def _holder(self, request: Request, roles: frozenset[Role]) -> str:
        """Whose limit counts: the key's, or the address's where there are no keys."""
        if self._keys is None:
            return request.client
        try:
            return "key:" + self._keys.holder(request.headers.get(_KEY_HEADER), roles)
        except UnknownKey:
            self._count_wrong_key(request.client)
            raise

    def _count_wrong_key(self, client: str) -> None:
        """Past the limit a wrong key has another answer, and a right one is taken as ever: else
        whoever shares an address with others, as behind a proxy, could lock them out. No limit is
        needed against guessing: keys have 256 random bits.
        """
        if self._key_tries is None:
            return
        retry_after_s = self._key_tries.admit(client)
        if retry_after_s > 0:
            raise RateLimited("Too many wrong API keys came from this address.", retry_after_s)

    def _asked_limit(
        self, request: Request, route: Route, client: str, limiter: Limiter
    ) -> float | Future[float]:
        if not (self._counts_rows and route.has_rows):
            return limiter.admit(client)
        request.charge = partial(self._charged, limiter, client)
        return limiter.admit(client, 0)  # who has nothing left need not be read

    def _handler_after(self, awaited: Future[float], route: Route) -> Handler:
        """The route's, once the limit has said how long to wait."""
        return lambda request: self._after(
            awaited, lambda: self._fitting(request, route).handler(request)
        )

    def _after(
        self, awaited: Future[float], go_on: Callable[[], Response | Pending]
    ) -> Response | Pending:
        def then(wait_s: float) -> Response | Pending:
            self._refuse_beyond(wait_s)
            return go_on()

        return Pending(awaited, then)

    def _charged(
        self, limiter: Limiter, client: str, n_rows: int, go_on: Callable[[], Response | Pending]
    ) -> Response | Pending:
        most = limiter.rate.count
        if n_rows > most:
            raise TooLarge(f"Expected at most {most} rows, since that is the limit for all.")
        wait_s = limiter.admit(client, n_rows)
        if isinstance(wait_s, Future):
            return self._after(wait_s, go_on)
        self._refuse_beyond(wait_s)
        return go_on()

    def _refuse_beyond(self, wait_s: float) -> None:
        if wait_s > 0:
            assert self._limiter is not None
            rate, what = self._limiter.rate, "rows" if self._counts_rows else "requests"
            raise RateLimited(f"The limit is {rate.count} {what} in {rate.period_s} s.", wait_s)

    def _failed(self, request: Request, error: Exception) -> Response:
        error = told(error, request.request_id)
        return self._finished(request, error_response(error, request.request_id), error.code)

    def _finished(self, request: Request, response: Response, code: str = "") -> Response:
        """code: of the error, if it is one."""
        response.headers["X-Request-ID"] = request.request_id
        if self._cors is not None:
            self._cors.allow(request, response)
        elapsed_s = self._clock() - request.started
        self._metrics.later(self._latency[request.path].observe, elapsed_s)
        if code:
            self._metrics.errors.labels(code).inc()
        finished = _Finished(request, response, code, elapsed_s, time.time())
        self._log.write(finished.lines, response.n_log_lines)
        return response


def _no_such(methods: Mapping[str, Route], has_docs: bool) -> ClientError:
    """methods: of the path."""
    if not methods:
        where = "; /docs lists those there are" if has_docs else ""
        return NotFound(f"There is no such route{where}.")
    return MethodNotAllowed(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))


class _Latency(dict[str, Any]):
    """The histogram of each path, made when the first request for it was answered: one of a route
    that nobody asks is twenty lines of zeros. Paths that are not listed share one, so that clients
    cannot make more.
    """

    def __init__(self, metrics: Metrics, labels: dict[str, str]) -> None:
        super().__init__()
        self._metrics = metrics
        self._labels = labels

    def __missing__(self, path: str) -> Any:
        label = self._labels.get(path)
        found = self._metrics.latency.labels(label or "other")
        if label is not None:
            self[path] = found
        return found


@dataclass(slots=True)
class _Finished:
    """at: when, in seconds since 1970."""

    request: Request
    response: Response
    code: str
    elapsed_s: float
    at: float

    def lines(self) -> list[LogLine]:
        request, log = self.request, self.response.log
        common: LogLine = {
            "timestamp": timestamp(self.at),
            "event": "error" if self.code else "prediction" if log else "request",
            "request_id": request.request_id,
            "method": request.method,
            "path": request.path[:200],
            "status": self.response.status,
            "latency_ms": round(1000 * self.elapsed_s, 3),
        }
        if self.code:
            common["code"] = self.code
        return [common | line for line in log()] if log else [common]


def _refuse_another_type(given: str | None, expected: str) -> None:
    """A request that does not say what it sends is taken to send what is expected."""
    if not given or given == expected:
        return
    if given.partition(";")[0].strip().lower() != expected:
        raise UnsupportedMediaType(
            f"Expected the header Content-Type: {expected}, got another type."
        )


def charged(
    request: Request, n_rows: int, go_on: Callable[[], Response | Pending]
) -> Response | Pending:
    """What `go_on` gives, once the rate limit has taken the rows, where it counts them."""
    return go_on() if request.charge is None else request.charge(n_rows, go_on)


def json_response(content: Any, status: int = 200) -> Response:
    return Response(status, orjson.dumps(content))


def error_response(error: TabserveError, request_id: str) -> Response:
    """The one error body of the native protocol."""
    response = json_response(error_body(error) | {"request_id": request_id}, error.status)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, UnsupportedCoding):
        response.headers["Accept-Encoding"] = error.accepted
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        # Whole seconds, and never before the moment itself.
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return response


def error_body(error: TabserveError) -> dict[str, Any]:
    detail: Any = error.problems if isinstance(error, InvalidInput) else str(error)
    return {"error": error.code, "detail": detail}


def told(error: Exception, request_id: str) -> TabserveError:
    """What the client may know of it. What is no error of ours, or is the server's or the model's
    fault, is told to the operator.
    """
    if not isinstance(error, TabserveError):
        _log_failure(error, request_id)
        return Internal("The server failed.")
    if isinstance(error, Internal):
        logger.error("request %s failed: %s", request_id, error)
    return error


def _timeout_s(request: Request) -> float:
    """Within which its client wants its answer. Raises BadRequest."""
    given = request.headers["x-request-timeout-ms"]
    if not _MILLISECONDS.fullmatch(given):
        raise BadRequest("Expected a whole number of milliseconds in X-Request-Timeout-Ms.")
    return int(given) / 1000


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()


def _log_failure(error: Exception, request_id: str) -> None:
    """The place and the kind of the failure; its message may hold the row, so it stays out."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s failed: %s\n%s", request_id, type(error).__name__, frames)
