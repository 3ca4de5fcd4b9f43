"""The FastAPI app: ASGI messages to a Request and a Response back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from tabserve.http import Dispatcher, Turn, run_async
from tabserve.types import Request


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
    # What no route matches comes here: inside every middleware, and ahead of FastAPI's machinery
    # for endpoints, which costs several times more than all else on the path of a request.
    made.router.default = made.endpoint = _endpoint(dispatcher, made.router.default)
    return made


class App(FastAPI):
    """endpoint: answers what no route of the user's does."""

    endpoint: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # With nothing of the user's on the way, neither is what FastAPI's own layers are there for:
        # they take as long as reading the record and writing the answer.
        if scope["type"] != "http" or self.user_middleware or self.routes or self.root_path:
            await super().__call__(scope, receive, send)
        else:
            await self.endpoint(scope, receive, send)


def own_operations(made: FastAPI) -> dict[str, Any]:
    """OpenAPI document of the routes that the app's user added."""
    if not made.routes:
        return {}
    return get_openapi(title=made.title, version=made.version, routes=made.routes)


def _endpoint(dispatcher: Callable[[], Dispatcher], elsewhere: ASGIApp) -> ASGIApp:
    turn = Turn()

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await elsewhere(scope, receive, send)
            return
        core = dispatcher()
        body = await _body(receive, core.max_body)
        if body is None:
            return
        request = _request(scope, body)

        async def left() -> None:
            with suppress(Exception):  # a middleware may allow no look beyond the body
                if (await receive())["type"] == "http.disconnect":
                    return
            await asyncio.get_running_loop().create_future()  # until it is cancelled

        response = await run_async(core.respond(request), request, left, turn)
        headers = [
            (b"content-type", response.content_type.encode()),
            (b"content-length", b"%d" % len(response.body)),
        ]
        headers += [(name.encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        sent = b"" if request.method == "HEAD" else response.body
        await send({"type": "http.response.body", "body": sent})

    return endpoint


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
    )


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """By lower-case name; one that was sent several times is joined by commas, as in WSGI."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    return headers
