"""The path of a request without a framework: driven by a thread and by an event loop alike."""

import asyncio
import gc
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import errors
from tabserve.admission import Admission
from tabserve.auth import Keys, add_key
from tabserve.exchange import Exchange, Turn, respond
from tabserve.http import Dispatcher
from tabserve.limits import RateLimiter
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.responses import error_response, json_response
from tabserve.routing import Route
from tabserve.settings import Rate
from tabserve.types import Computation, Pending, Request, Response

PATIENCE_S = 20
ROW = "Ada Lovelace, 36"

Drive = Callable[[Dispatcher, Request], Response]


async def answered(core: Dispatcher, request: Request) -> Response:
    answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    begun(core, request, answer.set_result)
    return await answer


def begun(core: Dispatcher, request: Request, told: Callable[[Response], None]) -> Exchange:
    turn = Turn(asyncio.get_running_loop())
    exchange = turn.begin(core, request, told)
    turn.soon()
    return exchange


@pytest.fixture(params=["thread", "loop"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """Takes a request through a dispatcher."""
    if request.param == "thread":
        return lambda core, asked: respond(core, asked)
    return lambda core, asked: asyncio.run(answered(core, asked))


def asked(method: str = "GET", path: str = "/it", body: bytes = b"", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, named, body, "10.0.0.1")


def dispatcher(
    *handlers: Any,
    metrics: Metrics | None = None,
    log: RequestLog | None = None,
    deadline_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    **admission: Any,
) -> Dispatcher:
    """The first handler answers GET /it, the second, which is limited, POST /it."""
    routes = [
        Route(method, "/it", handler, limited=method == "POST", operation={"responses": {}})
        for method, handler in zip(("GET", "POST"), handlers, strict=False)
    ]
    routes.append(Route("GET", "/open", lambda request: json_response("open"), public=True))
    return Dispatcher(
        routes,
        Admission(**admission),
        metrics=metrics or Metrics(),
        log=log or RequestLog("off"),
        deadline_s=deadline_s,
        clock=clock,
    )


def told(response: Response) -> tuple[int, str, str]:
    body = orjson.loads(response.body)
    assert list(body) == ["error", "detail", "request_id"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    return response.status, body["error"], body["detail"]


def fine(request: Request) -> Response:
    return json_response("fine")


def in_flight(metrics: Metrics) -> float:
    return metrics.in_flight._value.get()


def later(outcome: Any) -> Future[Any]:
    """Comes to it in another thread, and soon."""
    future: Future[Any] = Future()
    failed = isinstance(outcome, BaseException)
    finish = future.set_exception if failed else future.set_result
    threading.Timer(0.001, finish, (outcome,)).start()
    return future


def waiting_for(make: Callable[[], Future[Any]]) -> Callable[[Request], Pending]:
    def handler(request: Request) -> Pending:
        return Pending(make(), json_response)

    return handler


def test_a_handler_is_told_what_it_waited_for(drive: Drive) -> None:
    response = drive(dispatcher(waiting_for(lambda: later(1))), asked())

    assert (response.status, response.body) == (200, b"1")


@pytest.mark.parametrize(
    "error",
    [ValueError(ROW), KeyError(ROW), StopIteration(ROW), TimeoutError(ROW), MemoryError(ROW)],
    ids=lambda error: type(error).__name__,
)
def test_what_a_model_raises_is_told_to_nobody(
    drive: Drive, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    core = dispatcher(waiting_for(lambda: later(error)))

    response = drive(core, asked())

    assert told(response) == (500, "internal", "The server failed.")
    assert ROW not in caplog.text
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "request " + response.headers["X-Request-ID"] in caplog.text


def test_the_operator_is_told_the_place_and_kind_of_a_failure(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(request: Request) -> Response:
        raise ZeroDivisionError(ROW)

    drive(dispatcher(breaks), asked())

    assert "failed: ZeroDivisionError" in caplog.text
    assert "in breaks" in caplog.text
    assert ROW not in caplog.text


def test_past_the_deadline_the_answer_is_504(drive: Drive) -> None:
    held: Future[Any] = Future()
    held.set_running_or_notify_cancel()  # a model cannot be stopped
    metrics = Metrics()

    response = drive(
        dispatcher(waiting_for(lambda: held), metrics=metrics, deadline_s=0.02), asked()
    )

    assert told(response) == (504, "deadline", "The model did not answer in time.")
    assert in_flight(metrics) == 0


def test_past_the_deadline_what_is_still_queued_is_given_up(drive: Drive) -> None:
    queued: Future[Any] = Future()

    response = drive(dispatcher(waiting_for(lambda: queued), deadline_s=0.02), asked())

    assert told(response) == (503, "overloaded", "The model was not free in time.")
    assert (response.headers["Retry-After"], queued.cancelled()) == ("1", True)


@pytest.mark.parametrize(("given", "left_s"), [("20", 0.02), ("1", 0.001), ("999999999", 30.0)])
def test_a_client_may_want_its_answer_sooner_than_the_deadline(given: str, left_s: float) -> None:
    seen: list[Request] = []
    core = dispatcher(lambda request: seen.append(request) or fine(request), clock=lambda: 5.0)
    assert respond(core, asked(x_request_timeout_ms=given)).status == 200
    assert seen[0].deadline == 5.0 + left_s


@pytest.mark.parametrize("given", ["", "0", "-1", "1.5", "1e3", "soon", "1" * 10, "1,1"])
def test_a_timeout_that_is_none_is_refused(given: str) -> None:
    response = respond(dispatcher(fine), asked(x_request_timeout_ms=given))
    assert told(response)[:2] == (400, "bad_request")


@pytest.mark.parametrize("is_running", [False, True])
def test_nothing_is_computed_any_more_for_a_client_that_has_left(is_running: bool) -> None:
    held: Future[Any] = Future()
    if is_running:
        held.set_running_or_notify_cancel()
    metrics, responses = Metrics(), list[Response]()
    core, request = dispatcher(waiting_for(lambda: held), metrics=metrics), asked()

    async def leaves() -> None:
        exchange = begun(core, request, responses.append)
        await _settled()
        exchange.leave()
        await _settled()

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
        await _settled()

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
        await _settled()

    asyncio.run(both_at_once())
    assert [response.body for response in responses] == [b'"fine"']
    assert "request lost failed: ConnectionError" in caplog.text


def test_what_cannot_be_counted_or_logged_is_answered(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RequestLog("off")
    core = dispatcher(fine, log=log)

    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(log, "write", fails)

    assert drive(core, asked()).body == b'"fine"'
    assert told(drive(core, asked(path="/nowhere")))[0] == 404


def test_a_handler_that_ends_the_process_fails_alone(drive: Drive) -> None:
    def exits(request: Request) -> Response:
        raise SystemExit(3)

    assert told(drive(dispatcher(exits), asked())) == (500, "internal", "The server failed.")


def test_an_answer_does_not_wait_until_it_is_counted_but_a_scrape_does() -> None:
    metrics, responses, counts = Metrics(), list[Response](), list[int]()
    core = dispatcher(fine, metrics=metrics)

    async def answer() -> None:
        begun(core, asked(), lambda response: (responses, counts.append(n_counted(metrics))))
        await _settled()

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


async def _settled() -> None:
    """Whatever the loop has to do is done."""
    for _ in range(5):
        await asyncio.sleep(0)


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
        await _settled()
        if caller == "leaves":
            exchange.leave()
        if caller != "waits":
            await answer
        running.set_exception(ValueError(ROW))
        await _settled()

    asyncio.run(call())
    gc.collect()
    assert ROW not in caplog.text
    assert "never retrieved" not in caplog.text


def test_the_event_loop_answers_others_while_a_handler_waits() -> None:
    held: Future[Any] = Future()
    core = dispatcher(waiting_for(lambda: held))

    async def both() -> tuple[Response, Response]:
        slow = asyncio.create_task(answered(core, asked()))
        await _settled()
        quick = await answered(core, asked(path="/open"))
        held.set_result("slow")
        return quick, await slow

    assert [answer.body for answer in asyncio.run(both())] == [b'"open"', b'"slow"']


ERRORS = [
    (errors.BadRequest("No."), 400, "bad_request"),
    (errors.Unauthorized("No."), 401, "unauthorized"),
    (errors.Forbidden("No."), 403, "forbidden"),
    (errors.NotFound("No."), 404, "not_found"),
    (errors.TooLarge("No."), 413, "too_large"),
    (errors.UnsupportedMediaType("No."), 415, "unsupported_media_type"),
    (errors.RateLimited("No.", 3.2), 429, "rate_limited"),
    (errors.Internal("No."), 500, "internal"),
    (errors.BadModelOutput("No."), 500, "bad_model_output"),
    (errors.ModelNotReady("No."), 503, "model_not_ready"),
    (errors.Overloaded("No."), 503, "overloaded"),
    (errors.DeadlineExceeded("No."), 504, "deadline"),
]


@pytest.mark.parametrize(
    "error", [errors.Internal("The model raised SystemExit."), errors.BadModelOutput("Record 1.")]
)
def test_the_operator_is_told_of_a_model_that_breaks_its_contract(
    drive: Drive, error: errors.TabserveError, caplog: pytest.LogCaptureFixture
) -> None:
    drive(dispatcher(waiting_for(lambda: later(error))), asked(x_request_id="7"))

    assert caplog.messages == [f"request 7 failed: {error}"]


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=[code for *_, code in ERRORS])
def test_every_error_has_one_shape_and_is_counted_by_its_code(
    drive: Drive, error: errors.TabserveError, status: int, code: str
) -> None:
    metrics = Metrics()

    response = drive(dispatcher(waiting_for(lambda: later(error)), metrics=metrics), asked())

    assert told(response) == (status, code, "No.")
    assert metrics.errors.labels(code)._value.get() == 1
    assert ("Retry-After" in response.headers) == (status in (429, 503))


def test_invalid_input_is_told_problem_by_problem() -> None:
    problems = [{"loc": ("body", "age"), "msg": "Input should be a number", "type": "float_type"}]

    response = error_response(errors.InvalidInput(problems), "the-id")

    assert orjson.loads(response.body) == {
        "error": "invalid_input",
        "detail": [{"loc": ["body", "age"], "msg": problems[0]["msg"], "type": "float_type"}],
        "request_id": "the-id",
    }


@pytest.mark.parametrize(
    ("retry_after_s", "header"), [(0.001, "1"), (1.0, "1"), (1.001, "2"), (59.5, "60")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(
    retry_after_s: float, header: str
) -> None:
    response = error_response(errors.RateLimited("No.", retry_after_s), "")

    assert response.headers == {"Retry-After": header}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_asked_for_before_anything_is_computed(drive: Drive, key_file: Path) -> None:
    key = add_key(key_file, "ada")
    core = dispatcher(fine, keys=Keys(str(key_file)))

    assert told(drive(core, asked()))[:2] == (401, "unauthorized")
    assert told(drive(core, asked(x_api_key="wrong")))[:2] == (403, "forbidden")
    assert drive(core, asked(x_api_key=key)).body == b'"fine"'


def test_an_open_route_asks_for_no_key_and_reads_none(drive: Drive, key_file: Path) -> None:
    add_key(key_file, "ada")
    core = dispatcher(fine, keys=Keys(str(key_file)))
    key_file.unlink()

    assert drive(core, asked(path="/open")).status == 200
    assert drive(core, asked(path="/open", x_api_key="wrong")).status == 200
    assert told(drive(core, asked(x_api_key="any")))[:2] == (503, "model_not_ready")


@pytest.fixture
def limiter() -> Iterator[RateLimiter]:
    made = RateLimiter(Rate(1, 60), clock=lambda: 0.0)
    yield made
    made.close()


def test_only_limited_routes_count(drive: Drive, limiter: RateLimiter) -> None:
    core = dispatcher(fine, fine, limiter=limiter)

    assert [drive(core, asked()).status for _ in range(5)] == [200] * 5
    assert [drive(core, asked("POST")).status for _ in range(2)] == [200, 429]
    assert drive(core, asked()).status == 200


def test_the_limit_is_per_address_where_there_are_no_keys(
    drive: Drive, limiter: RateLimiter
) -> None:
    core = dispatcher(fine, fine, limiter=limiter)
    neighbour = asked("POST")
    neighbour.client = "10.0.0.2"

    statuses = [drive(core, request).status for request in (asked("POST"), neighbour)]

    assert statuses == [200, 200]
    refused = drive(core, asked("POST"))
    assert told(refused) == (429, "rate_limited", "The limit is 1 requests in 60 s.")
    assert refused.headers["Retry-After"] == "60"


def test_the_limit_is_per_key_and_a_wrong_key_uses_nobodys(
    drive: Drive, limiter: RateLimiter, key_file: Path
) -> None:
    ada, bob = add_key(key_file, "ada"), add_key(key_file, "bob")
    core = dispatcher(fine, fine, limiter=limiter, keys=Keys(str(key_file)))

    statuses = [
        drive(core, asked("POST", x_api_key=key)).status for key in ("no", ada, ada, bob, "no")
    ]

    assert statuses == [403, 200, 429, 200, 403]


def test_the_latency_is_on_the_clock_and_by_documented_routes_only(drive: Drive) -> None:
    metrics, times = Metrics(), iter([10.0, 10.5, 20.0, 21.0])
    core = dispatcher(fine, metrics=metrics, clock=lambda: next(times))

    drive(core, asked())
    drive(core, asked(path="/a-path-of-the-clients-choosing"))

    metrics.settle()
    sums = {
        sample.labels["route"]: sample.value
        for sample in metrics.latency.collect()[0].samples
        if sample.name.endswith("_sum")
    }
    assert sums == {"/it": 0.5, "other": 1.0}


def test_wrong_keys_are_limited_per_address_and_hurt_nobody_who_has_a_right_one(
    drive: Drive, limiter: RateLimiter, key_file: Path
) -> None:
    key = add_key(key_file, "ada", "metrics")
    core = dispatcher(fine, keys=Keys(str(key_file)), key_tries=limiter)
    predict = replace(core.routes[0], path="/predict", roles=frozenset({"predict"}))
    core.serve([*core.routes, predict])

    wrong, again = (drive(core, asked(x_api_key="no")) for _ in range(2))

    assert (wrong.status, again.status, again.headers["Retry-After"]) == (403, 429, "60")
    assert told(again)[1:] == ("rate_limited", "Too many wrong API keys came from this address.")
    assert drive(core, asked(x_api_key=key)).status == 200
    assert drive(core, asked(path="/predict", x_api_key=key)).status == 403  # known, so no try
    assert drive(core, asked()).status == 401
    elsewhere = replace(asked(x_api_key="no"), client="10.0.0.2")
    assert drive(core, elsewhere).status == 403


def test_a_key_in_the_address_is_refused_whatever_is_asked(drive: Drive, key_file: Path) -> None:
    key = add_key(key_file, "ada")
    core = dispatcher(fine, keys=Keys(str(key_file)))

    for path in ("/it", "/open", "/no-such"):
        request = replace(asked(path=path, x_api_key=key), query=f"api_key={key}")
        response = drive(core, request)
        assert told(response)[:2] == (400, "bad_request")
        assert key not in response.body.decode()


def test_clients_make_no_series_and_routes_that_nobody_asks_have_none(drive: Drive) -> None:
    metrics = Metrics()
    core = dispatcher(fine, fine, metrics=metrics)
    before = metrics.exposition("")[0]

    for n in range(20):
        drive(core, asked(f"METHOD{n}", f"/path{n}", x_request_id=f"{n}", user_agent=f"{n}"))

    text = metrics.exposition("")[0].decode()
    assert b"route=" not in before
    assert set(re.findall(r'(route|code)="(\w*)"', text)) == {
        ("route", "other"), ("code", "not_found"),
    }  # fmt: skip


def test_every_request_is_one_line_and_an_error_has_its_code_and_no_row(
    drive: Drive, tmp_path: Path
) -> None:
    log = RequestLog(str(tmp_path / "log"))
    core = dispatcher(fine, waiting_for(lambda: later(ValueError(ROW))), log=log)
    for request in (asked(x_request_id="1"), asked("POST", body=ROW.encode(), x_request_id="2")):
        drive(core, request)
    drive(core, asked(path="/no\nwhere" + "x" * 1000, x_request_id="3"))
    log.close()

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line.pop("timestamp")[-1] for line in lines] == ["Z"] * 3
    assert all(0 <= line.pop("latency_ms") < 1000 * PATIENCE_S for line in lines)
    common = {"method": "GET", "path": "/it"}
    assert lines == [
        common | {"event": "request", "request_id": "1", "status": 200},
        common
        | {
            "event": "error",
            "request_id": "2",
            "method": "POST",
            "status": 500,
            "code": "internal",
        },
        {
            "event": "error",
            "request_id": "3",
            "method": "GET",
            "path": "/no\nwhere" + "x" * 191,
            "status": 404,
            "code": "not_found",
        },
    ]


def test_no_part_of_a_key_is_logged_where_a_path_is_cut(drive: Drive, tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path / "log"))
    key = "ts_" + "aB3-_" * 8 + "xyz"
    drive(dispatcher(fine, log=log), asked(path="/" + "x" * 170 + key))
    log.close()

    assert json.loads((tmp_path / "log").read_text())["path"] == "/" + "x" * 170 + "ts_***"


def test_what_waits_for_the_model_is_counted_while_it_does(drive: Drive) -> None:
    metrics, seen = Metrics(), []

    class Watched(Future[Any]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            seen.append(in_flight(metrics))
            return super().exception(timeout)

    def handler(request: Request) -> Pending:
        future = Watched()
        threading.Timer(0.001, future.set_result, ("fine",)).start()
        return Pending(future, json_response)

    drive(dispatcher(handler, metrics=metrics), asked())

    assert (set(seen), in_flight(metrics)) == ({1.0}, 0.0)


def test_the_servers_own_words_go_to_the_logger_named_tabserve(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(request: Request) -> Response:
        raise OSError("/srv/secret/path")

    response = drive(dispatcher(breaks), asked())

    assert b"secret" not in response.body
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("tabserve", logging.ERROR)
    ]
