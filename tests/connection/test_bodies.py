"""The bodies of the requests of a connection: how they come, and what is held of them."""

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabserve.connection import Connection
from tabserve.errors import TooLarge
from tests.connection.wire import (
    MAX_BODIES,
    MAX_BODY,
    TOO_LONG_IN_CHUNKS,
    Server,
    Wire,
    answers,
    on_a_wire,
    post,
    settled,
    told,
)


@on_a_wire
async def test_a_body_may_come_in_chunks(wire: Wire, server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    (answer,) = await wire.send(head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")

    assert told(answer)[2] == "abcde"


@on_a_wire
async def test_a_client_that_asks_is_told_to_go_on(wire: Wire, server: Server) -> None:
    head, _, _ = post(b"hello", "Expect: 100-continue").partition(b"hello")
    assert await wire.send(head) == []
    assert wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"

    (answer,) = await wire.send(b"hello")
    assert told(answer)[2] == "hello"


@on_a_wire
async def test_a_client_of_http_1_0_has_no_answer_before_its_own(
    wire: Wire, server: Server
) -> None:
    await wire.send(post(b"hello", "Expect: 100-continue", version="1.0"))
    assert wire.sent.startswith(b"HTTP/1.1 200 OK")


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


ZIPPED = gzip.compress(b"a" * MAX_BODY)


@on_a_wire
async def test_of_a_gzip_body_that_counts_what_it_holds(wire: Wire, server: Server) -> None:
    server.held.set_running_or_notify_cancel()
    wires = [wire, Wire(server.core, wire.state), Wire(server.core, wire.state)]
    for client in wires:
        await client.send(post(ZIPPED, "Content-Encoding: gzip", path="/held"))

    held = wire.state.n_held
    (refused,) = answers(wires[2].sent)
    wires[1].close()
    server.held.set_result("at last")
    await settled()

    assert (held, told(refused)["error"], refused.stays) == (2 * MAX_BODY, "overloaded", True)
    assert [answer.status for answer in answers(wire.sent)] == [200]
    wires[2].close()


# What a client may do, and how many requests it has then begun.
STEPS: list[tuple[Any, int]] = [
    (post(b"a" * 60), 1),
    (post(b"a" * 60, path="/held"), 1),
    (post(b"a" * 60) + post(b"b" * 70), 2),
    (post(b"") * 82, 82),  # more than is read at once
    (post(ZIPPED, "Content-Encoding: gzip", path="/held"), 1),
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
                await settled(100)
            assert len(answers(client.sent)) <= n_requests
        begun = [client.connection._body for client in wires if not client.is_closed]
        assert wire.state.n_held == sum(map(len, begun))
        wires[1].close()

    counted()
