"""Requests taken through a dispatcher, by a thread and by an event loop alike."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import orjson
import pytest

from tabserve.admission import Admission
from tabserve.exchange import Exchange, Turn, respond
from tabserve.http import Dispatcher
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.responses import json_response
from tabserve.routing import Route
from tabserve.types import Pending, Request, Response

PATIENCE_S = 20
ROW = "Ada Lovelace, 36"

Drive = Callable[[Dispatcher, Request], Response]


async def answered(core: Dispatcher, request: Request) -> Response:
    answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    begun(core, request, answer.set_result)
    return await answer


def begun(core: Dispatcher, request: Request, told: Callable[[Response], None]) -> Exchange:
    turn = Turn(asyncio.get_running_loop())
    exchange = turn.begin(core, request, told)
    turn.soon()
    return exchange


@pytest.fixture(params=["thread", "loop"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """Takes a request through a dispatcher."""
    if request.param == "thread":
        return lambda core, asked: respond(core, asked)
    return lambda core, asked: asyncio.run(answered(core, asked))


def asked(method: str = "GET", path: str = "/it", body: bytes = b"", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, named, body, "10.0.0.1")


def dispatcher(
    *handlers: Any,
    metrics: Metrics | None = None,
    log: RequestLog | None = None,
    deadline_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    **admission: Any,
) -> Dispatcher:
    """The first handler answers GET /it, the second, which is limited, POST /it."""
    routes = [
        Route(method, "/it", handler, limited=method == "POST", operation={"responses": {}})
        for method, handler in zip(("GET", "POST"), handlers, strict=False)
    ]
    routes.append(Route("GET", "/open", lambda request: json_response("open"), public=True))
    return Dispatcher(
        routes,
        Admission(**admission),
        metrics=metrics or Metrics(),
        log=log or RequestLog("off"),
        deadline_s=deadline_s,
        clock=clock,
    )


def told(response: Response) -> tuple[int, str, str]:
    body = orjson.loads(response.body)
    assert list(body) == ["error", "detail", "request_id"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    return response.status, body["error"], body["detail"]


def fine(request: Request) -> Response:
    return json_response("fine")


def in_flight(metrics: Metrics) -> float:
    return metrics.in_flight._value.get()


def later(outcome: Any) -> Future[Any]:
    """Comes to it in another thread, and soon."""
    future: Future[Any] = Future()
    failed = isinstance(outcome, BaseException)
    finish = future.set_exception if failed else future.set_result
    threading.Timer(0.001, finish, (outcome,)).start()
    return future


def waiting_for(make: Callable[[], Future[Any]]) -> Callable[[Request], Pending]:
    def handler(request: Request) -> Pending:
        return Pending(make(), json_response)

    return handler


async def settled() -> None:
    """Whatever the loop has to do is done."""
    for _ in range(5):
        await asyncio.sleep(0)
