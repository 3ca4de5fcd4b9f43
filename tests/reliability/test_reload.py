"""One version takes the place of another while clients ask."""

import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tabserve import releases
from tests.end_to_end.conftest import PATIENCE_S, Server, poll

SWAPS = 50
# What each version of `lines` answers for x = 3.
NUMBERS = {"1.0.0": 3.0, "2.0.0": 6.0}


class Clients:
    """Always ask again; each answer is counted by its status, and the version and number of it."""

    def __init__(self, url: str, n_clients: int) -> None:
        self.answers: Counter[Any] = Counter()
        self.n_changes = 0
        self._last: str | None = None
        self._answered = threading.Condition()
        self._url = url
        self._done = threading.Event()
        self._pool = ThreadPoolExecutor(n_clients)
        self._asking = [self._pool.submit(self._ask, i) for i in range(n_clients)]

    def wait_for(self, version: str) -> None:
        """Until it has answered one of them."""
        with self._answered:
            assert self._answered.wait_for(lambda: self._last == version, PATIENCE_S)

    def end(self) -> None:
        self._done.set()
        for asking in self._asking:
            asking.result(PATIENCE_S)
        self._pool.shutdown()

    def _ask(self, number: int) -> None:
        path, body = ("/predict", {"x": 3.0}) if number % 2 else ("/predict/batch", [{"x": 3.0}])
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
            while not self._done.is_set():
                answer = client.post(self._url + path, json=body)
                found = answer.json()
                row = found["predictions"][0] if "predictions" in found else found
                seen = answer.status_code, row.get("model_version"), row.get("prediction")
                with self._answered:
                    self.answers[seen] += 1
                    self.n_changes += self._last != seen[1]
                    self._last = seen[1]
                    self._answered.notify_all()


def test_a_worker_that_replaces_another_answers_as_the_version_that_is_live_by_then(
    serve: Callable[..., Server], lines: Path, tmp_path: Path
) -> None:
    shutil.copytree(lines, tmp_path / "models")
    live = releases.folder_of(tmp_path / "models", "line")
    releases.promote(live, "1.0.0")
    server = serve("models", "--workers", "2").wait_until_ready(2)
    releases.promote(live, "2.0.0")
    for worker in server.workers():
        with server.alone(worker):
            poll("the new version answers", lambda: answered(server) == ("2.0.0", 6.0))
    killed, other = server.workers()

    os.kill(killed, signal.SIGKILL)
    poll("another worker is ready", lambda: server.times_ready == 3)

    (replacement,) = set(server.workers()) - {other}
    with server.alone(replacement):
        assert answered(server) == ("2.0.0", 6.0)
    assert server.stop() == 0


def answered(server: Server) -> tuple[str, float]:
    answer = server.post("/predict", {"x": 3.0}).json()
    return answer["model_version"], answer["prediction"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_under_load_50_swaps_lose_no_request_and_each_number_is_its_versions(
    serve: Callable[..., Server], lines: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(lines, tmp_path / "models")
    server = serve("models", "--workers", str(workers), "--admin-port", "0")
    server.wait_until_ready(workers)
    found = re.search(r"Admin +(http://\S+)", server.output)
    assert found is not None
    clients = Clients(server.url, 4)

    for swap in range(SWAPS):
        version = list(NUMBERS)[swap % 2]
        answer = httpx.post(
            f"{found[1]}/models/line/promote", json={"version": version}, timeout=PATIENCE_S
        )
        assert (answer.status_code, answer.json()["live"]) == (200, version)
        if workers == 1:  # of several each follows within a second, which is long 50 times
            clients.wait_for(version)
    poll("all workers serve it", lambda: _live(server) == {"2.0.0"})
    clients.end()

    # Each swap was seen by those who asked.
    assert clients.n_changes >= (SWAPS if workers == 1 else 2)
    expected = {(200, version, number) for version, number in NUMBERS.items()}
    assert set(clients.answers) == expected, clients.answers
    assert server.stop() == 0, server.output
    server.assert_nothing_is_left()


def _live(server: Server) -> set[str]:
    """As several answers say, each of whichever worker takes the connection."""
    return {server.get("/ready").json()["model_version"] for _ in range(10)}
