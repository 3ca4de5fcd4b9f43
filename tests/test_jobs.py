"""A thread that does one thing after another, and looks around in between."""

import threading
from collections.abc import Iterator

import pytest

from tabserve.jobs import Jobs, done
from tests.serving import PATIENCE_S


class Looking:
    def __init__(self) -> None:
        self.began = 0
        self.looked = threading.Event()
        self.jobs = Jobs("tabserve-test", self._begin, self.looked.set, rest_s=0.01)

    def _begin(self) -> None:
        self.began += 1


@pytest.fixture
def looking() -> Iterator[Looking]:
    made = Looking()
    made.jobs.start()
    yield made
    made.jobs.end(PATIENCE_S)


def test_what_is_told_is_done_in_its_order_in_one_thread(looking: Looking) -> None:
    seen: list[tuple[int, str]] = []
    for i in range(9):
        last = looking.jobs.do(lambda i=i: seen.append((i, threading.current_thread().name)))  # type: ignore[misc]
    last.result(PATIENCE_S)
    assert seen == [(i, "tabserve-test") for i in range(9)]
    assert looking.began == 1


def test_an_error_is_handed_to_whoever_waits_and_the_next_is_done(looking: Looking) -> None:
    failed = looking.jobs.do(lambda: 1 / 0)
    assert looking.jobs.do(lambda: 5).result(PATIENCE_S) == 5
    assert isinstance(failed.exception(PATIENCE_S), ZeroDivisionError)


def test_what_is_given_up_before_its_turn_is_not_done(looking: Looking) -> None:
    held = threading.Event()
    looking.jobs.do(lambda: held.wait(PATIENCE_S))
    given_up = looking.jobs.do(lambda: pytest.fail("it was given up"))
    assert given_up.cancel()
    held.set()
    assert looking.jobs.do(lambda: 5).result(PATIENCE_S) == 5


def test_it_looks_around_while_it_is_told_nothing(looking: Looking) -> None:
    assert looking.looked.wait(PATIENCE_S)


def test_the_end_finishes_what_is_queued_and_it_may_begin_anew(looking: Looking) -> None:
    told = [looking.jobs.do(lambda: 5) for _ in range(9)]
    looking.jobs.end(PATIENCE_S)
    assert [future.result(0) for future in told] == [5] * 9
    looking.jobs.start()
    assert looking.jobs.do(lambda: looking.began).result(PATIENCE_S) == 2


def test_without_a_thread_it_is_done_at_once() -> None:
    assert done(threading.current_thread).result(0) is threading.current_thread()
    assert isinstance(done(lambda: 1 / 0).exception(0), ZeroDivisionError)
