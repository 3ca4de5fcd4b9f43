"""POST /predict/batch?on_error=report: each bad row has its own error in place."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tabserve import Service
from tabserve.predictor import MOST_CALLS
from tabserve.types import Outputs, Values, n_rows
from tests.conftest import RECORD
from tests.serving import (
    FRAMEWORKS,
    PATIENCE_S,
    Answer,
    Client,
    client_of,
    error,
    masked,
    service_with,
    settings,
)

REPORT = "/predict/batch?on_error=report"
BAD = RECORD | {"contract_type": "Weekly"}


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[Service]:
    made = Service(repository, settings=settings(max_rows=20))
    made.wait(PATIENCE_S)
    yield made
    made.close()


@pytest.fixture(params=FRAMEWORKS)
def client(request: pytest.FixtureRequest, service: Service) -> Client:
    return client_of(service, request.param)


def report(client: Client, body: Any) -> Answer:
    return client("POST", REPORT, orjson.dumps(body))


def found(answer: Answer) -> list[Any]:
    """By row, the code of its error, or its answer's number."""
    return [row.get("error", row.get("churn_probability")) for row in answer.json()["predictions"]]


def test_a_bad_row_has_its_error_in_place_and_the_others_their_answers(client: Client) -> None:
    alone = client("POST", "/predict", orjson.dumps(RECORD)).json()["churn_probability"]

    answer = report(client, [RECORD, BAD, {}, RECORD, 7])

    assert answer.status == 200
    assert found(answer) == [alone, "invalid_input", "invalid_input", alone, "invalid_input"]
    body = answer.json()
    assert (body["count"], body["errors"]) == (5, 3)
    problems = body["predictions"][1]["detail"]
    assert [(problem["loc"], problem["type"]) for problem in problems] == [
        (["body", 1, "contract_type"], "literal_error")
    ]
    assert list(body["predictions"][1]) == ["error", "detail"]


def test_rows_of_columns_are_reported_too(client: Client) -> None:
    columns = {name: [value, value] for name, value in RECORD.items()}
    columns["tenure_months"] = [12, "x"]

    answer = report(client, {"columns": columns})

    assert found(answer)[1] == "invalid_input"
    assert answer.json()["errors"] == 1
    (problem,) = answer.json()["predictions"][1]["detail"]
    assert problem["loc"] == ["body", "columns", "tenure_months", 1]


@pytest.mark.parametrize("body", [[RECORD] * 2, {"columns": {k: [v] for k, v in RECORD.items()}}])
def test_a_batch_without_errors_is_answered_as_ever(client: Client, body: Any) -> None:
    usual = client("POST", "/predict/batch", orjson.dumps(body))
    answer = report(client, body).json()

    assert answer.pop("errors") == 0
    assert masked(orjson.dumps(answer)) == masked(usual.body)


def test_a_batch_of_errors_alone_calls_no_model(client: Client, service: Service) -> None:
    answer = report(client, [{}, BAD])

    assert (answer.status, found(answer)) == (200, ["invalid_input", "invalid_input"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 422, "invalid_input"),
        (b"7", 422, "invalid_input"),
        (b'{"columns":{"x":[1],"y":[1,2]}}', 422, "invalid_input"),
        (b"[{}, NaN]", 422, "invalid_json"),
        (b"[{}", 422, "invalid_json"),
        (orjson.dumps([{}] * 21), 413, "too_large"),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(
    client: Client, body: bytes, status: int, code: str
) -> None:
    assert error(client("POST", REPORT, body)) == (status, code)


@pytest.mark.parametrize(
    "query", ["on_error=ignore", "on_eror=report", "on_error", "on_error=report&on_error=report",
              "on_error=report&a=1", "%zz", "&&&"]
)  # fmt: skip
def test_an_unknown_parameter_is_a_400(client: Client, query: str) -> None:
    answer = client("POST", f"/predict/batch?{query}", orjson.dumps([RECORD]))
    assert error(answer) == (400, "bad_request")


def test_on_error_refuse_is_the_default(client: Client) -> None:
    answer = client("POST", "/predict/batch?on_error=refuse", orjson.dumps([RECORD, BAD]))
    assert error(answer) == (422, "invalid_input")


def test_row_errors_are_counted_by_code(client: Client) -> None:
    report(client, [BAD])
    text = client.get("/metrics").body.decode()
    assert 'tabserve_row_errors_total{code="invalid_input",model="churn",version="1.2.3"}' in text


class PoisonedEngine:
    """Answers no finite number for a tenure of 66, and fails where there is one of 13."""

    name, reentrant = "poisoned", False

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, values: Values) -> Outputs:
        self.calls += 1
        tenure = np.asarray(values["tenure_months"])
        if (tenure == 13).any():
            raise ZeroDivisionError
        return {"proba": np.where(tenure == 66, np.nan, 0.5) + np.zeros(n_rows(values))}


def test_a_row_whose_computation_fails_fails_alone(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = service_with(PoisonedEngine(), repository, monkeypatch)
    rows = [RECORD | {"tenure_months": tenure} for tenure in (1, 66, 2, 13, 66)]

    with caplog.at_level(logging.ERROR, "tabserve"):
        answer = report(client_of(service, "fastapi"), [*rows, BAD])

    assert found(answer) == [
        0.5, "bad_model_output", 0.5, "internal", "bad_model_output", "invalid_input",
    ]  # fmt: skip
    details = [row["detail"] for row in answer.json()["predictions"] if "detail" in row]
    assert details[:2] == [
        "The model's answer for this record is not a finite number.", "The server failed.",
    ]  # fmt: skip
    assert "ZeroDivisionError" in caplog.text
    service.close()


def test_a_batch_on_which_the_model_fails_is_given_up_after_some_calls(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PoisonedEngine()
    service, _ = service_with(engine, repository, monkeypatch)

    answer = report(client_of(service, "fastapi"), [RECORD | {"tenure_months": 13}] * 500)

    assert found(answer) == ["internal"] * 500
    assert engine.calls == MOST_CALLS + 1
    service.close()
