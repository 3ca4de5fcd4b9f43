"""Servers that count their rate limits together in Redis."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from tests.conftest import RECORD
from tests.end_to_end.conftest import Server, poll
from tests.redis_server import REDIS_SERVER, RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not on PATH"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
def servers(repository: Path, store: RedisServer, tmp_path: Path) -> Iterator[list[Server]]:
    """Two, with three workers and with one, that know the store by a variable."""
    flags = ["--rate-limit", "50/hour", "--rate-limit-fallback", "closed"]
    started = []
    for workers in (3, 1):
        folder = tmp_path / f"of {workers}"
        folder.mkdir()
        env = {"TABSERVE_RATE_LIMIT_STORE": store.url}
        arguments = [str(repository), "--workers", str(workers), *flags]
        started.append(Server(folder, *arguments, env=env))
    try:
        for server, workers in zip(started, (3, 1), strict=True):
            server.wait_until_ready(workers)
        yield started
        assert [server.stop() for server in started] == [0, 0], started[0].output
    finally:
        for server in started:
            server.kill()


def is_away(server: Server) -> bool:
    return "tabserve_rate_limit_store_away 1.0" in server.get("/metrics").text


def test_just_the_rate_is_admitted_by_all_workers_of_two_servers_and_none_while_redis_is_away(
    servers: list[Server], store: RedisServer
) -> None:
    def statuses(n_requests: int) -> Counter[int]:
        turns = cycle(servers)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(next(turns).post, "/predict", RECORD) for _ in range(n_requests)]
        return Counter(request.result().status_code for request in asked)

    assert statuses(150) == {200: 50, 429: 100}
    store.kill()
    assert statuses(20) == {503: 20}
    assert all(map(is_away, servers))
    assert servers[0].get("/health").status_code == 200
    store.start()
    poll("it is back", lambda: not any(map(is_away, servers)), patience_s=5)
    assert statuses(60) == {200: 50, 429: 10}
    assert store.url not in servers[0].output + servers[1].output
