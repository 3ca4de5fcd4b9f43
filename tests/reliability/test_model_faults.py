"""A model that fails, or ends its process: who is hurt by it, and that no answers are mixed up."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

import tabserve
from benchmarks.traffic import Answer, Client, run
from tabserve import auth
from tests.end_to_end.conftest import Server, poll
from tests.reliability.test_workers import asked, replaced

Serve = Callable[..., Server]

# 2 x of each row, or what is wrong with the whole call where one of its rows is below 0.
MODEL = """
import os
import time

import numpy as np


def predict(columns):
    x = columns["x"]
    if (x == -1).any():
        raise ValueError(f"no {x}")
    if (x == -2).any():
        return np.where(x == -2, np.nan, 2 * x)
    if (x == -3).any():
        return 2 * x[:-1]
    if (x == -4).any():
        os._exit(7)
    if (x == -5).any():
        os.chdir("/")
    time.sleep(0.001)
    return 2 * x
"""
FAULTS = {-1: "internal", -2: "bad_model_output", -3: "bad_model_output"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "faulty_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import faulty_model  # type: ignore[import-not-found]

    rows = pd.DataFrame({"x": np.arange(8) + 0.5})
    tabserve.pack(faulty_model.predict, tmp_path / "models", name="f", version="1", data=rows)
    return tmp_path / "models"


async def each(url: str, values: Sequence[float], n_connections: int) -> list[Answer]:
    """The answer to each value, alone in its request."""
    client, answers, waiting = Client(url), dict[int, Answer](), iter(enumerate(values))

    async def ask() -> None:
        for place, x in waiting:
            answers[place] = await client.post("/predict", {"x": x})

    await asyncio.gather(*(ask() for _ in range(n_connections)))
    await client.close()
    return [answers[place] for place in range(len(values))]


def test_each_answer_is_its_own_rows_and_a_fault_is_nobody_elses(
    serve: Serve, models: Path
) -> None:
    """10,000 rows, all different, of which some hundred are wrong in some way."""
    server = serve(str(models), "--allow-code", "--log", "off").wait_until_ready()
    values = np.random.default_rng(0).permutation(10_000) + 0.25
    values[50::97] = np.resize(list(FAULTS), len(values[50::97]))

    answers = run(each(server.url, values.tolist(), n_connections=32))

    for x, answer in zip(values.tolist(), answers, strict=True):
        found = answer.json()
        if x in FAULTS:
            assert (answer.status, found["error"]) == (500, FAULTS[x])
        else:
            assert (answer.status, found["prediction"]) == (200, 2 * x)
    # They were joined, else nothing would have been proven.
    n_calls = server.get("/metrics").text.partition("tabserve_batch_rows_count ")[2].split()[0]
    assert float(n_calls) < len(values)
    assert server.get("/ready").status_code == 200


def test_the_rows_of_a_batch_are_told_apart_where_they_are_asked_for(
    serve: Serve, models: Path
) -> None:
    server = serve(str(models), "--allow-code").wait_until_ready()
    rows = [{"x": x} for x in (1.5, -1, 2.5, -2, -3, 3.5)]

    answer = server.post("/predict/batch?on_error=report", rows).json()

    told = [row.get("prediction", row.get("error")) for row in answer["predictions"]]
    assert told == [3.0, "internal", 5.0, "bad_model_output", "bad_model_output", 7.0]
    assert server.post("/predict/batch", rows).status_code == 500


def test_a_model_that_ends_its_process_costs_what_that_worker_had_in_flight(
    serve: Serve, models: Path
) -> None:
    server = serve(str(models), "--allow-code", "--workers", "2").wait_until_ready(2)

    with (
        asked(server, "GET", "/health", n_clients=1) as healthy,
        asked(server, "POST", "/predict", n_clients=3, record={"x": 1.5}) as statuses,
    ):
        poll("requests are answered", lambda: len(statuses) > 20)
        lost = run(each(server.url, [-4.0], n_connections=1))
        poll("another worker is ready", lambda: server.times_ready == 3)
        answered = len(statuses)
        poll("requests are answered", lambda: len(statuses) > answered + 20)

    assert [answer.status for answer in lost] == [None]
    counted = Counter(statuses)
    assert set(counted) <= {200, None}
    assert counted[None] <= 3
    assert Counter(healthy)[None] <= 1
    assert replaced(server, "ended") == 1
    assert server.stop() == 0


def test_a_model_that_changes_the_working_directory_changes_nothing_else(
    serve: Serve, models: Path, tmp_path: Path
) -> None:
    key = {"X-API-Key": auth.add_key(tmp_path / "keys.json", "ada", "admin")}
    flags = ["--keys", "keys.json", "--run-dir", "run", "--admin-port", "0"]
    server = serve("models", "--allow-code", "--supervise", *flags).wait_until_ready()
    (admin,) = re.findall(r"Admin +(http://\S+)", server.output)

    assert server.post("/predict", {"x": -5}, headers=key).status_code == 200
    other = {"X-API-Key": auth.add_key(tmp_path / "keys.json", "bob")}

    answer = server.post("/predict", {"x": 1.5}, headers=other)
    assert (answer.status_code, answer.json()["prediction"]) == (200, 3.0)
    assert server.get("/metrics", headers=key).text.count("tabserve_predictions_total{") == 1
    looked = httpx.post(f"{admin}/models/f/reload", headers=key, trust_env=False)
    assert (looked.status_code, looked.json()["live"]) == (200, "1")
    assert server.stop() == 0
