"""What watches a service: keys, limits, log and metrics."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from examples.churn.request import ChurnRequest
from tabserve import Service
from tabserve.auth import add_key, revoke_key
from tabserve.errors import InvalidSettings
from tests.conftest import RECORD
from tests.serving import BODY, PATIENCE_S, ConstantEngine, client_of, error, settings

OPEN = ["/health", "/ready", "/docs", "/redoc", "/openapi.json", "/docs/swagger-ui.css"]
CLOSED = ["/metadata", "/metrics"]


def test_open_routes_stay_open_and_the_others_need_a_key(serve: Any, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ada", "admin")
    client = serve(ConstantEngine(0.5), keys=str(tmp_path / "keys"))

    for path in OPEN:
        assert client.get(path).status == 200
    for path in CLOSED:
        answers = [client.get(path, headers) for headers in ({}, {"X-API-Key": "no"})]
        assert list(map(error, answers)) == [(401, "unauthorized"), (403, "forbidden")]
        assert client.get(path, {"X-API-Key": key}).status == 200
    assert error(client.predict()) == (401, "unauthorized")
    assert error(client.predict({"x-api-key": key[:-1]})) == (403, "forbidden")
    assert client.predict({"x-api-key": key}).status == 200


def test_keys_are_added_and_revoked_without_a_restart(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabserve.auth._LOOK_S", 0)
    path = tmp_path / "keys"
    ada = add_key(path, "ada")
    client = serve(ConstantEngine(0.5), keys=str(path))
    bob = add_key(path, "bob")
    assert [client.predict({"X-API-Key": key}).status for key in (ada, bob)] == [200, 200]
    revoke_key(path, "ada")

    assert [client.predict({"X-API-Key": key}).status for key in (ada, bob)] == [403, 200]


def test_past_the_rate_the_answer_is_429_and_only_predictions_count(serve: Any) -> None:
    client = serve(ConstantEngine(0.5), rate_limit="2/hour")
    for path in [*OPEN, *CLOSED]:
        client.get(path)

    answers = [client.predict(), client("POST", "/predict/batch", b"[]"), client.predict()]

    assert [answer.status for answer in answers] == [200, 422, 429]
    assert error(answers[2]) == (429, "rate_limited")
    assert 3590 <= int(answers[2].headers["retry-after"]) <= 3600
    assert [client.get(path).status for path in [*OPEN, *CLOSED]] == [200] * 8


def test_each_prediction_is_one_line_with_its_features_and_result(
    repository: Path, framework: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    told = settings(log=str(log), hide="monthly_charges,customer_id")
    service = Service(repository, request=ChurnRequest, settings=told)
    service.wait(PATIENCE_S)
    client = client_of(service, framework)
    body = orjson.dumps([RECORD | {"total_charges": None}, RECORD | {"customer_id": "Ada"}])

    answer = client("POST", "/predict/batch", body, {"X-Request-ID": "the-id"}).json()
    service.close()

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({(line.pop("timestamp"), line.pop("latency_ms")) for line in lines}) == 1
    # An integer is one here too, though one that may be missing is a float to the model.
    assert [type(line["features"]["tenure_months"]) for line in lines] == [int, int]
    assert lines == [
        {
            "event": "prediction",
            "request_id": "the-id",
            "method": "POST",
            "path": "/predict/batch",
            "status": 200,
            "model": "churn",
            "model_version": "1.2.3",
            "prediction_id": prediction["prediction_id"],
            "features": {
                "tenure_months": 12,
                "total_charges": total,
                "contract_type": "Month-to-month",
            },
            "result": {name: prediction[name] for name in ("churn_probability", "risk_category")},
        }
        for prediction, total in zip(answer["predictions"], (None, 786.0), strict=True)
    ]


def test_a_hidden_field_that_is_not_there_is_refused_since_it_may_be_misspelt(
    repository: Path,
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        Service(repository, request=ChurnRequest, settings=settings(hide="customer_id,tenure"))

    assert str(refused.value) == (
        "Expected in the setting hide the names of fields that are logged (churn_probability, "
        "contract_type, customer_id, monthly_charges, risk_category, tenure_months, "
        "total_charges), got tenure."
    )


def test_a_request_that_is_refused_is_one_line_without_its_row(serve: Any, tmp_path: Path) -> None:
    client = serve(ConstantEngine(0.5), log=str(tmp_path / "log"))
    client("POST", "/predict", BODY.replace(b"Month-to-month", b"Ada\\nLovelace"))
    client.service.close()

    line = (tmp_path / "log").read_text()
    assert (json.loads(line)["code"], json.loads(line)["status"]) == ("invalid_input", 422)
    assert "Ada" not in line


def test_a_full_disk_does_not_stop_the_predictions(serve: Any) -> None:
    client = serve(ConstantEngine(0.5), log="/dev/full")

    assert [client.predict().status for _ in range(3)] == [200] * 3
    client.service.close()
    dropped = client.get("/metrics").body.decode()
    assert "tabserve_log_lines_dropped_total 3.0\n" in dropped


def test_the_metrics_tell_what_happened(serve: Any) -> None:
    client = serve(ConstantEngine(0.5))
    client.predict()
    client("POST", "/predict/batch", orjson.dumps([RECORD] * 3))
    client("POST", "/predict", b"{}")
    client.get("/nowhere")

    text = client.get("/metrics").body.decode()
    for line in (
        'tabserve_predictions_total{model="churn",version="1.2.3"} 4.0',
        'tabserve_errors_total{code="invalid_input"} 1.0',
        'tabserve_errors_total{code="not_found"} 1.0',
        'tabserve_request_duration_seconds_count{route="/predict"} 2.0',
        'tabserve_request_duration_seconds_count{route="/predict/batch"} 1.0',
        'tabserve_request_duration_seconds_count{route="other"} 1.0',
        "tabserve_batch_rows_count 2.0",
        "tabserve_batch_rows_sum 4.0",
        "tabserve_in_flight 0.0",
        "tabserve_log_lines_dropped_total 0.0",
    ):
        assert line + "\n" in text
    summary = client.get("/metrics", {"Accept": "application/json"}).json()
    assert (summary["predictions_total"], summary["errors_total"]) == (4.0, 2.0)
    assert 0 < summary["latency_avg_ms"] < 1000 * PATIENCE_S
