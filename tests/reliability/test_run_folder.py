"""The run folder is deleted under a running server, as what is old in /tmp is."""

import fcntl
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RECORD
from tests.end_to_end.conftest import Server, poll
from tests.reliability.test_workers import asked

Serve = Callable[..., Server]


def run_folder(server: Server) -> Path:
    (found,) = server.run_folders.glob("tabserve-*")
    return found


def counted(server: Server) -> float:
    """Predictions, by the metrics of whichever worker answers."""
    answer = server.get("/metrics")
    assert answer.status_code == 200
    found = re.search(r"tabserve_predictions_total{[^}]*} (\S+)", answer.text)
    return float(found[1]) if found else 0.0


def test_it_is_locked_so_that_systemd_does_not_clean_it(serve: Serve, repository: Path) -> None:
    server = serve(str(repository), "--supervise").wait_until_ready()
    descriptor = os.open(run_folder(server), os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    assert server.stop() == 0


def test_without_it_all_goes_on_and_it_is_made_again(serve: Serve, repository: Path) -> None:
    server = serve(str(repository), "--workers", "2").wait_until_ready(2)
    folder = run_folder(server)

    with asked(server, "POST", "/predict", n_clients=2) as statuses:
        poll("requests are answered", lambda: len(statuses) > 20)
        before = counted(server)
        shutil.rmtree(folder)
        poll("what was counted is told again", lambda: counted(server) >= before)
        answered = len(statuses)
        poll("requests are answered", lambda: len(statuses) > answered + 20)
    assert set(statuses) == {200}

    os.kill(server.workers()[0], signal.SIGKILL)
    poll("another worker is ready", lambda: server.times_ready == 3)
    assert server.post("/predict", RECORD).status_code == 200
    poll("nothing was lost with it", lambda: counted(server) >= before)
    assert server.output.count("was deleted, and is made again") == 1
    assert server.stop() == 0, server.output
    server.assert_nothing_is_left()


def test_a_worker_begun_after_it_counts_with_those_before(serve: Serve, repository: Path) -> None:
    flags = ["--workers", "2", "--rate-limit", "5/hour"]
    server = serve(str(repository), *flags).wait_until_ready(2)
    first = [server.post("/predict", RECORD).status_code for _ in range(3)]

    shutil.rmtree(run_folder(server))
    os.kill(server.workers()[0], signal.SIGKILL)
    poll("another worker is ready", lambda: server.times_ready == 3)
    later = []
    for worker in server.workers():
        with server.alone(worker):
            later += [server.post("/predict", RECORD).status_code for _ in range(2)]

    assert (first, sorted(later)) == ([200] * 3, [200, 200, 429, 429])
    assert server.stop() == 0


@pytest.mark.slow
def test_under_flask_it_is_made_again_too(serve: Serve, repository: Path) -> None:
    flags = ["--framework", "flask", "--workers", "2"]
    server = serve(str(repository), *flags).wait_until_ready(2)
    assert server.post("/predict", RECORD).status_code == 200
    poll("it is counted", lambda: counted(server) == 1)

    shutil.rmtree(run_folder(server))
    poll("it is told again", lambda: counted(server) == 1)
    assert server.post("/predict", RECORD).status_code == 200
    assert server.stop() == 0
