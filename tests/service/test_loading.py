"""From a model's loading to its end: what is answered meanwhile."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabserve import Service
from tabserve.errors import ArtifactError, ModelNotReady
from tabserve.loading import LoadedModel
from tests.serving import PATIENCE_S, Client, ConstantEngine, HeldEngine, client_of, error, settings


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

    monkeypatch.setattr("tabserve.loading.load", load)
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
