"""Requests on an event loop: those of one turn together, each with its own fate."""

import asyncio
import gc
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tabserve.admission import Admission
from tabserve.exchange import Turn
from tabserve.http import Dispatcher
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.responses import json_response
from tabserve.routing import Route
from tabserve.types import Computation, Pending, Request, Response
from tests.http.conftest import (
    PATIENCE_S,
    ROW,
    answered,
    asked,
    begun,
    dispatcher,
    fine,
    in_flight,
    settled,
    told,
    waiting_for,
)


@pytest.mark.parametrize("is_running", [False, True])
def test_nothing_is_computed_any_more_for_a_client_that_has_left(is_running: bool) -> None:
    held: Future[Any] = Future()
    if is_running:
        held.set_running_or_notify_cancel()
    metrics, responses = Metrics(), list[Response]()
    core, request = dispatcher(waiting_for(lambda: held), metrics=metrics), asked()

    async def leaves() -> None:
        exchange = begun(core, request, responses.append)
        await settled()
        exchange.leave()
        await settled()

    asyncio.run(leaves())
    assert (held.cancelled(), in_flight(metrics)) == (not is_running, 0)
    assert [response.status for response in responses] == [499]


@dataclass
class Row:
    x: int
    n_rows: int = 1


@pytest.mark.parametrize("sent", [[1, 2, 3], [1, -2, 3], [-1]], ids=repr)
def test_what_comes_in_one_turn_of_the_loop_is_computed_as_one_batch(sent: list[int]) -> None:
    calls: list[int] = []

    def doubled(rows: Sequence[Row]) -> list[int]:
        calls.append(len(rows))
        if any(row.x < 0 for row in rows):
            raise ValueError(ROW)
        return [2 * row.x for row in rows]

    def handler(request: Request) -> Pending:
        return Pending(Computation(doubled, Row(int(request.body))), json_response)

    core = dispatcher(fine, handler)

    responses = in_one_turn(core, *(asked("POST", body=b"%d" % x) for x in sent))

    for x, response in zip(sent, responses, strict=True):
        if x < 0:
            assert told(response) == (500, "internal", "The server failed.")
        else:
            assert response.body == b"%d" % (2 * x)
    assert calls[0] == len(sent)
    assert (len(calls) == 1) == (min(sent) > 0 or len(sent) == 1)


def in_one_turn(core: Dispatcher, *requests: Request) -> list[Response]:
    """What each is answered."""
    responses: dict[int, Response] = {}

    async def all_at_once() -> None:
        turn = Turn(asyncio.get_running_loop())
        for place, request in enumerate(requests):
            turn.begin(core, request, partial(responses.__setitem__, place))
        turn.soon()
        await settled()

    asyncio.run(all_at_once())
    return [responses[place] for place in range(len(requests))]


class FailingAt(Dispatcher):
    """at: the step of a request for /bad that fails in a way that nobody thought of."""

    at = ""

    def begin(self, request: Request) -> Response | Pending:
        if (self.at, request.path) == ("begin", "/bad"):
            raise KeyError(ROW)
        return super().begin(request)

    def end(self, request: Request, pending: Pending, result: Any) -> Response | Pending:
        if (self.at, request.path) == ("end", "/bad"):
            raise KeyError(ROW)
        return super().end(request, pending, result)


@pytest.mark.parametrize("at", ["begin", "end"])
def test_a_request_that_fails_as_nobody_thought_of_leaves_its_neighbours_their_answers(
    at: str, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: Request) -> Pending:
        return Pending(Computation(list, request.path), json_response)

    routes = [Route("GET", path, handler) for path in ("/1", "/bad", "/2")]
    core = FailingAt(routes, Admission(), metrics=Metrics(), log=RequestLog("off"))
    core.at = at

    first, failed, last = in_one_turn(core, *(asked(path=route.path) for route in routes))

    assert (first.body, last.body) == (b'"/1"', b'"/2"')
    assert told(failed) == (500, "internal", "The server failed.")
    assert ROW not in caplog.text


def test_one_that_cannot_be_answered_keeps_nobody_elses_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    responses: list[Response] = []

    def lost(response: Response) -> None:
        raise ConnectionError

    async def both_at_once() -> None:
        turn = Turn(asyncio.get_running_loop())
        turn.begin(dispatcher(fine), asked(x_request_id="lost"), lost)
        turn.begin(dispatcher(fine), asked(), responses.append)
        turn.soon()
        await settled()

    asyncio.run(both_at_once())
    assert [response.body for response in responses] == [b'"fine"']
    assert "request lost failed: ConnectionError" in caplog.text


def test_an_answer_does_not_wait_until_it_is_counted_but_a_scrape_does() -> None:
    metrics, responses, counts = Metrics(), list[Response](), list[int]()
    core = dispatcher(fine, metrics=metrics)

    async def answer() -> None:
        begun(core, asked(), lambda response: (responses, counts.append(n_counted(metrics))))
        await settled()

    asyncio.run(answer())
    assert counts == [0]
    assert re.findall(rb'_count\{route="/it"\} (\S+)', metrics.exposition("")[0]) == [b"1.0"]


def n_counted(metrics: Metrics) -> int:
    samples = metrics.latency.collect()[0].samples
    return int(sum(sample.value for sample in samples if sample.name.endswith("_count")))


def test_a_loop_with_nothing_else_to_do_counts_and_logs_what_was_answered(tmp_path: Path) -> None:
    metrics, log = Metrics(), RequestLog(str(tmp_path / "log"))
    core = dispatcher(fine, metrics=metrics, log=log)
    counted = threading.Event()

    async def answer() -> None:
        metrics.later(lambda value: counted.set(), 1)
        await answered(core, asked())
        await asyncio.wait_for(asyncio.to_thread(counted.wait), PATIENCE_S)

    asyncio.run(answer())
    assert n_counted(metrics) == 1
    log.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@pytest.mark.parametrize("caller", ["waits", "leaves", "is too late"])
def test_asyncio_does_not_log_an_error_of_the_model_that_may_hold_the_row(
    caller: str, caplog: pytest.LogCaptureFixture
) -> None:
    running: Future[Any] = Future()
    running.set_running_or_notify_cancel()
    handler = waiting_for(lambda: running)
    core = dispatcher(handler, deadline_s=0.01 if caller == "is too late" else PATIENCE_S)
    request = asked()

    async def call() -> None:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        exchange = begun(core, request, answer.set_result)
        await settled()
        if caller == "leaves":
            exchange.leave()
        if caller != "waits":
            await answer
        running.set_exception(ValueError(ROW))
        await settled()

    asyncio.run(call())
    gc.collect()
    assert ROW not in caplog.text
    assert "never retrieved" not in caplog.text


def test_the_event_loop_answers_others_while_a_handler_waits() -> None:
    held: Future[Any] = Future()
    core = dispatcher(waiting_for(lambda: held))

    async def both() -> tuple[Response, Response]:
        slow = asyncio.create_task(answered(core, asked()))
        await settled()
        quick = await answered(core, asked(path="/open"))
        held.set_result("slow")
        return quick, await slow

    assert [answer.body for answer in asyncio.run(both())] == [b'"open"', b'"slow"']
