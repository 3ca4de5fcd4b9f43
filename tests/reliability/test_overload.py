"""More requests than the model can answer: as many as it can are answered, the others told soon."""

import asyncio
import resource
import signal
import socket
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks import overload, slow_model
from benchmarks.traffic import Answer, Client, run
from tests.end_to_end.conftest import PATIENCE_S, Server

Serve = Callable[..., Server]


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Server:
    """Of a model that takes 10 ms for each row."""
    path = slow_model.packed(tmp_path)
    return serve(str(path), "--deadline", "1", "--allow-code").wait_until_ready()


@pytest.mark.slow
def test_at_ten_times_its_capacity_a_server_answers_as_many_as_it_can(server: Server) -> None:
    """Others use the machine too: of three rounds the best one counts, and the bounds are wider
    than those of `python -m benchmarks.overload`.
    """
    rounds = []
    while len(rounds) < 3 and not any(map(_is_kept_up, rounds)):
        rounds.append(run(overload.measured(server.url, server.process.pid, duration_s=4)))

    assert any(map(_is_kept_up, rounds)), rounds
    for found in rounds:
        assert found.grown_mib < 100
        assert found.is_ready
        assert found.retry_after
        assert set(found.statuses) <= {200, 503, 504}
        assert found.statuses.get(504, 0) <= 0.01 * found.statuses[200]
    metrics = server.get("/metrics").text
    assert "tabserve_queue_depth 0.0" in metrics
    assert "tabserve_in_flight 0.0" in metrics


def _is_kept_up(found: overload.Figures) -> bool:
    return (
        found.goodput >= 0.7 * found.peak
        and found.after_s < 4 * found.before_s
        and found.told_p99_s < 0.2
        and found.past_deadline_s < 0.2
    )


def test_many_may_connect_at_once_and_wait_for_a_server_that_is_busy(server: Server) -> None:
    """Where there is no place any more a client tries again a second later at the soonest."""
    address = urlsplit(server.url)
    n_clients = min(500, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    with ExitStack() as clients:
        server.process.send_signal(signal.SIGSTOP)
        for _ in range(n_clients):
            clients.enter_context(
                socket.create_connection((address.hostname, address.port), PATIENCE_S)
            )
        server.process.send_signal(signal.SIGCONT)

    assert server.get("/health").status_code == 200


def test_a_server_has_places_for_thousands_of_connections(server: Server) -> None:
    """To make them once they are needed would keep everybody waiting."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    n_places = int(status.partition("FDSize:")[2].split()[0])

    assert n_places >= min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_who_wants_his_answer_sooner_than_it_can_be_is_told_at_once(server: Server) -> None:
    async def asked() -> list[int | None]:
        client = Client(server.url)
        for _ in range(3):
            assert (await client.post("/predict", slow_model.RECORD)).status == 200
        in_vain = await client.post("/predict", slow_model.RECORD, X_Request_Timeout_Ms="5")
        no_number = await client.post("/predict", slow_model.RECORD, X_Request_Timeout_Ms="soon")
        in_time = await client.post("/predict", slow_model.RECORD, X_Request_Timeout_Ms="900")
        await client.close()
        assert int(in_vain.headers["retry-after"]) >= 1
        return [in_vain.status, no_number.status, in_time.status]

    assert run(asked()) == [503, 400, 200]


def test_who_waits_for_a_model_of_which_nothing_is_known_is_told_at_his_deadline(
    server: Server,
) -> None:
    async def asked() -> list[Answer]:
        client = Client(server.url)
        first = asyncio.ensure_future(client.post("/predict/batch", [slow_model.RECORD] * 90))
        await asyncio.sleep(0.1)  # it is being computed, for 0.9 s
        told = await client.steadily(
            "/predict", slow_model.RECORD, 200, 0.1, X_Request_Timeout_Ms="300"
        )
        assert (await first).status == 200
        await client.close()
        return told

    told = run(asked())

    assert {answer.status for answer in told} == {503}
    assert all("retry-after" in answer.headers for answer in told)
    assert 0.25 < statistics.median(answer.s for answer in told) < 0.5
