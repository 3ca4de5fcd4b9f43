"""The path of a request without a framework: driven by a thread and by an event loop alike."""

import json
import logging
import re
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import errors
from tabserve.exchange import respond
from tabserve.logs import RequestLog
from tabserve.metrics import Metrics
from tabserve.responses import error_response, json_response
from tabserve.types import Pending, Request, Response
from tests.http.conftest import (
    PATIENCE_S,
    ROW,
    Drive,
    asked,
    dispatcher,
    fine,
    in_flight,
    later,
    told,
    waiting_for,
)


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
