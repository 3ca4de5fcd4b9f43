"""Workers that are killed, hang or get stuck: another is there, and the rest goes on."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import tabserve
from tests.conftest import NUMBERS, RECORD
from tests.end_to_end.conftest import PATIENCE_S, Server, poll
from tests.reliability.conftest import customer_at_72

Serve = Callable[..., Server]


def replaced(server: Server, reason: str) -> float:
    """How often a worker was, by the metrics of whichever worker answers."""
    text = server.get("/metrics").text
    found = re.search(rf'tabserve_workers_replaced_total{{reason="{reason}"}} (\S+)', text)
    return float(found[1]) if found else 0.0


@contextmanager
def asked(
    server: Server, method: str, path: str, n_clients: int, record: Any = RECORD
) -> Iterator[list[int | None]]:
    """What clients were answered meanwhile, each of which always asks again; None for nothing."""
    statuses: list[int | None] = []
    done = threading.Event()
    body = {"json": record} if method == "POST" else {}

    def ask() -> None:
        while not done.is_set():
            try:
                statuses.append(server.request(method, path, **body).status_code)
            except httpx.TransportError:
                statuses.append(None)

    with ThreadPoolExecutor(n_clients) as pool:
        clients = [pool.submit(ask) for _ in range(n_clients)]
        yield statuses
        done.set()
        for client in clients:
            client.result()


def test_of_a_killed_worker_only_what_it_had_in_flight_is_lost(
    serve: Serve, repository: Path
) -> None:
    server = serve(str(repository), "--workers", "2").wait_until_ready(2)
    victim, other = server.workers()

    with asked(server, "POST", "/predict", n_clients=4) as statuses:
        poll("requests are answered", lambda: len(statuses) > 50)
        os.kill(victim, signal.SIGKILL)
        poll("another worker is ready", lambda: server.times_ready == 3)
        answered = len(statuses)
        poll("requests are answered", lambda: len(statuses) > answered + 50)

    assert set(statuses) <= {200, None}
    assert statuses.count(None) <= 4
    assert other in server.workers()
    assert len(server.workers()) == 2
    assert replaced(server, "killed") == 1
    # What it had counted stays, but for the last moment, and the files in which it did so do not.
    found = re.search(r"tabserve_predictions_total{[^}]*} (\S+)", server.get("/metrics").text)
    assert found is not None
    assert float(found[1]) >= statuses.count(200) - 10
    assert list(server.run_folders.glob(f"*/metrics/*_{victim}.db")) == []
    assert server.stop() == 0, server.output
    server.assert_nothing_is_left()


def test_no_two_workers_give_the_same_ids(serve: Serve, repository: Path) -> None:
    server = serve(str(repository), "--workers", "2").wait_until_ready(2)

    def ids() -> list[str]:
        answers = server.post("/predict/batch", [RECORD] * 5)
        found = [answer["prediction_id"] for answer in answers.json()["predictions"]]
        return [*found, answers.headers["x-request-id"]]

    all_ids = []
    for worker in server.workers():
        with server.alone(worker):
            all_ids += ids()

    assert len(set(all_ids)) == 12


def test_one_worker_is_replaced_where_it_is_supervised(serve: Serve, repository: Path) -> None:
    server = serve(str(repository), "--supervise").wait_until_ready()

    os.kill(server.workers()[0], signal.SIGKILL)
    poll("another worker is ready", lambda: server.times_ready == 2)

    assert server.post("/predict", RECORD).status_code == 200
    assert server.stop() == 0
    server.assert_nothing_is_left()


def test_workers_end_when_their_supervisor_is_gone(serve: Serve, repository: Path) -> None:
    server = serve(str(repository), "--workers", "2").wait_until_ready(2)

    server.process.kill()

    poll("all processes ended", lambda: not server.processes())


SLOWLY_LOADED = """
import time
from pathlib import Path
import tabserve
from tabserve import loading

preload = loading.preload

def once_told(*args, **kwargs):
    while not Path("go").exists():
        time.sleep(0.01)
    return preload(*args, **kwargs)

loading.preload = once_told
service = tabserve.Service("models")
"""


def test_probes_are_answered_while_the_model_loads_for_all_workers(
    serve: Serve, own_repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOWLY_LOADED)
    server = serve("slow:service", "--workers", "2")

    assert server.get("/health").status_code == 200
    assert server.get("/ready").status_code == 503
    answer = server.post("/predict", RECORD)
    assert (answer.status_code, answer.json()["error"]) == (503, "model_not_ready")

    (tmp_path / "go").touch()
    server.wait_until_ready(2)
    assert server.post("/predict", RECORD).status_code == 200
    assert server.stop() == 0
    server.assert_nothing_is_left()


def test_the_workers_of_the_users_own_service_count_together(
    serve: Serve, own_repository: Path, tmp_path: Path
) -> None:
    """Its module is imported before anything else is known."""
    (tmp_path / "mine.py").write_text('import tabserve\nservice = tabserve.Service("models")\n')
    server = serve("mine:service", "--workers", "2").wait_until_ready(2)

    told = []
    for worker in server.workers():
        with server.alone(worker):
            server.post("/predict", RECORD)
            told.append(server.get("/metrics", headers={"Accept": "application/json"}).json())

    assert [summary["predictions_total"] for summary in told] == [1.0, 2.0]
    assert server.stop() == 0


@pytest.mark.slow
def test_a_worker_whose_event_loop_hangs_is_replaced(
    serve: Serve, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "own_code.py").write_text(customer_at_72("time.sleep(1000)"))
    flags = ["--workers", "2", "--request", "own_code:Customer"]
    server = serve(str(repository), *flags).wait_until_ready(2)

    with pytest.raises(httpx.TransportError):  # its connection ends with the worker
        server.post("/predict", RECORD | {"tenure_months": 72})
    poll("another worker is ready", lambda: server.times_ready == 3)

    assert replaced(server, "hanging") == 1
    assert server.post("/predict", RECORD).status_code == 200
    assert server.stop() == 0


STUCK = """
import time

def stuck(columns):
    if (columns.iloc[:, 0] == 72).any():
        time.sleep(1000)
    return columns
"""


@pytest.fixture
def stuck_repository(
    tmp_path: Path, customers: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A model that never returns for a customer of 72 months, computed by its library."""
    (tmp_path / "own_step.py").write_text(STUCK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import own_step  # type: ignore[import-not-found]

    customers = customers[customers["tenure_months"] < 72]
    model = make_pipeline(FunctionTransformer(own_step.stuck), HistGradientBoostingClassifier())
    model.fit(customers[NUMBERS], customers["churn"])
    out = tmp_path / "models"
    tabserve.pack(
        model, out, name="churn", version="1", data=customers[[*NUMBERS, "churn"]], target="churn",
        format="joblib",
    )  # fmt: skip
    return out


def is_refused(answer: httpx.Response) -> Any:
    """Its body, if it is not ready."""
    return answer.json() if answer.status_code == 503 else None


@pytest.mark.parametrize(("flags", "n_workers"), [(["--workers", "2"], 2), (["--supervise"], 1)])
@pytest.mark.slow
def test_a_worker_whose_model_never_returns_is_replaced(
    serve: Serve, stuck_repository: Path, flags: list[str], n_workers: int
) -> None:
    server = serve(str(stuck_repository), *flags, "--allow-pickle", "--deadline", "2")
    server.wait_until_ready(n_workers)
    record = {name: RECORD[name] for name in NUMBERS}

    with (
        asked(server, "GET", "/health", n_clients=1) as healthy,
        asked(server, "GET", "/ready", n_clients=1) as ready,
        httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        answer = client.post("/predict", json=record | {"tenure_months": 72})
        assert (answer.status_code, answer.json()["error"]) == (504, "deadline")
        # On the connection to the worker that is stuck.
        told = poll("it is not ready", lambda: is_refused(client.get("/ready")))
        poll("another worker is ready", lambda: server.times_ready == n_workers + 1)
        probed = len(ready)
        poll("it is probed", lambda: len(ready) > probed + 10)

    assert told["error"] == "model_not_ready"
    assert "has not returned from a call" in told["detail"]
    assert set(healthy) == {200}
    assert set(ready) <= {200, 503}
    assert set(ready[-5:]) == {200}
    assert replaced(server, "stuck") == 1
    assert server.post("/predict", record).status_code == 200
    poll("the stuck one has ended", lambda: len(server.workers()) == n_workers)
    assert server.stop() == 0


@pytest.mark.slow
def test_a_library_with_threads_of_its_own_computes_in_every_worker(
    serve: Serve, tmp_path: Path, customers: pd.DataFrame
) -> None:
    """OpenMP's threads do not outlive a fork, and whoever waits for them hangs."""
    model = HistGradientBoostingClassifier(max_iter=20).fit(customers[NUMBERS], customers["churn"])
    tabserve.pack(
        model, tmp_path / "models", name="churn", version="1",
        data=customers[[*NUMBERS, "churn"]], target="churn", engine="native",
    )  # fmt: skip
    server = serve("models", "--workers", "2").wait_until_ready(2)
    rows = [{name: RECORD[name] for name in NUMBERS}] * 2000
    expected = model.predict_proba(customers[NUMBERS].iloc[:0].reindex(range(1)).assign(**rows[0]))

    for worker in server.workers():
        with server.alone(worker):
            answer = server.post("/predict/batch", rows)
            assert answer.status_code == 200
            found = {row["probability"] for row in answer.json()["predictions"]}
            np.testing.assert_allclose(list(found), expected[0, 1], rtol=1e-12)
    assert server.stop() == 0
