"""The FastAPI app: ASGI messages to a Request and a Response back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from tabserve.exchange import Turn
from tabserve.http import Dispatcher
from tabserve.types import Request, Response


def app(
    dispatcher: Callable[[], Dispatcher], close: Callable[[], None], title: str, version: str
) -> FastAPI:
    """An ordinary app: routes that its user adds come first, then TabServe's.

    dispatcher: gives the dispatcher, which may be made in the worker at the first request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        dispatcher()
        yield
        await run_in_threadpool(close)  # it waits for the model, and others are still answered

    made = App(
        title=title,
        version=version,
        openapi_url=None,  # TabServe's own route answers it, see own_operations
        lifespan=lifespan,
    )
    made.dispatcher = dispatcher
    # What no route matches comes here: inside every middleware, and ahead of FastAPI's machinery
    # for endpoints, which costs several times more than all else on the path of a request.
    made.router.default = made.endpoint = _endpoint(made, made.router.default)
    return made


class App(FastAPI):
    """endpoint: answers what no route of the user's does."""

    dispatcher: Callable[[], Dispatcher]
    endpoint: ASGIApp

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()

    @property
    def turn(self) -> Turn:
        """Of the event loop that this is called on."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = Turn(loop)
        return turn

    @property
    def is_bare(self) -> bool:
        """With nothing of the user's on the way, neither need be what FastAPI's own layers are
        there for: they take as long as reading the record and writing the answer.
        """
        return not (self.user_middleware or self.routes or self.root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.is_bare:
            await self.endpoint(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def own_operations(made: FastAPI) -> dict[str, Any]:
    """OpenAPI document of the routes that the app's user added."""
    if not made.routes:
        return {}
    return get_openapi(title=made.title, version=made.version, routes=made.routes)


def _endpoint(app: App, elsewhere: ASGIApp) -> ASGIApp:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await elsewhere(scope, receive, send)
            return
        core = app.dispatcher()
        body = await _body(receive, core.bounds.max_body)
        if body is None:
            return
        request = _request(scope, body)
        response = await _answer(app.turn, core, request, receive)
        headers = [
            (b"content-type", response.content_type.encode()),
            (b"content-length", b"%d" % len(response.body)),
        ]
        headers += [(name.encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        sent = b"" if request.method == "HEAD" else response.body
        await send({"type": "http.response.body", "body": sent})

    return endpoint


async def _answer(turn: Turn, core: Dispatcher, request: Request, receive: Receive) -> Response:
    answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    exchange = turn.begin(
        core, request, lambda response: None if answer.done() else answer.set_result(response)
    )

    async def watch() -> None:
        with suppress(Exception):  # a middleware may allow no look beyond the body
            if (await receive())["type"] == "http.disconnect":
                exchange.leave()

    turn.soon()
    watching = asyncio.ensure_future(watch())
    try:
        return await answer
    except asyncio.CancelledError:
        exchange.leave()
        raise
    finally:
        watching.cancel()


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The body, or its beginning where it is longer than the limit; None if the client left."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit or not message.get("more_body"):
            return b"".join(parts)


def _request(scope: Scope, body: bytes) -> Request:
    path, root_path = scope["path"], scope.get("root_path", "")
    # An ASGI path holds the part at which the app is mounted.
    if root_path and path.startswith(f"{root_path}/"):
        path = path[len(root_path) :]
    client = scope.get("client")
    return Request(
        method=scope["method"],
        path=path,
        headers=_headers(scope["headers"]),
        body=body,
        client=client[0] if client else "",
        root_path=root_path,
        query=scope.get("query_string", b"").decode("latin-1"),
    )


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """By lower-case name; one that was sent several times is joined by commas, as in WSGI."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    return headers
