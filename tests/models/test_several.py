"""Many versions and names in one server: what is listed, and which routes each has."""

import shutil
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import orjson
import pytest

from tabserve import Service
from tabserve.errors import ArtifactError, ModelNotReady, NotReproduced, OperatorError
from tests.conftest import RECORD
from tests.end_to_end.conftest import poll
from tests.models.conftest import BODY, Start, another_golden_output, ask, put, said
from tests.serving import PATIENCE_S, HeldEngine, client_of, error, service_with, settings


def test_a_version_that_is_not_live_is_loaded_when_it_is_asked_for(
    lines: Path, start: Start
) -> None:
    service, client = start(lines)
    below = "/models/line/versions/1.0.0"
    assert client.get(below).json()["model_version"] == "1.0.0"
    assert error(client.get(f"{below}/ready")) == (503, "model_not_ready")

    first = ask(client, below)
    service.changes.do(lambda: None).result(PATIENCE_S)

    assert error(first) == (503, "model_not_ready")
    assert first.headers["retry-after"] == "1"
    assert said(ask(client, below)) == ("1.0.0", 3.0)
    assert said(ask(client)) == said(ask(client, "/models/line/versions/2.0.0")) == ("2.0.0", 6.0)
    assert client.get(f"{below}/ready").status == client.get(f"{below}/metadata").status == 200


def test_what_is_served_is_listed(lines: Path, start: Start) -> None:
    _, client = start(lines)

    assert client.get("/models").json() == {
        "models": [
            {
                "name": "line",
                "live": "2.0.0",
                "ready": True,
                "versions": ["2.0.0", "1.0.0"],
                "predict": "/models/line/predict",
            }
        ]
    }
    told = client.get("/models/line").json()
    assert told["refused"] is None
    assert [(each["version"], each["live"], each["loaded"]) for each in told["versions"]] == [
        ("2.0.0", True, True),
        ("1.0.0", False, False),
    ]
    assert error(client.get("/models/line/versions/3.0.0")) == (404, "not_found")


def test_of_several_models_each_has_its_routes_and_none_is_meant_without_a_name(
    folder: Path, lines: Path, start: Start
) -> None:
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    _, client = start(folder)

    assert said(ask(client, "/models/line")) == ("1.0.0", 3.0)
    assert said(ask(client, "/models/double")) == ("1.0.0", 6.0)
    batch = client("POST", "/models/double/versions/1.0.0/predict/batch", b'[{"x":1},{"x":2}]')
    assert [each["prediction"] for each in batch.json()["predictions"]] == [2.0, 4.0]
    for answer in (ask(client), client.get("/metadata")):
        assert error(answer) == (404, "not_found")
        assert "/models" in answer.json()["detail"]
    assert client.get("/ready").json() == {
        "status": "ready",
        "models": {"double": "1.0.0", "line": "1.0.0"},
    }
    assert client.get("/models/double/ready").json()["model_version"] == "1.0.0"


def test_the_default_model_is_the_one_that_was_chosen(
    folder: Path, lines: Path, start: Start
) -> None:
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    _, client = start(folder, default_model="double")

    assert said(ask(client)) == ("1.0.0", 6.0)
    with pytest.raises(ArtifactError, match=r"to be circle, .* there are double, line\."):
        Service(folder, settings=settings(default_model="circle"))


def test_of_several_models_the_one_that_is_stuck_is_not_ready(
    folder: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lines / "line" / "1.0.0", folder / "double", "1.0.0")
    engine = HeldEngine()
    service, _ = service_with(engine, folder, monkeypatch, deadline=0.05)
    client = client_of(service, "fastapi")
    assert error(ask(client, "/models/double")) == (504, "deadline")

    poll("it is known to be stuck", lambda: service.models.is_stuck)
    probed = [
        client.get(f"{below}/ready").status for below in ("", "/models/double", "/models/line")
    ]

    engine.release.set()
    service.close()
    assert probed == [503, 503, 200]


def test_several_models_that_never_return_are_waited_for_together(
    folder: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["line", *(f"m{i}" for i in range(7))]
    for name in names[1:]:
        put(lines / "line" / "1.0.0", folder / name, "1.0.0")
    engine = HeldEngine()
    service, _ = service_with(engine, folder, monkeypatch)
    for named in service.models.named.values():
        named.live.answers(named.live.decoder.one(BODY), inf)
    timeout_s = 0.5

    began = time.monotonic()
    service.changes.close(timeout_s)
    took_s = time.monotonic() - began

    engine.release.set()  # for their threads
    assert timeout_s <= took_s < len(names) * timeout_s / 2


def test_latencies_are_counted_by_the_routes_of_all_models_together(
    folder: Path, lines: Path, start: Start
) -> None:
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    service, client = start(folder)
    for below in ("/models/line", "/models/double", "/models/double/versions/1.0.0"):
        said(ask(client, below))

    text = client.get("/metrics").body.decode()

    counted = "tabserve_request_duration_seconds_count"
    assert f'{counted}{{route="/models/{{name}}/predict"}} 2.0' in text
    assert f'{counted}{{route="/models/{{name}}/versions/{{version}}/predict"}} 1.0' in text
    assert 'tabserve_predictions_total{model="double",version="1.0.0"} 2.0' in text
    assert service.metrics.summary()["predictions_total"] == 3.0


def test_a_version_alone_is_served_under_its_name(lines: Path, start: Start) -> None:
    service, client = start(lines / "line" / "1.0.0")

    assert said(ask(client, "/models/line/versions/1.0.0")) == ("1.0.0", 3.0)
    assert client.get("/models").json()["models"][0]["versions"] == ["1.0.0"]
    with pytest.raises(ModelNotReady):
        service.close()
        service.models.wait(0)


def test_each_of_several_models_has_a_request_class_of_its_own(
    folder: Path, repository: Path, start: Start
) -> None:
    shutil.copytree(repository / "churn", folder / "churn")
    told = "line=tests.functions:Line, churn=examples.churn.request:ChurnRequest"
    _, client = start(folder, request=told)

    noted = client("POST", "/models/line/predict", orjson.dumps({"x": 3.0, "note": "n"}))
    assert (noted.status, noted.json()["note"]) == (200, "n")
    customer = orjson.dumps(RECORD | {"customer_id": "7"})
    assert client("POST", "/models/churn/predict", customer).json()["customer_id"] == "7"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("lime=tests.functions:Line", "given for lime, and the models here are line"),
        ("line=tests.functions:Line,line=tests.functions:Line", "for each model once"),
        ("line=", "Cannot import"),
    ],
)
def test_a_request_class_of_no_model_is_refused(
    folder: Path, told: str, message: str
) -> None:  # fmt: skip
    with pytest.raises(OperatorError, match=message):
        Service(folder, settings=settings(request=told))


@pytest.mark.parametrize("way", [Service.preload, Service.wait])
def test_of_several_the_one_that_is_refused_is_named(
    folder: Path, lines: Path, caplog: pytest.LogCaptureFixture, way: Callable[[Service], None]
) -> None:
    another_golden_output(put(lines / "line" / "1.0.0", folder / "price", "3.0.0"))
    service = Service(folder, settings=settings())

    with pytest.raises(NotReproduced):
        way(service)
    service.close()

    assert "price 3.0.0 cannot be served" in caplog.messages
