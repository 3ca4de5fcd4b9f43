"""The admin port belongs to the supervisor: it outlives each worker, and any of them answers."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tabserve import auth
from tests.conftest import RECORD
from tests.end_to_end.conftest import PATIENCE_S, Server, poll

Serve = Callable[..., Server]


def asked(server: Server, path: str, key: str) -> httpx.Response:
    """On the admin port."""
    found = re.search(r"Admin +(http://\S+)", server.output)
    assert found
    headers = {auth.HEADER: key, "Connection": "close"}
    return httpx.get(found[1] + path, headers=headers, trust_env=False, timeout=PATIENCE_S)


@pytest.mark.slow
def test_the_admin_port_outlives_every_worker_and_tells_of_all(
    serve: Serve, repository: Path, tmp_path: Path
) -> None:
    key = auth.add_key(tmp_path / "keys.json", "operator", "admin")
    flags = ["--docs", "admin", "--metrics", "admin", "--keys", "keys.json"]
    server = serve(str(repository), "--workers", "2", "--admin-port", "0", *flags)
    server.wait_until_ready(2)
    for worker in server.workers():
        with server.alone(worker):
            assert server.post("/predict", RECORD, headers={auth.HEADER: key}).status_code == 200

    for n_replaced, worker in enumerate(server.workers(), 1):
        os.kill(worker, signal.SIGKILL)
        poll("another worker is ready", lambda n=n_replaced: server.times_ready == 2 + n)
        assert asked(server, "/models", key).status_code == 200

    metrics = asked(server, "/metrics", key).text
    assert 'tabserve_predictions_total{model="churn",version="1.2.3"} 2.0' in metrics
    assert 'tabserve_workers_replaced_total{reason="killed"} 2.0' in metrics
    assert [asked(server, path, key).status_code for path in ("/docs", "/no-such")] == [200, 404]
    assert [server.get(path).status_code for path in ("/docs", "/metrics")] == [401, 401]
    assert server.stop() == 0
