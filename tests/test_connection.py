"""HTTP/1.1 on one connection: bytes in, bytes out, and when it ends."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabserve import connection, exchange
from tabserve.admission import Admission
from tabserve.connection import Connection, Door
from tabserve.connections import Connections
from tabserve.errors import TooLarge
from tabserve.exchange import Turn
from tabserve.heads import KnownHeads
from tabserve.http import Dispatcher
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.receiving import Bounds
from tabserve.responses import json_response
from tabserve.routing import Route
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


async def settled() -> None:
    for _ in range(5):
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
                Route("POST", "/held", lambda request: Pending(self.held, json_response)),
            ],
            Admission(bounds=Bounds(max_body=MAX_BODY, max_bodies=MAX_BODIES)),
            metrics=Metrics(),
            log=RequestLog("off"),
        )

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


@on_a_wire
async def test_a_request_is_answered_by_one_write(wire: Wire, server: Server) -> None:
    (answer,) = await wire.send(post())

    assert (answer.status, told(answer)) == (200, ["POST", "/echo", "hello", "10.0.0.1"])
    assert answer.headers["date"] == "today"
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.stays
    assert not wire.is_closed


@on_a_wire
async def test_the_only_client_is_answered_in_the_turn_of_its_request(
    wire: Wire, server: Server
) -> None:
    wire.connection.data_received(post())
    assert len(answers(wire.sent)) == 1


@on_a_wire
async def test_one_of_several_clients_is_answered_with_the_others_at_the_turns_end(
    wire: Wire, server: Server
) -> None:
    wire.state.add(Wire(server.core).connection)
    wire.connection.data_received(post())
    assert wire.sent == b""
    await settled()
    assert len(answers(wire.sent)) == 1


@pytest.mark.parametrize(
    ("path", "n_clients", "is_awake"),
    [("/echo", 1, True), ("/held", 1, False), ("/echo", 2, False)],
)
def test_the_loop_stays_awake_for_the_only_client_that_was_answered(
    monkeypatch: pytest.MonkeyPatch, path: str, n_clients: int, is_awake: bool
) -> None:
    stayed: list[Turn] = []
    monkeypatch.setattr(Turn, "stay_awake", lambda turn: stayed.append(turn))

    async def ask() -> None:
        server = Server()
        wire = Wire(server.core)
        for _ in range(1, n_clients):
            wire.state.add(Wire(server.core).connection)
        await wire.send(post(path=path))

    asyncio.run(ask())
    assert bool(stayed) == is_awake


@pytest.mark.parametrize("n_cpus", [1, 2])
def test_the_loop_sleeps_again_when_nothing_has_come(
    monkeypatch: pytest.MonkeyPatch, n_cpus: int
) -> None:
    now = 100.0
    monkeypatch.setattr(exchange, "monotonic", lambda: now)
    monkeypatch.setattr(exchange, "usable_cpus", lambda: n_cpus)

    class Loop:
        def __init__(self) -> None:
            self.due: list[Callable[[], None]] = []

        def call_soon(self, function: Callable[[], None]) -> None:
            self.due.append(function)

        def turn(self) -> None:
            due, self.due = self.due, []
            for function in due:
                function()

    loop = Loop()
    turn = Turn(loop)  # type: ignore[arg-type]
    turn.stay_awake()
    loop.turn()
    assert bool(loop.due) == (n_cpus > 1)  # else the client needs the only one
    if not loop.due:
        return
    now += exchange._AWAKE_S / 2
    turn.stay_awake()
    loop.turn()
    now += exchange._AWAKE_S * 3 / 4  # since the first, but not since the last, it is over
    loop.turn()
    assert len(loop.due) == 1
    now += exchange._AWAKE_S
    loop.turn()
    assert not loop.due
    turn.stay_awake()
    assert len(loop.due) == 1


@on_a_wire
async def test_a_request_may_come_byte_by_byte(wire: Wire, server: Server) -> None:
    (answer,) = await wire.send(*(bytes([byte]) for byte in post(b"slow")))

    assert told(answer)[2] == "slow"


@on_a_wire
async def test_a_head_that_comes_again_says_the_same_with_another_body(
    wire: Wire, server: Server
) -> None:
    for body in (b"first", b"other", b"x" * (MAX_BODY + 1), b"third"):
        (answer,) = await wire.send(post(body, "X-Request-ID: mine"))
        assert answer.headers["x-request-id"] == "mine" or answer.status == 413
    assert [request.body for request in server.seen] == [b"first", b"other", b"third"]
    assert all(request.headers == server.seen[0].headers for request in server.seen)


def chunked(body: bytes) -> bytes:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


WHOLE = [
    post(), post(b"world"), post(b""), post(b"", "Content-Length: 0"), post(path="/held"),
    post(b"hello", "Connection: close"), post(b"world", "Expect: 100-continue"),
    post(b"hello", "X-A: 1", "X-A: 2"), post(b"hello", version="1.0"), chunked(b"hello"),
    post(b"hello", "Upgrade: h2c", "Connection: upgrade"), post(b"\r\n\r\n."),
    post(b"x" * (MAX_BODY + 1)),
    b"\r\n" + post(), b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n",
]  # fmt: skip


@given(
    st.sampled_from(WHOLE),
    st.sampled_from(WHOLE),
    st.lists(st.integers(0, 5), min_size=2, max_size=6),
)
def test_whether_a_head_is_known_changes_no_answer(
    one: bytes, other: bytes, sent: list[int]
) -> None:
    choices = [one, other, one + one, one + other, one[:-3], one[-3:]]
    parts = [choices[i] for i in sent]

    class Forgetful(KnownHeads):
        def keep(self, data: bytes, request: Request) -> None: ...

    def outcome(heads: KnownHeads) -> Any:
        found: list[Any] = []

        @on_a_wire
        async def sends(wire: Wire, server: Server) -> None:
            wire.state.known_heads = heads
            for part in parts:
                if not wire.is_closed:
                    found.extend((each.status, each.stays) for each in await wire.send(part))
            found.append(wire.is_closed)
            found.extend((seen.method, seen.headers, seen.body) for seen in server.seen)

        sends()
        return found

    assert outcome(KnownHeads()) == outcome(Forgetful())


@on_a_wire
async def test_a_client_that_closes_after_a_known_head_is_answered_once(
    wire: Wire, server: Server
) -> None:
    await wire.send(post())
    (last,) = await wire.send(post(b"hello", "Connection: close"))

    assert (last.stays, wire.is_closed, len(server.seen)) == (False, True, 2)


@on_a_wire
async def test_a_body_may_come_in_chunks(wire: Wire, server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    (answer,) = await wire.send(head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")

    assert told(answer)[2] == "abcde"


@on_a_wire
async def test_requests_sent_ahead_are_answered_in_their_order(wire: Wire, server: Server) -> None:
    found = await wire.send(post(b"1") + post(b"2", path="/nowhere") + post(b"3"))

    assert [answer.status for answer in found] == [200, 404, 200]
    assert [told(answer)[2] for answer in found[::2]] == ["1", "3"]
    assert not wire.is_paused


@on_a_wire
async def test_behind_an_answer_that_cannot_be_sent_no_other_takes_its_place(
    wire: Wire, server: Server
) -> None:
    server.held.set_result("held")

    def unsendable(response: Response) -> bytes:
        raise UnicodeError

    wire.connection._written = unsendable  # type: ignore[method-assign]

    assert await wire.send(post() + post(path="/held")) == []
    assert wire.is_closed


@on_a_wire
async def test_what_comes_behind_a_request_that_waits_is_not_answered_before_it(
    wire: Wire, server: Server
) -> None:
    assert await wire.send(post(path="/held")) == []
    assert await wire.send(post(b"2")) == []
    assert wire.is_paused

    server.held.set_result("first")
    first, second = await wire.send()

    assert (told(first), told(second)[2]) == ("first", "2")
    assert not wire.is_paused


@on_a_wire
async def test_header_names_have_no_case_and_several_of_one_name_are_one(
    wire: Wire, server: Server
) -> None:
    await wire.send(post(b"", "X-Thing: a", "x-tHing: b", "X-Request-ID: mine"))

    (request,) = server.seen
    assert request.headers["x-thing"] == "a,b"
    assert b"X-Request-ID: mine\r\n" in wire.sent


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/echo?a=b", "/echo"),
        ("/%65cho", "/echo"),
        ("http://example.org/echo", "/echo"),
        ("//echo", None),
        ("/ECHO", None),
    ],
)
def test_the_target_is_read_to_its_path(target: str, path: str | None) -> None:
    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        (answer,) = await wire.send(post(path=target))
        assert answer.status == (200 if path else 404)
        assert [request.path for request in server.seen] == ([path] if path else [])

    sends()


@on_a_wire
async def test_head_is_answered_without_a_body(wire: Wire, server: Server) -> None:
    await wire.send(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    (answer,) = answers(wire.sent, has_body=False)

    assert answer.status == 200
    assert int(answer.headers["content-length"]) > 0
    assert wire.sent.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "stays"),
    [
        (post(), True),
        (post(b"", "Connection: keep-alive"), True),
        (post(b"", "Connection: close"), False),
        (post(version="1.0"), False),
        (post(b"", "Connection: keep-alive", version="1.0"), False),
    ],
    ids=["1.1", "keep-alive", "close", "1.0", "1.0 keep-alive"],
)
def test_the_connection_stays_where_the_client_may_want_it(sent: bytes, stays: bool) -> None:
    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        (answer,) = await wire.send(sent)
        assert (answer.status, answer.stays, wire.is_closed) == (200, stays, not stays)

    sends()


@on_a_wire
async def test_a_client_that_asks_is_told_to_go_on(wire: Wire, server: Server) -> None:
    head, _, _ = post(b"hello", "Expect: 100-continue").partition(b"hello")
    assert await wire.send(head) == []
    assert wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"

    (answer,) = await wire.send(b"hello")
    assert told(answer)[2] == "hello"


@on_a_wire
async def test_chunks_behind_an_offered_upgrade_are_no_request(wire: Wire, server: Server) -> None:
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\n" + offer

    (answer,) = await wire.send(head + b"5\r\nhello\r\n0\r\n\r\n")

    assert (answer.status, server.seen, wire.is_closed) == (400, [], True)


@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("in_parts", [False, True])
def test_an_upgrade_that_is_offered_is_declined_and_its_body_read(
    body: bytes, in_parts: bool
) -> None:
    """As Java's client offers HTTP/2 with each first request."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")

    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        sent = post(body, *offer) + post(b"next")
        parts = [bytes([byte]) for byte in sent] if in_parts else [sent]
        first, second = await wire.send(*parts)
        assert (told(first)[2], told(second)[2]) == (body.decode(), "next")

    sends()


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /echo HTTP/9.9\r\n\r\n",
        b"GET /echo HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/0.9\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\nrubbish",
    ],
    ids=repr,
)
def test_what_is_no_request_is_refused_and_the_connection_ends(sent: bytes) -> None:
    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        found = await wire.send(sent, b"and more\r\n\r\n")
        assert found[-1].status == 400
        assert told(found[-1])["error"] == "bad_request"
        assert told(found[-1])["request_id"] == found[-1].headers["x-request-id"]
        assert (wire.is_closed, server.seen) == (True, [])
        assert len(found) <= 2

    sends()


MANY = b"".join(b"x-%d: 1\r\n" % i for i in range(101))


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n"], 414, "target_too_long"),
        ([b"GET /" + b"a" * 5000, b"a" * 5000], 414, "target_too_long"),
        ([b"GET /echo HTTP/1.1\r\n" + MANY + b"\r\n"], 431, "headers_too_large"),
        ([b"GET /echo HTTP/1.1\r\n" + b"x: 1\r\n" * 101 + b"\r\n"], 431, "headers_too_large"),
        ([b"GET /echo HTTP/1.1\r\nx: " + b"a" * 32769 + b"\r\n\r\n"], 431, "headers_too_large"),
        ([b"GET /echo HTTP/1.1\r\nx: ", *[b"a" * 9000] * 5], 431, "headers_too_large"),
    ],
    ids=[
        "target",
        "target in parts",
        "many headers",
        "one name many times",
        "large header",
        "header without an end",
    ],
)
def test_a_head_beyond_its_limits_is_refused(parts: list[bytes], status: int, code: str) -> None:
    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        (answer,) = await wire.send(*parts)
        assert (answer.status, told(answer)["error"], wire.is_closed) == (status, code, True)
        assert server.seen == []

    sends()


@on_a_wire
async def test_a_head_at_its_limits_is_read(wire: Wire, server: Server) -> None:
    headers = b"".join(b"x-%02d: %s\r\n" % (i, b"a" * 300) for i in range(99))
    target = b"/echo?" + b"a" * (8192 - 6)
    (answer,) = await wire.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    assert answer.status == 200


@pytest.mark.parametrize("n_bytes", [32768, 32769])
def test_headers_have_a_size_together(n_bytes: int) -> None:
    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        first, second = b"a" * 20_000, b"a" * (n_bytes - 20_000 - len(b"hostxxy"))
        head = b"GET /echo HTTP/1.1\r\nHost: x\r\nx: %s\r\ny: %s\r\n\r\n" % (first, second)
        (answer,) = await wire.send(head)
        assert answer.status == (200 if n_bytes == 32768 else 431)

    sends()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_request_of_http_1_1_names_its_host(version: str) -> None:
    @on_a_wire
    async def sends(wire: Wire, server: Server) -> None:
        (answer,) = await wire.send(b"GET /echo HTTP/%s\r\n\r\n" % version.encode())
        assert answer.status == (200 if version == "1.0" else 400)

    sends()


@on_a_wire
async def test_of_two_hosts_none_counts(wire: Wire, server: Server) -> None:
    (answer,) = await wire.send(post(b"", "Host: y"))
    assert (answer.status, told(answer)["error"]) == (400, "bad_request")


@on_a_wire
async def test_a_host_in_the_target_is_the_one_that_counts(wire: Wire, server: Server) -> None:
    await wire.send(post(path="http://[::1]:80/echo?a"), post(path="http://u@x/echo"))
    assert [request.headers["host"] for request in server.seen] == ["[::1]:80"]


@on_a_wire
async def test_what_follows_a_body_is_no_header(wire: Wire, server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await wire.send(head, b"1\r\na\r\n0\r\nX-API-Key: k\r\nHost: y\r\n\r\n")
    (request,) = server.seen
    assert (request.headers["host"], "x-api-key" in request.headers) == ("x", False)


@on_a_wire
async def test_a_body_that_is_too_long_is_refused_before_its_end_and_the_rest_forgotten(
    wire: Wire, server: Server
) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await wire.send(head, b"%x\r\n" % (10 * MAX_BODY), b"x" * MAX_BODY) == []
    (answer,) = await wire.send(b"x")
    assert (answer.status, told(answer)["error"]) == (413, TooLarge.code)
    assert not wire.is_closed  # it is sending still

    assert await wire.send(b"x" * (9 * MAX_BODY - 1), b"\r\n0\r\n\r\n") == []
    (answer,) = await wire.send(post(b"next"))
    assert told(answer)[2] == "next"


@on_a_wire
async def test_a_body_that_is_said_to_be_too_long_is_refused_before_it_comes(
    wire: Wire, server: Server
) -> None:
    body = b"x" * (MAX_BODY + 1)
    head, _, _ = post(body, "Expect: 100-continue").partition(body)
    (answer,) = await wire.send(head)
    assert (answer.status, told(answer)["error"]) == (413, TooLarge.code)
    assert wire.sent.startswith(b"HTTP/1.1 413")  # and not 100 before
    assert (server.seen, wire.is_closed) == ([], False)  # it may be sending

    assert await wire.send(body) == []
    (answer,) = await wire.send(post(b"next"))
    assert told(answer)[2] == "next"


@on_a_wire
async def test_a_client_that_wants_to_close_is_heard_out_first(wire: Wire, server: Server) -> None:
    sent = post(b"x" * 3 * MAX_BODY, "Connection: close")
    (answer,) = await wire.send(sent[:-MAX_BODY])
    assert (answer.status, wire.is_closed) == (413, False)

    assert await wire.send(sent[-MAX_BODY:]) == []
    assert wire.is_closed


TOO_LONG_IN_CHUNKS = (
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (MAX_BODY + 1, b"x" * (MAX_BODY + 1))
)


@pytest.mark.parametrize("before", [b"", post(path="/held")], ids=["at once", "behind another"])
@pytest.mark.parametrize("is_whole", [True, False], ids=["in one", "in parts"])
def test_a_body_that_is_refused_and_then_no_http_has_one_answer(
    before: bytes, is_whole: bool
) -> None:
    @on_a_wire
    async def refused(wire: Wire, server: Server) -> None:
        parts = [before + TOO_LONG_IN_CHUNKS, b"no size\r\n"]
        for part in [b"".join(parts)] if is_whole else parts:
            await wire.send(part)
        server.held.set_result("done")
        await settled()

        assert [answer.status for answer in answers(wire.sent)] == [200, 413][not before :]
        assert wire.is_closed

    refused()


@on_a_wire
async def test_a_connection_that_is_closing_when_more_comes_expires(
    wire: Wire, server: Server
) -> None:
    sent = post(b"x" * (MAX_BODY + 1), "Connection: close")
    await wire.send(sent[:-1])
    wire.close = lambda: setattr(wire, "is_closed", True)  # type: ignore[method-assign]
    await wire.send(sent[-1:] + post())  # its answers are not read yet
    assert (wire.is_closed, wire.connection.expires < inf) == (True, True)
    del wire.close
    wire.connection.connection_lost(None)


@on_a_wire
async def test_no_answer_is_made_for_a_client_that_does_not_read(
    wire: Wire, server: Server
) -> None:
    wire.connection.pause_writing()
    assert await wire.send(post(b"1") + post(b"2")) == []
    assert (server.seen, wire.is_paused) == ([], True)

    wire.connection.resume_writing()
    assert [told(answer)[2] for answer in await wire.send()] == ["1", "2"]


@on_a_wire
async def test_a_client_that_leaves_gives_up_what_it_waits_for(wire: Wire, server: Server) -> None:
    await wire.send(post(path="/held"))
    wire.close()
    await settled()

    assert server.held.cancelled()
    assert (wire.sent, wire.state.connections) == (b"", set())


@on_a_wire
async def test_an_answer_from_another_thread_reaches_its_connection(
    wire: Wire, server: Server
) -> None:
    await wire.send(post(path="/held"))
    threading.Thread(target=server.held.set_result, args=("late",)).start()
    while not wire.sent:
        await asyncio.sleep(0.001)

    assert told(answers(wire.sent)[0]) == "late"


# The end of a server


@on_a_wire
async def test_a_request_on_its_way_when_the_server_ends_is_answered(
    wire: Wire, server: Server
) -> None:
    """A connection that was just made, to a worker that was just told to stop."""
    wire.state.drain()
    wire.connection.shutdown()
    (answer,) = await wire.send(post())

    assert (answer.status, answer.stays, wire.is_closed) == (200, False, True)


@on_a_wire
async def test_an_idle_connection_ends_with_the_server(wire: Wire, server: Server) -> None:
    await wire.send(post())
    wire.state.drain()
    wire.connection.shutdown()
    while not wire.is_closed:
        await asyncio.sleep(0.01)


@on_a_wire
async def test_an_answer_that_is_owed_is_given_before_the_end(wire: Wire, server: Server) -> None:
    await wire.send(post(path="/held"))
    wire.state.drain()
    wire.connection.shutdown()
    server.held.set_result("done")
    (answer,) = await wire.send()

    assert (told(answer), answer.stays, wire.is_closed) == ("done", False, True)


# Patience


@pytest.mark.parametrize(
    ("sent", "patience_s"),
    [(b"", 10), (post(), 15), (post(path="/held"), None)],
    ids=["nothing", "idle", "waits for the model"],
)
def test_a_connection_on_which_nothing_comes_ends(sent: bytes, patience_s: float | None) -> None:
    @on_a_wire
    async def waits(wire: Wire, server: Server) -> None:
        now = wire.connection.expires
        await wire.send(sent)
        began = now - 10
        for later in (9, 11, 14, 17, 1000):
            wire.connection.expire(began + later)
            assert wire.is_closed == (patience_s is not None and later > patience_s)

    waits()


@on_a_wire
async def test_a_client_that_does_not_read_its_answer_gives_up_its_place(
    wire: Wire, server: Server
) -> None:
    await wire.send(post())
    began = wire.connection.expires - 15
    for later, unread in [(16, 900), (32, 800), (48, 700)]:  # slowly it does
        wire.unread = unread
        wire.connection.expire(began + later)
    assert not wire.is_closed

    wire.connection.expire(began + 64)
    assert wire.is_closed


@on_a_wire
async def test_a_client_that_has_left_is_not_told_that_it_was_slow(
    wire: Wire, server: Server
) -> None:
    """Of many that are given up together, some may leave before their turn."""
    await wire.send(post()[:-1])
    wire.close()
    wire.connection.expire(1e9)
    await settled()
    assert wire.sent == b""


@on_a_wire
async def test_a_client_that_stops_reading_before_its_answer_is_not_forgotten(
    wire: Wire, server: Server
) -> None:
    await wire.send(post(path="/held"))
    wire.connection.pause_writing()
    server.held.set_result("done")
    await settled()
    assert wire.connection.expires < inf


@pytest.mark.parametrize("sent", [b"POST /ec", post()[:-1]], ids=["half a head", "half a body"])
def test_a_request_that_takes_too_long_to_come_is_told_so(sent: bytes) -> None:
    @on_a_wire
    async def waits(wire: Wire, server: Server) -> None:
        began = wire.connection.expires - 10
        await wire.send(sent)
        wire.connection.expire(began + 9)
        await settled()
        assert wire.sent == b""

        wire.connection.expire(began + 11)
        await settled()
        (answer,) = answers(wire.sent)
        assert (answer.status, told(answer)["error"], wire.is_closed) == (408, "timeout", True)
        assert server.seen == []

    waits()


@on_a_wire
async def test_many_that_are_given_up_together_keep_nobody_waiting(
    wire: Wire, server: Server
) -> None:
    others = [Wire(server.core) for _ in range(10)]
    for other in others:
        other.connection.expires = 0.0
        wire.state.add(other.connection)
    wire.state.begin()
    n_closed = sum(other.is_closed for other in others)
    await settled()

    assert 0 < n_closed < 10
    assert all(other.is_closed for other in others)
    assert not wire.is_closed


def test_the_head_and_the_body_have_each_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(connection, "monotonic", lambda: now)

    @on_a_wire
    async def waits(wire: Wire, server: Server) -> None:
        nonlocal now
        head, body = post(b"slow")[:-4], b"slow"
        await wire.send(head[:9])
        now = 9.0
        await wire.send(head[9:], body[:1])
        now = 18.0
        await wire.send(body[1:2])  # nor does a byte now and then prolong it
        wire.connection.expire(18.9)
        await settled()
        assert wire.sent == b""

        wire.connection.expire(19.1)
        await settled()
        (answer,) = answers(wire.sent)
        assert (answer.status, "whole body" in told(answer)["detail"]) == (408, True)

    waits()


@on_a_wire
async def test_bodies_of_all_connections_have_a_bound_together(wire: Wire, server: Server) -> None:
    others = [Wire(server.core, wire.state) for _ in range(3)]
    for other in others[:2]:
        await other.send(post(b"a" * MAX_BODY)[:-1])
    room = MAX_BODIES - 2 * (MAX_BODY - 1)

    (at_limit,) = await wire.send(post(b"b" * room))
    (above,) = await wire.send(post(b"b" * (room + 1)))
    (again,) = await wire.send(post(b"b" * room))
    await others[2].send(post(b"aa")[:-1])
    (above_with_known_head,) = await wire.send(post(b"b" * room))
    (whole,) = await others[0].send(b"a")
    others[1].close()
    others[2].close()

    assert [at_limit.status, again.status, whole.status] == [200, 200, 200]
    for refused in (above, above_with_known_head):
        assert (refused.status, json.loads(refused.body)["error"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert refused.stays


@on_a_wire
async def test_of_a_body_without_room_the_rest_is_not_kept(wire: Wire, server: Server) -> None:
    others = [Wire(server.core, wire.state) for _ in range(3)]
    for other in others:
        await other.send(post(b"a" * MAX_BODY)[:-20])

    (refused,) = await wire.send(post(b"b" * MAX_BODY)[:-10])
    held = wire.state.n_held
    for other in others:
        other.close()
    nothing = await wire.send(b"b" * 9)
    (next_one,) = await wire.send(b"b" + post())

    assert (refused.status, held) == (503, 3 * (MAX_BODY - 20))
    assert (nothing, next_one.status) == ([], 200)


@on_a_wire
async def test_a_body_counts_until_its_answer(wire: Wire, server: Server) -> None:
    server.held.set_running_or_notify_cancel()
    other = Wire(server.core, wire.state)
    await wire.send(post(b"a" * 60, path="/held") + post(b"b" * 50))
    await other.send(post(b"c" * 70, path="/held"))

    held = [wire.state.n_held]
    other.close()
    await settled()
    held.append(wire.state.n_held)
    server.held.set_result("at last")
    await settled()

    assert held == [180, 110]
    assert [answer.status for answer in answers(wire.sent)] == [200, 200]
    assert wire.state.n_held == 0


# What a client may do, and how many requests it has then begun.
STEPS: list[tuple[Any, int]] = [
    (post(b"a" * 60), 1),
    (post(b"a" * 60, path="/held"), 1),
    (post(b"a" * 60) + post(b"b" * 70), 2),
    (post(b"a" * 2 * MAX_BODY), 1),
    (post(b"a" * 60, "Expect: 100-continue"), 1),
    (post(b"a" * 60, "Upgrade: h2c", "Connection: upgrade"), 1),
    (post(b"a" * 60, "Connection: close"), 1),
    (TOO_LONG_IN_CHUNKS + b"0\r\n\r\n", 1),
    (TOO_LONG_IN_CHUNKS + b"no size\r\n", 1),
    (b"no request\r\n\r\n", 1),
    (Connection.pause_writing, 0),
    (Connection.resume_writing, 0),
    (lambda connection: connection.expire(1e18), 0),
    (lambda connection: connection.abort(), 0),
]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(STEPS), st.integers(1, 400)), min_size=3)
)
def test_bodies_are_counted_while_they_are_held_whatever_clients_do(
    steps: list[tuple[int, tuple[Any, int], int]],
) -> None:
    @on_a_wire
    async def counted(wire: Wire, server: Server) -> None:
        server.held.set_running_or_notify_cancel()
        wires = [wire, Wire(server.core, wire.state)]
        n_begun = [0, 0]
        for place, (step, n_requests), size in steps:
            client = wires[place]
            n_begun[place] += n_requests
            if callable(step):
                if not client.is_closed:
                    step(client.connection)
            else:
                for part in (step[:size], step[size:]):
                    if not (client.is_closed or client.is_paused):
                        await client.send(part)
            await settled()
            assert 0 <= wire.state.n_held <= MAX_BODIES
        server.held.set_result("at last")
        await settled()
        for client, n_requests in zip(wires, n_begun, strict=True):
            if not client.is_closed:
                client.connection.resume_writing()
                await settled()
            assert len(answers(client.sent)) <= n_requests
        begun = [client.connection._body for client in wires if not client.is_closed]
        assert wire.state.n_held == sum(map(len, begun))
        wires[1].close()

    counted()
