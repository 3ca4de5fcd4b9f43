"""HTTP/1.1 connections of `tabserve serve`.

A request goes from its bytes to the dispatcher and its answer back in one write. ASGI's messages,
and a task for each request, cost as much as all the rest.
"""

import asyncio
from collections import deque
from functools import lru_cache
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from tabserve.errors import BadRequest
from tabserve.exchange import Exchange
from tabserve.types import Request, Response
from tabserve.web.fastapi import App

# For a request to come, and for the next one on a connection that stays.
_RECEIVE_S = 10.0
_IDLE_S = 15.0
# A connection without a request stays so long once the server ends: one may be on its way.
_LAST_REQUEST_S = 0.25
_SWEEP_S = 1.0


class Connections:
    """What uvicorn calls for the protocol of a connection (`http` of its Config)."""

    def __init__(self) -> None:
        self._sweeping = False

    def __call__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> asyncio.Protocol:
        if not self._sweeping:
            self._sweeping = True
            self._sweep(server_state)
        return Connection(config.loaded_app, server_state)

    def _sweep(self, state: ServerState) -> None:
        """One timer for all connections: one for each request would cost as much as reading it."""
        now = monotonic()
        for connection in list(state.connections):
            connection.expire(now)  # type: ignore[union-attr]
        asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep, state)


class Connection(asyncio.Protocol):
    """One client, whose requests are answered in their order.

    state: uvicorn's, shared by all connections of the server; it calls `shutdown` of each.
    """

    def __init__(self, app: App, state: ServerState) -> None:
        self._app = app
        self._state = state
        self._parser = httptools.HttpRequestParser(self)
        self._turn = app.turn
        self._max_body = app.dispatcher().max_body
        self._client = ""
        # The message that is being received.
        self._url = b""
        self._path = ""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._is_receiving = False
        self._upgrade_left = 0
        # The request that is being answered, and those behind it, each with whether the connection
        # stays after its answer.
        self._exchange: Exchange | None = None
        self._is_head = False
        self._stays = True
        self._queue: deque[tuple[Request, bool]] = deque()
        self._is_broken = False
        self._is_writable = True
        self._is_ending = False
        self._expires = monotonic() + _RECEIVE_S

    # What uvicorn and its transport tell.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if peer else ""
        self._state.connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, error: Exception | None) -> None:
        self._state.connections.discard(self)
        self._queue.clear()
        if self._exchange is not None:
            self._exchange.leave()

    def data_received(self, data: bytes) -> None:
        try:
            while data and not self._is_broken:
                data = self._received(data)
        except httptools.HttpParserError:
            self._is_broken, self._is_receiving = True, False
            self._take(failure=BadRequest("Expected a request of HTTP/1.1."))

    def pause_writing(self) -> None:
        """The client does not read its answers: meanwhile no more are made for it."""
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._next()

    def shutdown(self) -> None:
        """The server ends, after the answers that it owes."""
        self._is_ending = True
        asyncio.get_running_loop().call_later(_LAST_REQUEST_S, self._close_if_idle)

    def expire(self, now: float) -> None:
        """A client that sends nothing for too long gives up its place."""
        if now > self._expires:
            self._transport.close()

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._url, self._path = b"", ""
        self._headers, self._body, self._size = {}, [], 0
        self._is_receiving = True
        if self._exchange is None:
            self._expires = monotonic() + _RECEIVE_S

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers = self._headers
        headers[key] = f"{headers[key]},{text}" if key in headers else text

    def on_headers_complete(self) -> None:
        self._path = _path(self._url)
        if self._headers.get("expect", "").lower() == "100-continue" and self._exchange is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        # One that is too long is refused by its beginning; the rest is read and forgotten.
        if self._size <= self._max_body:
            self._body.append(part)
            self._size += len(part)
            if self._size > self._max_body:
                self._take()

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            # The parser leaves the body of such a request to the other protocol, and we answer in
            # this one.
            self._upgrade_left = int(self._headers.get("content-length", 0))
        if not self._upgrade_left:
            self._complete()

    # From bytes to a request.

    def _received(self, data: bytes) -> bytes:
        """Gives back what it left."""
        if self._upgrade_left:
            part, rest = data[: self._upgrade_left], data[self._upgrade_left :]
            self._upgrade_left -= len(part)
            self.on_body(part)
            if not self._upgrade_left:
                self._complete()
            return rest
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        return b""

    def _complete(self) -> None:
        self._is_receiving = False
        if self._size <= self._max_body:
            self._take()
        elif self._exchange is None:
            self._go_on()

    def _take(self, failure: BadRequest | None = None) -> None:
        request = Request(
            method=self._parser.get_method().decode("ascii"),
            path=self._path,
            headers=self._headers,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
            client=self._client,
            failure=failure,
        )
        if b"?" in self._url:
            request.query = self._url.partition(b"?")[2].decode("latin-1")
        stays = (
            failure is None
            and self._parser.should_keep_alive()
            and self._parser.get_http_version() == "1.1"
        )
        if self._exchange is None and self._is_writable:
            self._begin(request, stays)
        else:
            self._queue.append((request, stays))
            self._transport.pause_reading()

    # From a request to its answer.

    def _begin(self, request: Request, stays: bool) -> None:
        self._is_head, self._stays, self._expires = request.method == "HEAD", stays, inf
        self._exchange = self._turn.begin(self._app.dispatcher(), request, self._answer)

    def _answer(self, response: Response) -> None:
        self._exchange = None
        self._state.total_requests += 1
        if self._transport.is_closing():
            return
        self._stays = self._stays and not self._is_ending
        head = _head(response, self._state.default_headers, self._stays)
        self._transport.write(head if self._is_head else head + response.body)
        self._go_on()

    def _go_on(self) -> None:
        """To the next request, or to the end."""
        if self._stays:
            self._next()
        elif self._is_receiving and self._size > self._max_body:
            # Closing now would take the answer from a client that is still sending.
            self._expires = monotonic() + _RECEIVE_S
        else:
            self._transport.close()

    def _next(self) -> None:
        if self._exchange is not None or not self._is_writable:
            return
        if self._queue:
            self._begin(*self._queue.popleft())
            if not self._queue:
                self._transport.resume_reading()
        else:
            self._expires = monotonic() + (_RECEIVE_S if self._is_receiving else _IDLE_S)

    def _close_if_idle(self) -> None:
        if self._exchange is None and not self._queue and not self._is_receiving:
            self._transport.close()


@lru_cache(maxsize=256)
def _path(url: bytes) -> str:
    """Raises HttpParserError for what is no request's target."""
    path = (httptools.parse_url(url).path or b"").decode("ascii")
    return unquote(path) if "%" in path else path


def _head(response: Response, defaults: list[tuple[bytes, bytes]], stays: bool) -> bytes:
    headers = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
        _beginning(response.status, tuple(defaults)),
        response.content_type.encode(),
        len(response.body),
        headers.encode("latin-1"),
        b"" if stays else b"connection: close\r\n",
    )


@lru_cache(maxsize=64)
def _beginning(status: int, defaults: tuple[tuple[bytes, bytes], ...]) -> bytes:
    line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    return line + b"".join([b"%b: %b\r\n" % header for header in defaults])
