"""A model that is busy, slow or fails: what those are told who ask it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import RECORD
from tests.end_to_end.conftest import poll
from tests.serving import (
    BODY,
    PATIENCE_S,
    ConstantEngine,
    FailingEngine,
    HeldEngine,
    error,
    service_with,
)


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
