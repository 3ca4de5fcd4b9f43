"""HTTP/1.1 on one connection: bytes in, answers out, in their order."""

import asyncio
import threading
from typing import Any

import pytest

from tabserve import connection
from tabserve.exchange import Turn
from tabserve.receiving import Bounds
from tabserve.types import Request, Response
from tests.connection.wire import MAX_BODY, Server, Wire, answers, on_a_wire, post, settled, told


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


@on_a_wire
async def test_a_request_may_come_byte_by_byte(wire: Wire, server: Server) -> None:
    (answer,) = await wire.send(*(bytes([byte]) for byte in post(b"slow")))

    assert told(answer)[2] == "slow"


@on_a_wire
async def test_requests_sent_ahead_are_answered_in_their_order(wire: Wire, server: Server) -> None:
    found = await wire.send(post(b"1") + post(b"2", path="/nowhere") + post(b"3"))

    assert [answer.status for answer in found] == [200, 404, 200]
    assert [told(answer)[2] for answer in found[::2]] == ["1", "3"]
    assert not wire.is_paused


def test_of_many_requests_sent_ahead_at_once_few_are_read_before_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_read = 0

    def read(**parts: Any) -> Request:
        nonlocal n_read
        n_read += 1
        return Request(**parts)

    monkeypatch.setattr(connection, "Request", read)
    bodies = [b"%d" % i for i in range(1000)]
    sent = b"".join(map(post, bodies))

    @on_a_wire
    async def sends(_: Wire, server: Server) -> None:
        server.core.bounds = Bounds(max_body=MAX_BODY, max_bodies=len(sent))
        wire = Wire(server.core)
        await wire.send(post(path="/held") + sent[:-10])
        read_at_once, is_paused, held = n_read, wire.is_paused, wire.state.n_held

        server.held.set_result("first")
        await settled(2 * len(bodies))
        await wire.send(sent[-10:])

        first, *others = answers(wire.sent)
        assert (told(first), [told(answer)[2].encode() for answer in others]) == ("first", bodies)
        assert (read_at_once < 100, is_paused, wire.is_paused) == (True, True, False)
        # Its bytes count as bodies do.
        assert (held > len(sent) - 4096, wire.state.n_held) == (True, 0)

    sends()


@on_a_wire
async def test_of_requests_sent_ahead_without_room_the_first_are_answered(
    wire: Wire, server: Server
) -> None:
    await wire.send(post(b"1") * 100)
    await settled(200)

    *answered, refused = [answer.status for answer in answers(wire.sent)]
    assert (set(answered), refused, wire.is_closed) == ({200}, 503, True)


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
async def test_no_answer_is_made_for_a_client_that_does_not_read(
    wire: Wire, server: Server
) -> None:
    wire.connection.pause_writing()
    assert await wire.send(post(b"1") + post(b"2")) == []
    assert (server.seen, wire.is_paused) == ([], True)

    wire.connection.resume_writing()
    assert [told(answer)[2] for answer in await wire.send()] == ["1", "2"]


@on_a_wire
async def test_nothing_is_computed_behind_the_last_answer_when_the_client_reads_that(
    wire: Wire, server: Server
) -> None:
    wire.close = lambda: setattr(wire, "is_closed", True)  # type: ignore[method-assign]
    await wire.send(post(path="/held") + post(b"2"))
    wire.state.drain()
    wire.connection.pause_writing()
    server.held.set_result("last")
    await settled()
    wire.connection.resume_writing()
    await settled()

    assert ([told(answer) for answer in answers(wire.sent)], server.seen) == (["last"], [])
    wire.connection.connection_lost(None)


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
