"""The client's end of one connection, without a socket, and a server behind it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from tabserve.admission import Admission
from tabserve.connection import Connection, Door
from tabserve.connections import Connections
from tabserve.exchange import Turn
from tabserve.http import Dispatcher
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.receiving import Bounds
from tabserve.responses import json_response
from tabserve.routing import JSON_TYPE, Route
from tabserve.types import Pending, Request, Response

MAX_BODY = 100


MAX_BODIES = 250


class Wire:
    """The transport's side of one connection. state: where it is not the only one."""

    def __init__(self, core: Dispatcher, state: Connections | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.state = state or Connections()
        self.state.default_headers = "date: today\r\n"
        self.connection = Connection(Door(Turn(loop), lambda: core), self.state)
        self.sent = b""
        self.is_closed = False
        self.is_paused = False
        self.unread = 0  # bytes that were sent and that the client has not taken
        self.connection.connection_made(self)  # type: ignore[arg-type]

    def get_extra_info(self, name: str) -> Any:
        return ("10.0.0.1", 4711)

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.sent += data

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    async def send(self, *parts: bytes) -> list["Answer"]:
        """What has come back since, once all is done that can be."""
        before = len(self.sent)
        for part in parts:
            self.connection.data_received(part)
        await settled()
        return answers(self.sent[before:])


class Answer:
    def __init__(self, head: bytes, body: bytes) -> None:
        line, *headers = head.decode().split("\r\n")
        self.status = int(line.split()[1])
        self.headers = dict(header.lower().split(": ", 1) for header in headers)
        self.body = body

    @property
    def stays(self) -> bool:
        return self.headers.get("connection") != "close"


def answers(data: bytes, has_body: bool = True) -> list[Answer]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        if head == b"HTTP/1.1 100 Continue":
            continue
        answer = Answer(head, b"")
        size = int(answer.headers["content-length"]) if has_body else 0
        answer.body, data = data[:size], data[size:]
        found.append(answer)
    return found


async def settled(n_turns: int = 5) -> None:
    for _ in range(n_turns):
        await asyncio.sleep(0)


def post(body: bytes = b"hello", *headers: str, path: str = "/echo", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def echo(request: Request) -> Response:
    return json_response([request.method, request.path, request.body.decode(), request.client])


class Server:
    def __init__(self) -> None:
        self.held: Future[str] = Future()
        self.seen: list[Request] = []
        self.core = Dispatcher(
            [
                Route("POST", "/echo", self._echo),
                Route("GET", "/echo", self._echo),
                Route("POST", "/held", self._hold, takes=JSON_TYPE),
            ],
            Admission(bounds=Bounds(max_body=MAX_BODY, max_bodies=MAX_BODIES)),
            metrics=Metrics(),
            log=RequestLog("off"),
        )

    def _hold(self, request: Request) -> Pending:
        return Pending(self.held, json_response)

    def _echo(self, request: Request) -> Response:
        self.seen.append(request)
        return echo(request)


def on_a_wire(test: Callable[[Wire, Server], Awaitable[None]]) -> Callable[[], None]:
    """The test is called with the client's end of a connection."""

    def run() -> None:
        async def with_wire() -> None:
            server = Server()
            wire = Wire(server.core)
            await test(wire, server)
            wire.close()
            await settled()
            assert wire.state.n_held == 0

        asyncio.run(with_wire())

    run.__name__ = test.__name__
    return run


def told(answer: Answer) -> Any:
    return json.loads(answer.body)


TOO_LONG_IN_CHUNKS = (
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (MAX_BODY + 1, b"x" * (MAX_BODY + 1))
)
