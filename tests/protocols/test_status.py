from pathlib import Path

import pytest

from tabserve import Service
from tests.serving import Client


def test_health_and_ready_say_so(client: Client) -> None:
    assert client.get("/health").json() == {"status": "healthy"}
    assert client.get("/ready").json() == {"status": "ready", "model_version": "1.2.3"}


def test_the_metadata_says_what_the_model_is(client: Client, service: Service) -> None:
    manifest = service.model.manifest

    told = client.get("/metadata").json()

    features = told.pop("features")
    assert told == {
        "model": "churn",
        "model_version": "1.2.3",
        "model_type": manifest.model_type,
        "output": {
            "churn_probability": {"type": "number", "minimum": 0, "maximum": 1},
            "risk_category": {"type": "string", "enum": ["Low", "Medium", "High"]},
        },
        "training_date": manifest.training_date.isoformat(),
        "metrics": [metric.model_dump() for metric in manifest.metrics],
        "engine": "onnx",
        "parity": manifest.parity.model_dump(),
        "libraries": manifest.libraries,
    }
    assert [feature["name"] for feature in features] == [
        "tenure_months",
        "monthly_charges",
        "total_charges",
        "contract_type",
    ]


def test_a_features_constraints_are_those_of_the_users_class_and_its_range_was_observed(
    client: Client,
) -> None:
    tenure, _, total, contract = client.get("/metadata").json()["features"]

    constraints = tenure["constraints"]
    assert (constraints["type"], constraints["minimum"], constraints["maximum"]) == (
        "integer",
        0,
        240,
    )
    assert tenure["observed"] == [0.0, 72.0]
    # The model imputes both numbers, and the class lets only one of them be null, or not sent.
    assert (tenure["nullable"], total["nullable"], contract["nullable"]) == (False, True, False)
    assert (tenure["required"], total["required"], contract["required"]) == (True, False, True)
    assert contract["categories"] == ["Month-to-month", "One year", "Two year"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain"),
        ("*/*", "text/plain"),
        ("text/html,application/xml;q=0.9,*/*;q=0.8", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ("application/openmetrics-text; version=1.x", "text/plain"),
        ("text/plain; version=1.=", "text/plain"),
        ("application/json", "application/json"),
        ("Application/JSON", "application/json"),
        ("application/json, */*;q=0.1", "application/json"),
    ],
)
def test_metrics_are_told_as_they_are_asked_for(
    client: Client, accept: str | None, content_type: str
) -> None:
    answer = client.get("/metrics", {} if accept is None else {"Accept": accept})

    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, content_type)


def test_nothing_of_the_servers_disk_is_told(client: Client, repository: Path) -> None:
    for path in ("/metadata", "/metrics", "/openapi.json", "/ready", "/docs"):
        assert str(repository).encode() not in client.get(path).body
