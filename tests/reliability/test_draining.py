"""A server that is told to stop, alone and as one of two that are restarted in turn."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import RECORD
from tests.end_to_end.conftest import PATIENCE_S, Server, poll

Serve = Callable[..., Server]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopping_server_answers_on_while_it_says_that_it_is_not_ready(
    serve: Serve, repository: Path, workers: int
) -> None:
    server = serve(str(repository), "--workers", str(workers), "--drain-delay", "3600")
    server.wait_until_ready(workers)

    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
        assert "Connection" not in client.post("/predict", json=RECORD).headers
        server.process.terminate()
        poll("it says so", lambda: server.get("/ready").status_code == 503)
        answers = [client.post("/predict", json=RECORD) for _ in range(3)]

    assert [(a.status_code, a.headers.get("Connection")) for a in answers] == [(200, "close")] * 3
    assert server.get("/health").status_code == 200
    assert server.output.count("Stopping on SIGTERM; ") == 1
    assert server.stop() == 128 + signal.SIGTERM  # a second one: at once
    server.assert_nothing_is_left()


@pytest.fixture
def terminal() -> Iterator[None]:
    """What is started does not ignore SIGHUP, even where this process does."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_whose_terminal_is_closed_stops_as_on_sigterm(
    serve: Serve, repository: Path, workers: int
) -> None:
    server = serve(str(repository), "--workers", str(workers), "--drain-delay", "3600")
    server.wait_until_ready(workers)

    for _ in range(2):  # the shell's, and the system's when that has ended
        os.killpg(server.process.pid, signal.SIGHUP)
        poll("it says so", lambda: server.get("/ready").status_code == 503)
    assert server.post("/predict", RECORD).status_code == 200
    assert server.output.count("Stopping on SIGHUP; ") == 1
    assert server.stop() == 128 + signal.SIGTERM
    server.assert_nothing_is_left()


class Balancer:
    """Sends each request to an instance that was ready when it was last asked, as Kubernetes does.

    ports: of the instances.
    """

    def __init__(self, ports: list[int]) -> None:
        self._urls = [f"http://127.0.0.1:{port}" for port in ports]
        self._ready = [True] * len(ports)
        self._is_done = threading.Event()
        self.n_answered = 0
        self.failed: list[str] = []

    def look(self) -> None:
        """Until the end: whom to send to."""
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
            while not self._is_done.wait(0.02):
                self._ready = [_is_ready(client, url) for url in self._urls]

    def send(self) -> None:
        """Until the end, on connections that stay as long as the instance wants."""
        limits = httpx.Limits(keepalive_expiry=5.0)
        with httpx.Client(trust_env=False, timeout=PATIENCE_S, limits=limits) as client:
            turn = 0
            while not self._is_done.is_set():
                turn += 1
                place = turn % 2 if self._ready[turn % 2] else (turn + 1) % 2
                try:
                    answer = client.post(f"{self._urls[place]}/predict", json=RECORD)
                    answer.raise_for_status()
                    self.n_answered += 1
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))

    def end(self) -> None:
        self._is_done.set()


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("n_restarts", "n_requests"), [(1, 100), pytest.param(10, 20_000, marks=pytest.mark.slow)]
)
def test_of_two_instances_restarted_in_turn_no_request_fails(
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
    n_restarts: int,
    n_requests: int,
) -> None:
    folders = [tmp_path_factory.mktemp("instance") for _ in range(2)]
    ports = ["0", "0"]

    def started(i: int) -> Server:
        flags = ["--port", ports[i], "--drain-delay", "1", "--log", "off"]
        server = Server(folders[i], str(repository), *flags).wait_until_ready()
        ports[i] = server.url.rpartition(":")[2]
        return server

    servers = [started(0), started(1)]
    balancer = Balancer([int(port) for port in ports])
    try:
        with ThreadPoolExecutor(5) as pool:
            clients = [pool.submit(balancer.look), *(pool.submit(balancer.send) for _ in range(4))]
            try:
                for i in range(n_restarts):
                    goal = (i + 1) * n_requests // n_restarts
                    poll("requests are answered", lambda n=goal: balancer.n_answered >= n, 600)
                    assert servers[i % 2].stop() == 0
                    servers[i % 2] = started(i % 2)
                    poll("it is sent to", lambda: all(balancer._ready))
            finally:
                balancer.end()
            for client in clients:
                client.result()
    finally:
        for server in servers:
            server.kill()

    assert balancer.failed == []
    assert balancer.n_answered >= n_requests
