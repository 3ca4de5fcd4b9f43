"""A service as its user holds it, through both frameworks."""

import asyncio
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from examples.churn.request import ChurnRequest
from tabserve import Service
from tabserve.auth import add_key, revoke_key
from tabserve.errors import (
    ArtifactError,
    CannotImport,
    InvalidSettings,
    ModelNotReady,
    RequestClassError,
)
from tabserve.repository import LoadedModel
from tabserve.service import resolve
from tests.conftest import RECORD
from tests.end_to_end.conftest import poll
from tests.serving import (
    BODY,
    FRAMEWORKS,
    PATIENCE_S,
    Client,
    ConstantEngine,
    FailingEngine,
    HeldEngine,
    client_of,
    error,
    service_with,
    settings,
)

OPEN = ["/health", "/ready", "/docs", "/redoc", "/openapi.json", "/docs/swagger-ui.css"]
CLOSED = ["/metadata", "/metrics"]


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def serve(
    repository: Path, framework: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Client]]:
    """Makes a client of a service that computes with the engine."""
    services: list[Service] = []

    def make(engine: Any, **told: Any) -> Client:
        service, depth = service_with(engine, repository, monkeypatch, **told)
        services.append(service)
        client = client_of(service, framework)
        client.depth, client.service = depth, service
        return client

    yield make
    for service in services:
        service.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


@pytest.fixture
def loading(
    repository: Path, framework: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Service, Client, Callable[[Any], None]]]:
    """A service that loads until it is given an engine, or the error for which it is refused."""
    given, outcome = threading.Event(), []

    def load(artifact: Any, **_: Any) -> LoadedModel:
        assert given.wait(PATIENCE_S)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return LoadedModel(artifact.manifest, outcome[0], 0.0)

    def finish(engine: Any) -> None:
        outcome.append(engine)
        given.set()

    monkeypatch.setattr("tabserve.repository.load", load)
    service = Service(repository, settings=settings())
    yield service, client_of(service, framework), finish
    finish(ConstantEngine(0.5))
    service.close()


def test_while_the_model_loads_probes_are_answered_and_predictions_wait_outside(
    loading: Any,
) -> None:
    _, client, _ = loading

    answers = [client.get("/ready"), client.predict(), client("POST", "/predict/batch", b"[]")]

    assert [error(answer) for answer in answers[:2]] == [(503, "model_not_ready")] * 2
    assert error(answers[2]) == (422, "invalid_input")
    assert [answer.headers.get("retry-after") for answer in answers] == ["1", "1", None]
    assert [client.get(path).status for path in ("/health", "/metadata", "/docs")] == [200] * 3


def test_once_the_model_is_loaded_it_is_ready_and_predicts(loading: Any) -> None:
    service, client, finish = loading
    assert client.get("/ready").status == 503
    finish(ConstantEngine(0.75))
    service.wait(PATIENCE_S)

    assert client.get("/ready").json() == {"status": "ready", "model_version": "1.2.3"}
    assert client.predict().json()["churn_probability"] == 0.75


def test_a_model_that_was_refused_is_never_ready_and_its_server_is_healthy(loading: Any) -> None:
    service, client, finish = loading
    refused: list[Exception] = []
    service.on_refused = refused.append
    error_of_load = ArtifactError("/srv/models/churn/model.skops was changed.")
    finish(error_of_load)
    with pytest.raises(ArtifactError):
        service.wait(PATIENCE_S)

    for answer in (client.get("/ready"), client.predict()):
        assert error(answer) == (503, "model_not_ready")
        assert answer.json()["detail"] == "The model was refused; the server's own log says why."
    assert client.get("/health").json() == {"status": "healthy"}
    assert refused == [error_of_load]


def test_the_wait_for_a_model_has_an_end(loading: Any) -> None:
    service, _, _ = loading

    with pytest.raises(ModelNotReady, match=r"not ready within 0.01 s"):
        service.wait(0.01)


def test_a_batch_is_one_call_of_the_model(serve: Any) -> None:
    engine = HeldEngine(held=False)

    answer = serve(engine)("POST", "/predict/batch", orjson.dumps([RECORD] * 1000))

    assert (answer.status, answer.json()["count"], engine.calls) == (200, 1000, [1000])


def test_what_queues_while_the_model_is_busy_is_joined(
    serve: Any, pool: ThreadPoolExecutor
) -> None:
    engine = HeldEngine()
    client = serve(engine)
    first = pool.submit(client.predict)
    assert engine.entered.wait(PATIENCE_S)
    others = [pool.submit(client.predict) for _ in range(5)]
    client.depth.wait_for(5)
    engine.release.set()

    answers = [future.result(PATIENCE_S) for future in (first, *others)]
    assert [answer.status for answer in answers] == [200] * 6
    assert len({answer.json()["prediction_id"] for answer in answers}) == 6
    # How many at once, it finds out by doubling: the engine was held, and so it is slow.
    assert engine.calls[0] == 1
    assert (sum(engine.calls), len(engine.calls) < 5) == (6, True)


def test_a_full_queue_is_503_at_once_and_health_answers_meanwhile(
    serve: Any, pool: ThreadPoolExecutor
) -> None:
    engine = HeldEngine()
    client = serve(engine, max_queue=1)
    waiting = [pool.submit(client.predict)]
    assert engine.entered.wait(PATIENCE_S)
    waiting.append(pool.submit(client.predict))
    client.depth.wait_for(1)

    refused = client.predict()
    assert error(refused) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    assert client.get("/health").status == 200
    engine.release.set()
    assert [future.result(PATIENCE_S).status for future in waiting] == [200, 200]


def test_past_the_deadline_the_answer_is_504_and_nothing_hangs(serve: Any) -> None:
    engine = HeldEngine()
    client = serve(engine, deadline=0.05)

    assert error(client.predict()) == (504, "deadline")
    assert client.get("/health").status == 200
    engine.release.set()
    client.service.close()
    assert sum(engine.calls) <= 1  # none, where the machine was slower than the deadline


def test_a_model_that_does_not_return_is_not_ready_until_it_does(serve: Any) -> None:
    engine = HeldEngine()
    client = serve(engine, deadline=0.05)
    assert error(client.predict()) == (504, "deadline")

    poll("it is known to be stuck", lambda: client.get("/ready").status == 503)
    not_ready = client.get("/ready")
    assert error(not_ready) == (503, "model_not_ready")
    assert "has not returned from a call" in not_ready.json()["detail"]
    assert client.get("/models").json()["models"][0]["ready"] is False
    assert client.get("/health").status == 200

    engine.release.set()
    poll("it has returned", lambda: client.get("/ready").status == 200)


def test_a_slow_model_does_not_block_the_event_loop(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HeldEngine()
    service, _ = service_with(engine, repository, monkeypatch)
    transport = httpx.ASGITransport(app=service.fastapi())

    async def on_one_loop() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            held = [
                asyncio.create_task(client.post("/predict", content=BODY, headers=_JSON))
                for _ in range(3)
            ]
            assert await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
            # None of them can be done: the engine is held until the probe was answered.
            probe = await client.get("/health")
            assert not any(task.done() for task in held)
            engine.release.set()
            return [probe, *await asyncio.gather(*held)]

    assert [answer.status_code for answer in asyncio.run(on_one_loop())] == [200] * 4
    service.close()


_JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("kind", [ValueError, KeyError, SystemExit, MemoryError, RuntimeError])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_model_that_fails_is_500_and_nobody_sees_the_row(
    serve: Any, kind: type[BaseException], path: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    client = serve(FailingEngine(kind))

    body = BODY if path == "/predict" else orjson.dumps([RECORD])
    answer = client("POST", path, body, {"X-Request-ID": "the-id"})

    assert error(answer) == (500, "internal")
    seen = answer.body.decode() + caplog.text + "".join(capfd.readouterr())
    assert [text for text in ("65.5", "786.0", "Month-to") if text in seen] == []
    assert [text for text in (b"/", b".py", b"Error") if text in answer.body] == []
    assert client.get("/health").status == 200


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_a_500_and_never_null(serve: Any, value: float) -> None:
    answer = serve(ConstantEngine(value)).predict()

    assert error(answer) == (500, "bad_model_output")


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


def test_close_finishes_what_is_queued_and_the_next_request_starts_anew(
    serve: Any, pool: ThreadPoolExecutor
) -> None:
    engine = HeldEngine()
    client = serve(engine)
    waiting = pool.submit(client.predict)
    assert engine.entered.wait(PATIENCE_S)
    closing = pool.submit(client.service.close)
    engine.release.set()
    closing.result(PATIENCE_S)

    assert waiting.result(PATIENCE_S).status == 200
    client.get("/health")
    client.service.wait(PATIENCE_S)
    assert client.predict().status == 200
    client.service.close()


def test_the_lifespan_of_the_app_ends_with_the_log_written(
    repository: Path, tmp_path: Path
) -> None:
    service = Service(repository, settings=settings(log=str(tmp_path / "log")))
    app = service.fastapi()

    async def live() -> None:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                await client.get("/health")

    asyncio.run(live())
    assert json.loads((tmp_path / "log").read_text())["path"] == "/health"


def test_making_a_service_and_its_apps_starts_nothing(repository: Path, tmp_path: Path) -> None:
    before, log = set(threading.enumerate()), tmp_path / "log"

    service = Service(repository, request=ChurnRequest, settings=settings(log=str(log)))
    service.fastapi()
    service.flask()
    service.close()

    assert (set(threading.enumerate()) - before, log.exists()) == (set(), False)


@pytest.mark.parametrize("started", [False, True])
def test_a_service_pickles_as_what_it_was_made_of(
    repository: Path, framework: str, started: bool
) -> None:
    service = Service(repository, request=ChurnRequest, settings=settings(max_rows=7))
    if started:
        service.wait(PATIENCE_S)

    pickled = pickle.dumps(service)
    again = pickle.loads(pickled)

    assert (len(pickled) < 5000, again.path, again.settings) == (True, repository, service.settings)
    again.wait(PATIENCE_S)
    body = orjson.dumps(RECORD | {"customer_id": "7"})
    answer = client_of(again, framework)("POST", "/predict", body)
    assert (answer.status, answer.json()["customer_id"]) == (200, "7")
    service.close()
    again.close()


# Without the ML libraries, which take seconds to import.
_FORK = """
import os, sys
import numpy as np
from tabserve import Service, Settings, repository
from tabserve.repository import LoadedModel

class Engine:
    name, reentrant = "half", False
    def predict(self, columns):
        return {"proba": np.array([0.5])}

repository.load = lambda artifact, **_: LoadedModel(artifact.manifest, Engine(), 0.0)
service = Service(sys.argv[1], settings=Settings(log="off"))
client = service.flask().test_client()
pid = os.fork()
service.wait(60)
status = client.post("/predict", data=sys.argv[2], content_type="application/json").status_code
if pid == 0:
    os._exit(0 if status == 200 else 1)
_, code = os.waitpid(pid, 0)
print(status, os.waitstatus_to_exitcode(code))
"""


def _python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": "."}
    root = Path(__file__).parents[1]
    return subprocess.check_output(command, timeout=60, text=True, env=environment, cwd=root)


def test_a_service_made_before_a_fork_works_on_both_sides(repository: Path) -> None:
    assert _python(_FORK, str(repository), BODY.decode()) == "200 0\n"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        (
            "import tabserve; tabserve.Settings; tabserve.TabserveError",
            "fastapi starlette flask uvicorn gunicorn sklearn scipy pandas joblib skops",
        ),
        ("import tabserve; tabserve.Service", "fastapi flask uvicorn sklearn pandas joblib skops"),
        ("import tabserve", "numpy pydantic prometheus_client"),
    ],
)
def test_what_is_not_needed_is_not_imported(statement: str, unwanted: str) -> None:
    loaded = _python(f"{statement}; import sys; print(*sys.modules)").split()

    assert set(unwanted.split()) & set(loaded) == set()


def test_a_request_class_is_found_by_its_name(repository: Path) -> None:
    told = settings(request="examples.churn.request:ChurnRequest")

    assert Service(repository, settings=told).model.decoder.request_class is ChurnRequest


@pytest.mark.parametrize(
    ("request_class", "kind", "sentence"),
    [
        ("examples.churn.request", CannotImport, "expected module:name"),
        ("examples.nowhere:Class", CannotImport, "Cannot import examples.nowhere:Class"),
        ("examples.churn.request:Nothing", CannotImport, "has no attribute 'Nothing'"),
        ("examples.churn.request:Self", RequestClassError, "Expected a pydantic class at"),
    ],
)
def test_a_request_class_that_is_none_is_refused(
    repository: Path, request_class: str, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        Service(repository, settings=settings(request=request_class))


def test_a_service_of_the_users_code_is_found_with_the_settings_of_the_command(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_service.py").write_text(
        "import tabserve\n"
        f"service = tabserve.Service({str(repository)!r}, settings=tabserve.Settings(\n"
        "    max_rows=7, rate_limit='5/hour', log='off'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    found = resolve(settings(path="my_service:service", max_rows=9))

    assert (found.settings.max_rows, found.settings.rate_limit) == (9, "5/hour")
    with pytest.raises(InvalidSettings, match=r"Expected a tabserve.Service .*, found module"):
        resolve(settings(path="my_service:tabserve"))


def test_a_model_that_was_mended_is_served_after_a_close(
    repository: Path, tmp_path: Path, framework: str
) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "models")) / "churn" / "1.2.3"
    model = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(b"")
    service = Service(folder, settings=settings())
    service.on_refused = lambda error: None
    with pytest.raises(ArtifactError, match="was changed after packing"):
        service.wait(PATIENCE_S)
    (folder / "model.onnx").write_bytes(model)
    service.close()

    service.wait(PATIENCE_S)
    assert client_of(service, framework).get("/ready").status == 200
    service.close()


def test_a_service_is_refused_at_once_where_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Expected a packed model"):
        Service(tmp_path, settings=settings())


def test_a_service_is_refused_at_once_where_its_keys_cannot_be_read(repository: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"Cannot read the keys in nowhere.json"):
        Service(repository, settings=settings(keys="nowhere.json"))
