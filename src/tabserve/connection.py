"""HTTP/1.1 connections of `tabserve serve`.

A request goes from its bytes to the dispatcher and its answer back in one write. ASGI's messages,
and a task for each request, cost as much as all the rest.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from math import inf
from time import monotonic
from urllib.parse import unquote

import httptools

from tabserve.connections import Connections
from tabserve.errors import (
    ArrivedTooSlowly,
    BadRequest,
    Overloaded,
    TabserveError,
)
from tabserve.exchange import Exchange, Turn
from tabserve.http import Dispatcher
from tabserve.types import Request, Response

# A connection without a request stays so long once the server ends: one may be on its way.
_LAST_REQUEST_S = 0.25
# Bytes that are read at a time. Requests take many times the memory of their bytes, and reading
# those of 256 KB, which may come at once, 0.1 s, in which nobody else is answered.
_PIECE = 4096
# Bytes of answers that all clients of a worker together do not read.
_MOST_UNSENT = 256 * 2**20


@dataclass(frozen=True)
class Door:
    """What answers the connections of one listening socket.

    dispatcher: gives it, which may be made at the first connection.
    """

    turn: Turn
    dispatcher: Callable[[], Dispatcher]


class Connection(asyncio.Protocol):
    """One client, whose requests are answered in their order.

    state: shared by all connections of the event loop.
    """

    def __init__(self, app: Door, state: Connections) -> None:
        self._app = app
        self._state = state
        self._parser = httptools.HttpRequestParser(self)
        self._turn = app.turn
        self._bounds = bounds = app.dispatcher().bounds
        self._max_body, self._max_bodies = bounds.max_body, bounds.max_bodies
        self._max_headers, self._max_head_size = bounds.max_headers, bounds.max_header_bytes
        self._client = ""
        # The message that is being received.
        self._whole = b""  # what came at once, and may be one request and no more
        self._url = b""
        self._path = ""
        self._headers: dict[str, str] = {}
        self._body: bytes | bytearray = b""
        self._is_receiving = False
        self._is_forgotten = False  # what comes of its body
        self._has_head = False
        self._is_body_timed = False
        self._n_repeated = 0  # headers of a name that was there before
        self._head_size = 0  # of the headers that were read
        self._begun_size = 0  # of what came of a head that is not whole yet
        self._upgrade_left = 0
        self._unread = b""  # what came behind requests that wait
        self._n_held = 0  # bytes of that and of bodies, and those of the request being answered
        self._n_answering = 0
        # The request that is being answered, and those behind it, each with whether the connection
        # stays after its answer.
        self._exchange: Exchange | None = None
        self._is_head = False
        self._stays = True
        self._queue: deque[tuple[Request, bool]] = deque()
        self._is_broken = False
        self._is_writable = True
        self._n_written = 0  # bytes of the last answer
        self._n_unsent = 0  # bytes of answers that are in memory, where it is not writable
        self.expires = monotonic() + bounds.receive_timeout_s
        self._last_unsent = inf  # bytes of answers when it was last looked whether these are read

    # What the transport and the server tell.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if peer else ""
        self._state.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._state.discard(self)
        self._queue.clear()
        self._unread = b""
        self._hold(self._n_answering - self._n_held)
        self._keep_unsent(0)
        self.expires = inf
        if self._exchange is not None:
            self._exchange.leave()
        # It holds this object too, which would be there with all that it holds until the garbage
        # of such circles is collected.
        del self._parser

    def data_received(self, data: bytes) -> None:
        is_between = not (self._is_receiving or self._is_broken)
        if is_between and self._exchange is None and self._is_writable:
            known = self._state.known_heads.request(data, self._client)
            if known is not None and self._has_room(len(known.body)):
                self._hold(len(known.body))
                self._begin(known, stays=True)
                self._take_turn()
                return
        self._whole = data if is_between else b""
        self._read(data)
        self._whole = b""
        self._take_turn()

    def _take_turn(self) -> None:
        """Nothing else can come in this turn of the loop where there is no other connection."""
        if len(self._state.connections) == 1:
            self._turn.take()
            if self._exchange is None:  # answered, and not waiting for a thread
                self._turn.stay_awake()
        else:
            self._turn.soon()

    def _read(self, data: bytes) -> None:
        """Up to a request that waits for those before it; what is behind that waits unread."""
        place = 0
        try:
            while place < len(data) and not (self._queue or self._is_broken):
                piece = data[place : place + _PIECE]
                place += len(piece) - len(self._received(piece))
        except httptools.HttpParserError as error:
            ours = error.__context__  # raised by what the parser tells
            told = ours if isinstance(ours, TabserveError) else None
            self._refuse(told or BadRequest("Expected a request of HTTP/1.1."))
        if place < len(data) and not self._is_broken:
            self._put_off(data[place:])

    def _put_off(self, data: bytes) -> None:
        """Until what waits has its turn; reading was paused with that."""
        if self._has_room(len(data)):
            self._hold(len(data))
            self._unread += data
        else:
            self._refuse(_too_many_bodies())

    def _read_on(self) -> None:
        data, self._unread = self._unread, b""
        self._hold(-len(data))
        self._read(data)

    def pause_writing(self) -> None:
        """The client does not read its answers: meanwhile no more are made for it."""
        self._is_writable = False
        # Of an answer whose end waits, the whole is in memory.
        self._keep_unsent(max(self._n_written, self._transport.get_write_buffer_size()))
        if self._state.n_unsent > _MOST_UNSENT:
            self._transport.abort()

    def resume_writing(self) -> None:
        self._is_writable = True
        self._keep_unsent(0)
        if not self._transport.is_closing():  # else the rest of its last answer was read
            self._next()

    def _keep_unsent(self, n_bytes: int) -> None:
        self._state.n_unsent += n_bytes - self._n_unsent
        self._n_unsent = n_bytes

    def shutdown(self) -> None:
        """The server ends, after the answers that it owes."""
        asyncio.get_running_loop().call_later(_LAST_REQUEST_S, self._close_if_idle)

    def abort(self) -> None:
        """Without the answers that it waits for."""
        self._transport.abort()

    def expire(self, now: float) -> None:
        """A client that sends nothing for too long, or reads nothing, gives up its place."""
        if now <= self.expires:
            return
        unsent = self._transport.get_write_buffer_size()
        if 0 < unsent < self._last_unsent:  # slowly, but it reads
            self._last_unsent, self.expires = unsent, now + self._bounds.idle_timeout_s
        elif unsent:
            self._transport.abort()
        elif self._is_receiving and self._exchange is None and not self._is_forgotten:
            part = "body" if self._has_head else "head"
            within = f"{self._bounds.receive_timeout_s:g} s"
            self._refuse(
                ArrivedTooSlowly(f"Expected the whole {part} of a request within {within}.")
            )
        else:
            self._transport.close()

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._url, self._path = b"", ""
        self._headers, self._body = {}, b""
        self._is_receiving, self._has_head, self._is_body_timed = True, False, False
        self._is_forgotten = False
        self._n_repeated = self._head_size = self._begun_size = 0
        if self._exchange is None:
            self.expires = monotonic() + self._bounds.receive_timeout_s

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._bounds.max_target:
            raise self._bounds.target_too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser leaves the space behind a value, which is no part of it (RFC 9112, 5.1).
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
        headers = self._headers if not self._has_head else {}  # behind the body: a trailer
        if key in headers:
            headers[key] = f"{headers[key]},{text}"
            self._n_repeated += 1
        else:
            headers[key] = text
        self._head_size += len(name) + len(value)
        n_headers = len(headers) + self._n_repeated
        if n_headers > self._max_headers or self._head_size > self._max_head_size:
            raise self._bounds.headers_too_large()

    def on_headers_complete(self) -> None:
        self._has_head = True
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise BadRequest("Expected a request of HTTP/1.1.")
        self._path, authority = _target(self._url)
        if authority is not None:
            self._headers["host"] = authority
        elif "host" not in self._headers and version == "1.1":
            raise BadRequest("Expected a Host header.")
        if "transfer-encoding" in self._headers and self._parser.should_upgrade():
            # The parser leaves it to us to read the body, see on_message_complete.
            raise BadRequest("Expected no chunked body where an upgrade is offered.")
        if int(self._headers.get("content-length", 0)) > self._max_body:
            self._forget(self._bounds.body_too_large())
        elif self._is_told_to_go_on(version):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _is_told_to_go_on(self, version: str) -> bool:
        """Not in HTTP/1.0, which would take it for the answer (RFC 9110, 10.1.1)."""
        expected = self._headers.get("expect", "").lower()
        return expected == "100-continue" and version == "1.1" and self._exchange is None

    def on_body(self, part: bytes) -> None:
        if self._is_forgotten:
            return
        if len(self._body) + len(part) > self._max_body:
            self._forget(self._bounds.body_too_large())
        elif not self._has_room(len(part)):
            self._forget(_too_many_bodies())
        else:
            self._hold(len(part))
            self._keep(part)

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
        self._begun_size += len(data)  # of a head that begins in this piece, only what follows it
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        if self._is_receiving and not self._has_head:
            if self._begun_size > self._bounds.max_target + self._max_head_size:
                self._refuse(self._bounds.headers_too_large())
        elif self._is_receiving and not self._is_body_timed:
            self._is_body_timed = True
            if self._exchange is None:
                self.expires = monotonic() + self._bounds.receive_timeout_s
        return b""

    def _refuse(self, failure: TabserveError) -> None:
        """What comes of this request, and behind it, is not read."""
        has_its_answer = self._is_receiving and self._is_forgotten
        self._is_broken, self._is_receiving = True, False
        if not has_its_answer:
            self._take(failure)
            self._turn.soon()
        elif self._exchange is None and not self._queue:
            self._stays = False
            self._go_on()

    def _keep(self, part: bytes) -> None:
        """A list of parts could take many times their bytes."""
        if not self._body:
            self._body = part
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        self._body += part

    def _forget(self, failure: TabserveError) -> None:
        """This request is refused by its beginning; the rest of its body is read, and not kept."""
        self._is_forgotten = True
        self._take(failure)

    def _complete(self) -> None:
        self._is_receiving = False
        if not self._is_forgotten:
            self._take()
        elif self._exchange is None:
            self._go_on()

    def _take(self, failure: TabserveError | None = None) -> None:
        if failure is not None:
            self._hold(-len(self._body))
            self._body = b""
        request = Request(
            method=self._parser.get_method().decode("ascii") if self._has_head else "-",
            path=self._path,
            headers=self._headers,
            body=bytes(self._body),
            client=self._client,
            failure=failure,
        )
        self._body = b""  # an idle connection keeps none
        if b"?" in self._url:
            request.query = self._url.partition(b"?")[2].decode("latin-1")
        stays = (
            not self._is_broken
            and self._parser.should_keep_alive()
            and self._parser.get_http_version() == "1.1"
        )
        if stays and not self._is_receiving:
            self._state.known_heads.keep(self._whole, request)
        if self._exchange is None and self._is_writable:
            self._begin(request, stays)
        else:
            self._queue.append((request, stays))
            self._transport.pause_reading()

    def _has_room(self, n_bytes: int) -> bool:
        return self._state.n_held + n_bytes <= self._max_bodies

    def _hold(self, n_bytes: int) -> None:
        """Below 0: any more."""
        self._n_held += n_bytes
        self._state.n_held += n_bytes

    def _grow(self, n_bytes: int) -> None:
        """The body of the request being answered, when its coding is taken off."""
        if not self._has_room(n_bytes):
            raise _too_many_bodies()
        self._hold(n_bytes)
        self._n_answering += n_bytes

    # From a request to its answer.

    def _begin(self, request: Request, stays: bool) -> None:
        self._is_head, self._stays = request.method == "HEAD", stays
        self.expires = self._last_unsent = inf
        self._n_answering, request.grow = len(request.body), self._grow
        self._exchange = self._turn.begin(self._app.dispatcher(), request, self._answer)

    def _answer(self, response: Response) -> None:
        self._exchange = None
        self._hold(-self._n_answering)
        self._n_answering = 0
        if self._transport.is_closing():
            self.expires = monotonic() + self._bounds.idle_timeout_s
            return
        is_last = self._state.is_draining or (self._is_broken and not self._queue)
        self._stays = self._stays and not is_last
        try:
            written = self._written(response)
            self._n_written = len(written)
            self._transport.write(written)
        except Exception:  # what is behind it would be taken for its answer
            self._transport.abort()
            raise
        self._go_on()

    def _written(self, response: Response) -> bytes:
        own = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        close = "" if self._stays else "connection: close\r\n"
        head = (
            f"{_status_line(response.status)}{self._state.default_headers}"
            f"content-type: {response.content_type}\r\ncontent-length: {len(response.body)}\r\n"
            f"{own}{close}\r\n"
        ).encode("latin-1")
        return head if self._is_head else head + response.body

    def _go_on(self) -> None:
        """To the next request, or to the end."""
        if self._stays:
            self._next()
        elif self._is_receiving and self._is_forgotten:
            # Closing now would take the answer from a client that is still sending.
            self.expires = monotonic() + self._bounds.receive_timeout_s
        else:
            self.expires = monotonic() + self._bounds.idle_timeout_s
            self._transport.close()

    def _next(self) -> None:
        if self._exchange is not None:
            return
        if self._queue and self._is_writable:
            self._begin(*self._queue.popleft())
            if not self._queue:
                self._read_on()
            if not self._queue:
                self._transport.resume_reading()
            self._turn.soon()
        else:
            bounds = self._bounds
            patience_s = bounds.receive_timeout_s if self._is_receiving else bounds.idle_timeout_s
            self.expires = monotonic() + patience_s

    def _close_if_idle(self) -> None:
        if self._exchange is None and not self._queue and not self._is_receiving:
            self._transport.close()


def _too_many_bodies() -> Overloaded:
    return Overloaded("The server holds as many bodies as it may; try again.")


@lru_cache(maxsize=256)
def _target(url: bytes) -> tuple[str, str | None]:
    """The path, and the host where the target names it, which then counts, not the header's (RFC
    9112, 3.2.2). Raises HttpParserError for what is no request's target.
    """
    parsed = httptools.parse_url(url)
    path = (parsed.path or b"").decode("ascii")
    authority = None
    if parsed.host is not None:
        # As it was written: the parser takes the brackets from an IPv6 address.
        authority = url.partition(b"//")[2].partition(b"/")[0].partition(b"?")[0].decode("ascii")
    return unquote(path) if "%" in path else path, authority


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
