"""The head of a request, as one connection reads it: what it says, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabserve.heads import KnownHeads
from tabserve.receiving import Bounds
from tabserve.types import Request
from tests.connection.wire import MAX_BODY, Server, Wire, answers, on_a_wire, post, settled, told


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
async def test_space_around_a_value_is_no_part_of_it(wire: Wire, server: Server) -> None:
    (answer,) = await wire.send(post(b"", "X-Thing: \t a b \t ", "X-Request-ID: mine "))

    (request,) = server.seen
    assert (request.headers["x-thing"], answer.headers["x-request-id"]) == ("a b", "mine")


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
async def test_what_comes_before_the_beginning_of_a_head_does_not_count_as_one(
    wire: Wire, server: Server
) -> None:
    server.core.bounds = Bounds(max_target=100, max_header_bytes=100)
    wire = Wire(server.core)

    await wire.send(post(b"1") * 10 + post(b"2")[:10])
    await settled(20)
    (last,) = await wire.send(post(b"2")[10:])

    assert ([answer.status for answer in answers(wire.sent)], told(last)[2]) == ([200] * 11, "2")


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
