"""What the supervisor does where it cannot begin a worker, or a worker refuses the model."""

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tabserve.metrics import Metrics
from tabserve.server.starting import READY, REFUSED, STOPPING
from tabserve.server.supervisor import Supervisor, _Child
from tabserve.server.worker import ALIVE

ENDED, RUNS = 1, 2  # the numbers of processes that there are not


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    service: Any = SimpleNamespace(
        settings=SimpleNamespace(workers=2, run_dir=tmp_path), metrics=Metrics()
    )
    made = Supervisor(service, [])
    yield made
    for child in made._children.values():
        child.end.close()
    made._selector.close()


def test_where_no_process_can_be_begun_it_is_tried_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fork() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", fork)
    supervisor._begin_missing()

    assert "No worker can be begun at the moment: Cannot allocate memory" in caplog.text
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOPPING)
    assert not (supervisor._children or supervisor._is_ending)


def test_a_second_signal_ends_it_at_once_but_for_sighup_which_may_come_twice(
    supervisor: Supervisor,
) -> None:
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        supervisor._told(number)
    assert supervisor._signals == [signal.SIGHUP, signal.SIGTERM]


@pytest.mark.parametrize("others", ["answer", "are loading", "are none"])
def test_one_that_refuses_the_model_ends_all_unless_others_answer(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    if others != "are loading":
        (tmp_path / READY).touch()
    for pid in [ENDED] if others == "are none" else [ENDED, RUNS]:
        ours, theirs = socket.socketpair()
        theirs.close()
        supervisor._children[pid] = _Child(pid, ours, hangs_at=inf)
    status = {ENDED: (ENDED, REFUSED << 8), RUNS: (0, 0)}
    monkeypatch.setattr(os, "waitpid", lambda pid, _: status[pid])

    supervisor._reap()

    assert supervisor._is_ending == (others != "answer")
    assert ENDED not in supervisor._children


def test_a_worker_that_says_nothing_is_killed_unless_it_was_stopped_with_the_supervisor(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    now = time.monotonic()
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ours, theirs = socket.socketpair()
    theirs.close()
    child = supervisor._children[RUNS] = _Child(RUNS, ours, hangs_at=inf)
    supervisor._heard(child, ALIVE)

    now += 3600  # Ctrl-Z, and `fg`
    supervisor._kill_hanging()
    assert killed == []

    for _ in range(10):
        now += 1
        supervisor._kill_hanging()
    assert (killed, child.replaced_for) == ([RUNS], "hanging")
