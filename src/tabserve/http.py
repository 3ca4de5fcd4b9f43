"""HTTP without a framework: the path of a request to its response.

A handler is a function of a Request; where it waits it gives back what for. Whether a thread or an
event loop waits (exchange.py) does not show in it.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tabserve.admission import Admission
from tabserve.cors import Cors
from tabserve.errors import BadRequest, ClientError, MethodNotAllowed, NotFound
from tabserve.lines import Lines
from tabserve.logs import LogLine, RequestLog
from tabserve.metrics import Metrics
from tabserve.redaction import without_keys
from tabserve.responses import error_response, log_failure, told
from tabserve.routing import Route
from tabserve.types import Handler, Pending, Request, Response, new_id, timestamp

# Taken over from the client, so it must not be able to break a log line or a header.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

_MILLISECONDS = re.compile(r"[1-9][0-9]{0,8}")

_NO_METHODS: Mapping[str, Route] = {}


class Dispatcher:
    """Takes every request through route, admission and handler, to a response.

    cors: None where no page of another origin may read an answer. clock: monotonic.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        admission: Admission,
        *,
        metrics: Metrics,
        log: RequestLog,
        cors: Cors | None = None,
        deadline_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bounds = admission.bounds
        self._admission = admission
        self._metrics = metrics
        self._log = log
        self._cors = cors
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
            found = self._handler(request)(request)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see told
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
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see told
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

    def _handler(self, request: Request) -> Handler:
        if request.failure is not None:
            raise request.failure
        methods = self._routes.get(request.path, _NO_METHODS)
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        self._admission.check_address(request, route)
        if route is not None:
            return self._admission.handler(request, route)
        if self._cors is not None and self._cors.is_preflight(request):
            return self._cors.preflight
        self._admission.check_key(request)
        raise _no_such(methods, has_docs="/docs" in self._routes)

    def _failed(self, request: Request, error: BaseException) -> Response:
        error = told(error, request.request_id)
        return self._finished(request, error_response(error, request.request_id), error.code)

    def _finished(self, request: Request, response: Response, code: str = "") -> Response:
        """code: of the error, if it is one."""
        response.headers["X-Request-ID"] = request.request_id
        if self._cors is not None:
            self._cors.allow(request, response)
        try:
            self._note(request, response, code)
        except Exception as error:  # noqa: BLE001 - no reason to withhold the answer
            log_failure(error, request.request_id)
        return response

    def _note(self, request: Request, response: Response, code: str) -> None:
        elapsed_s = self._clock() - request.started
        self._metrics.later(self._latency[request.path].observe, elapsed_s)
        if code:
            self._metrics.errors.labels(code).inc()
        finished = _Finished(request, response, code, elapsed_s, time.time())
        self._log.write(finished.lines, response.n_log_lines, len(request.body))


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

    def lines(self) -> list[LogLine] | Lines:
        request, log = self.request, self.response.log
        common: LogLine = {
            "timestamp": timestamp(self.at),
            "event": "error" if self.code else "prediction" if log else "request",
            "request_id": request.request_id,
            "method": request.method,
            "path": without_keys(request.path)[:200],
            "status": self.response.status,
            "latency_ms": round(1000 * self.elapsed_s, 3),
        }
        if self.code:
            common["code"] = self.code
        if log is None:
            return [common]
        lines = log()
        lines.common = common | lines.common
        return lines


def _timeout_s(request: Request) -> float:
    """Within which its client wants its answer. Raises BadRequest."""
    given = request.headers["x-request-timeout-ms"]
    if not _MILLISECONDS.fullmatch(given):
        raise BadRequest("Expected a whole number of milliseconds above 0 in X-Request-Timeout-Ms.")
    return int(given) / 1000


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()
