import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tabserve import limits
from tabserve.limits import RateLimiter
from tabserve.settings import Rate

PATIENCE_S = 60
PER_MINUTE = Rate(3, 60)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "file"])
def limiter_of(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> Iterator[Callable[[Rate], RateLimiter]]:
    """Makes limiters on the clock; all on one file, or each in its own memory."""
    path = tmp_path / "limits" if request.param == "file" else None
    made: list[RateLimiter] = []

    def make(rate: Rate) -> RateLimiter:
        made.append(RateLimiter(rate, path, clock))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()


def test_just_the_rate_is_admitted_and_then_the_time_to_wait_is_told(
    limiter_of: Any, clock: Clock
) -> None:
    limiter = limiter_of(PER_MINUTE)
    first = [limiter.admit("a") for _ in range(3)]
    clock.now += 12.5

    assert first == [0.0, 0.0, 0.0]
    assert [limiter.admit("a") for _ in range(2)] == [47.5, 47.5]


def test_the_whole_rate_is_there_again_in_the_next_window(limiter_of: Any, clock: Clock) -> None:
    limiter = limiter_of(PER_MINUTE)
    for _ in range(10):
        limiter.admit("a")
    clock.now += 59.999
    assert limiter.admit("a") > 0
    clock.now += 0.001

    assert [limiter.admit("a") for _ in range(4)] == [0.0, 0.0, 0.0, 60.0]


def test_a_window_begins_with_its_first_request(limiter_of: Any, clock: Clock) -> None:
    limiter = limiter_of(Rate(1, 60))
    clock.now += 59
    limiter.admit("a")
    clock.now += 2

    assert limiter.admit("a") == 58.0


def test_clients_are_counted_apart(limiter_of: Any) -> None:
    limiter = limiter_of(Rate(1, 60))

    assert [limiter.admit(client) for client in "abcab"] == [0.0, 0.0, 0.0, 60.0, 60.0]


def test_a_thousand_clients_are_counted_apart(limiter_of: Any) -> None:
    limiter = limiter_of(Rate(2, 60))
    clients = [f"10.0.{i // 256}.{i % 256}" for i in range(1000)]

    answers = [[limiter.admit(client) for client in clients] for _ in range(3)]

    assert answers == [[0.0] * 1000, [0.0] * 1000, [60.0] * 1000]


def test_in_a_full_table_the_oldest_window_gives_way(
    limiter_of: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_N_SLOTS", 8)
    limiter = limiter_of(Rate(1, 60))
    for client in "abcdefgh":
        assert limiter.admit(client) == 0.0
        clock.now += 1

    assert limiter.admit("newcomer") == 0.0
    assert [limiter.admit(client) > 0 for client in "bcdefgh"] == [True] * 7
    assert limiter.admit("newcomer") > 0


def test_in_a_full_table_an_expired_window_gives_way_first(
    limiter_of: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_N_SLOTS", 8)
    limiter = limiter_of(Rate(1, 60))
    limiter.admit("a")
    clock.now += 60
    for client in "bcdefgh":
        limiter.admit(client)
    limiter.admit("newcomer")

    assert [limiter.admit(client) for client in "bcdefgh"] == [60.0] * 7


def test_a_file_from_before_the_machine_began_anew_locks_nobody_out(
    tmp_path: Path, clock: Clock
) -> None:
    before = RateLimiter(PER_MINUTE, tmp_path / "limits", clock)
    for _ in range(5):
        before.admit("a")
    before.close()
    clock.now = 7.0  # a monotonic clock counts from the start of the machine

    after = RateLimiter(PER_MINUTE, tmp_path / "limits", clock)
    assert [after.admit("a") for _ in range(4)] == [0.0, 0.0, 0.0, 60.0]
    after.close()


def test_setting_the_clock_changes_no_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = RateLimiter(Rate(1, 3600), tmp_path / "limits")
    limiter.admit("a")

    for now in (0.0, 4e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert 3500 < limiter.admit("a") <= 3600
    limiter.close()


def test_rows_are_counted_together_or_not_at_all(limiter_of: Any) -> None:
    limiter = limiter_of(Rate(100, 60))

    waits = [limiter.admit("a", n) > 0 for n in (0, 60, 60, 40, 0, 1)]

    assert waits == [False, False, True, False, True, True]


def test_a_limiters_file_has_all_its_space_from_the_beginning(tmp_path: Path) -> None:
    """On a disk that is full by then, to count would end the process."""
    limiter = RateLimiter(PER_MINUTE, tmp_path / "limits")
    found = (tmp_path / "limits").stat()
    assert 512 * found.st_blocks >= found.st_size > 0
    limiter.close()


def test_two_limiters_on_one_file_count_together(tmp_path: Path, clock: Clock) -> None:
    one, other = (RateLimiter(PER_MINUTE, tmp_path / "limits", clock) for _ in range(2))

    answers = [limiter.admit("a") for limiter in (one, other, one, other)]

    assert answers == [0.0, 0.0, 0.0, 60.0]
    one.close()
    other.close()


def test_a_limiter_on_a_file_is_exact_over_threads(limiter_of: Any) -> None:
    limiter = limiter_of(Rate(100, 60))
    admitted: list[float] = []

    def ask() -> None:
        admitted.extend(limiter.admit("a") for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (admitted.count(0.0), len(admitted)) == (100, 400)


def _ask(path: Path, begin: Any, answers: Any) -> None:
    limiter = RateLimiter(Rate(500, 3600), path)
    begin.wait(PATIENCE_S)
    answers.put(sum(limiter.admit("a") == 0.0 for _ in range(400)))
    limiter.close()


def test_just_the_rate_is_admitted_by_four_processes_together(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin, answers = spawn.Barrier(4), spawn.Queue()
    processes = [
        spawn.Process(target=_ask, args=(tmp_path / "limits", begin, answers)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    admitted = [answers.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)

    assert (sum(admitted), [process.exitcode for process in processes]) == (500, [0] * 4)


class _Stuck:
    """A clock that never gives the time, and says that it was asked."""

    def __init__(self, asked: Any) -> None:
        self._asked = asked

    def __call__(self) -> float:
        self._asked.set()
        threading.Event().wait()
        raise AssertionError


def _hold_the_lock(path: Path, asked: Any) -> None:
    RateLimiter(PER_MINUTE, path, _Stuck(asked)).admit("a")


def test_a_process_that_is_killed_while_it_counts_frees_the_lock(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    asked = spawn.Event()
    killed = spawn.Process(target=_hold_the_lock, args=(tmp_path / "limits", asked))
    killed.start()
    assert asked.wait(PATIENCE_S)
    limiter = RateLimiter(PER_MINUTE, tmp_path / "limits")
    answers: list[float] = []
    waiting = threading.Thread(target=lambda: answers.append(limiter.admit("a")))
    waiting.start()

    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    waiting.join(PATIENCE_S)

    assert answers == [0.0]
    killed.join(PATIENCE_S)
    limiter.close()
