"""How long a connection waits for its client, and when it ends."""

import asyncio
from math import inf

import pytest

from tabserve import connection
from tests.connection.wire import MAX_BODY, Server, Wire, answers, on_a_wire, post, settled, told


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


def test_answers_that_clients_do_not_read_have_a_bound_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MOST_UNSENT", 250)

    @on_a_wire
    async def reads_nothing(wire: Wire, server: Server) -> None:
        wires = [Wire(server.core, wire.state) for _ in range(3)]
        for client, unread in zip(wires, (150, 100, 1), strict=True):
            client.unread = unread
            client.connection.pause_writing()
        ended = [client.is_closed for client in wires]
        await settled()
        wires[0].connection.resume_writing()
        wires[1].close()
        await settled()

        assert (ended, wire.state.n_unsent) == ([False, False, True], 0)
        wires[0].close()

    reads_nothing()
