"""The rules of the batcher, each a fault that was found in another server."""

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tabserve.batching import MAX_JOINED_ROWS, Batcher
from tabserve.cost import Cost
from tabserve.errors import (
    Internal,
    ModelNotReady,
    Overloaded,
)

PATIENCE_S = 20


class Rows(list[int]):
    """What a request wants computed."""

    @property
    def n_rows(self) -> int:
        return len(self)


class Doubler:
    """Doubles and notes each call's rows. It may be held; `poison` is called for the row -1."""

    def __init__(self, poison: Callable[[], Any] | None = None) -> None:
        self.calls: list[list[int]] = []
        self.entered = threading.Event()
        self.release = threading.Event()
        self._poison = poison

    def __call__(self, requests: Sequence[Rows]) -> list[list[int]]:
        self.calls.append([row for request in requests for row in request])
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        if self._poison is not None and -1 in self.calls[-1]:
            self._poison()
        return [[2 * row for row in request] for request in requests]


def rows(*values: int) -> Rows:
    return Rows(values)


def raising(error: BaseException) -> Callable[[], None]:
    def poison() -> None:
        raise error

    return poison


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Doubler, Batcher]]]:
    """Makes an engine that is held at its first call, on the row 0, and the batcher before it."""
    batchers: list[tuple[Doubler, Batcher]] = []

    def make(poison: Callable[[], Any] | None = None, **options: Any) -> tuple[Doubler, Batcher]:
        engine = Doubler(poison)
        # Calls take no time: how long one is held says nothing about it.
        batchers.append((engine, Batcher(engine, **{"clock": lambda: 0.0} | options)))
        batchers[-1][1].submit(rows(0))
        assert engine.entered.wait(PATIENCE_S)
        return batchers[-1]

    yield make
    for engine, batcher in batchers:
        engine.release.set()
        batcher.close()


def test_an_idle_engine_is_called_at_once_and_alone(made: Any) -> None:
    engine, batcher = made()
    engine.release.set()

    assert batcher.submit(rows(1)).result(PATIENCE_S) == [2]
    assert batcher.submit(rows(2)).result(PATIENCE_S) == [4]
    assert engine.calls == [[0], [1], [2]]


def test_what_queued_meanwhile_is_one_call_in_order_of_arrival(made: Any) -> None:
    engine, batcher = made()
    futures = [batcher.submit(rows(*values)) for values in ([1], [2, 3, 4], [5, 6])]
    engine.release.set()

    answers = [future.result(PATIENCE_S) for future in futures]

    assert engine.calls == [[0], [1, 2, 3, 4, 5, 6]]
    assert answers == [[2], [4, 6, 8], [10, 12]]


def test_it_is_told_how_many_come_into_the_queue_and_leave_it() -> None:
    changes: list[int] = []
    engine = Doubler()
    batcher = Batcher(engine, on_queued=changes.append)
    batcher.submit(rows(0))
    assert engine.entered.wait(PATIENCE_S)
    for values in ([1], [2, 3]):
        batcher.submit(rows(*values))
    engine.release.set()
    batcher.close()

    assert changes == [1, -1, 1, 1, -2]


def test_many_threads_each_get_their_own_rows_back(made: Any) -> None:
    engine, batcher = made()
    engine.release.set()
    wrong: list[int] = []

    def call(n: int) -> None:
        for i in range(50):
            values = list(range(1000 * n + i, 1000 * n + i + 1 + i % 4))
            got = batcher.submit(rows(*values)).result(PATIENCE_S)
            wrong.extend(a for a, b in zip(got, values, strict=True) if a != 2 * b)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (wrong, sum(map(len, engine.calls))) == ([], 1 + 8 * sum(1 + i % 4 for i in range(50)))


def test_a_batch_is_closed_at_its_limit_and_a_large_request_is_not_split(made: Any) -> None:
    engine, batcher = made()
    large = batcher.submit(rows(*range(MAX_JOINED_ROWS + 1)))
    small = [batcher.submit(rows(7)) for _ in range(3)]
    engine.release.set()

    assert len(large.result(PATIENCE_S)) == MAX_JOINED_ROWS + 1
    assert [future.result(PATIENCE_S) for future in small] == [[14]] * 3
    assert [len(call) for call in engine.calls] == [1, MAX_JOINED_ROWS + 1, 3]


def test_a_model_that_is_not_joinable_is_never_joined(made: Any) -> None:
    engine, batcher = made(joinable=False)
    futures = [batcher.submit(rows(*values)) for values in ([1], [2, 3], [4])]
    engine.release.set()

    for future in futures:
        future.result(PATIENCE_S)
    assert engine.calls == [[0], [1], [2, 3], [4]]


def test_one_cancelled_caller_does_not_hang_the_batch_and_costs_it_nothing(made: Any) -> None:
    engine, batcher = made()
    first, gone, last = (batcher.submit(rows(n)) for n in (1, 2, 3))
    assert gone.cancel()
    engine.release.set()

    assert first.result(PATIENCE_S) == [2]
    assert last.result(PATIENCE_S) == [6]
    assert engine.calls == [[0], [1, 3]]


def test_a_batch_of_which_all_callers_left_is_not_computed(made: Any) -> None:
    engine, batcher = made()
    for future in [batcher.submit(rows(n)) for n in (1, 2)]:
        assert future.cancel()
    engine.release.set()
    batcher.close()

    assert engine.calls == [[0]]


def test_a_caller_cannot_leave_a_batch_that_is_being_computed(made: Any) -> None:
    engine, batcher = made()
    engine.entered.clear()
    future = batcher.submit(rows(1))
    engine.release.set()
    assert engine.entered.wait(PATIENCE_S)

    assert not future.cancel()
    assert future.result(PATIENCE_S) == [2]


def test_a_poisonous_row_fails_alone(made: Any) -> None:
    poison = ValueError("poison")
    engine, batcher = made(raising(poison))
    good, bad, other = (batcher.submit(rows(n)) for n in (1, -1, 2))
    engine.release.set()

    assert bad.exception(PATIENCE_S) is poison
    assert good.result(PATIENCE_S) == [2]
    assert other.result(PATIENCE_S) == [4]
    assert engine.calls == [[0], [1, -1, 2], [1], [-1, 2], [-1], [2]]


def test_the_poisonous_row_is_found_by_halving(made: Any) -> None:
    engine, batcher = made(raising(ValueError("poison")))
    futures = [batcher.submit(rows(-1 if n == 100 else n)) for n in range(256)]
    engine.release.set()

    assert isinstance(futures[100].exception(PATIENCE_S), ValueError)
    good = [future.result(PATIENCE_S) for future in futures if future is not futures[100]]
    assert good == [[2.0 * n] for n in range(256) if n != 100]
    assert len(engine.calls) == 1 + 1 + 2 * 8  # what was first, all, and two halves eight times


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), StopIteration()]
)
@pytest.mark.parametrize("n_callers", [1, 2])
def test_a_model_that_wants_to_end_the_server_fails_its_caller_only(
    made: Any, error: BaseException, n_callers: int
) -> None:
    engine, batcher = made(raising(error))
    bad, *others = [batcher.submit(rows(n)) for n in (-1, 1, 1)[:n_callers]]
    engine.release.set()

    assert isinstance(bad.exception(PATIENCE_S), Internal | MemoryError)
    for other in others:
        assert other.result(PATIENCE_S) == [2]
    assert batcher.submit(rows(5)).result(PATIENCE_S) == [10]


def test_sys_exit_in_a_model_is_named(made: Any) -> None:
    engine, batcher = made(sys.exit)
    bad = batcher.submit(rows(-1))
    engine.release.set()

    assert str(bad.exception(PATIENCE_S)) == "The model raised SystemExit."


def test_past_its_bound_a_queue_refuses_at_once(made: Any) -> None:
    engine, batcher = made(max_queue=2)
    futures = [batcher.submit(rows(n)) for n in (1, 2)]

    with pytest.raises(Overloaded, match="2 requests are waiting"):
        batcher.submit(rows(3))
    engine.release.set()
    assert [future.result(PATIENCE_S) for future in futures] == [[2], [4]]
    assert batcher.submit(rows(4)).result(PATIENCE_S) == [8]


def test_a_deadline_that_passed_in_the_queue_is_told_and_its_rows_are_not_computed(
    made: Any,
) -> None:
    now = 100.0
    engine, batcher = made(clock=lambda: now)
    late, early = batcher.submit(rows(1), deadline=101.0), batcher.submit(rows(2), deadline=110.0)
    now = 102.0
    engine.release.set()

    assert isinstance(late.exception(PATIENCE_S), Overloaded)
    assert early.result(PATIENCE_S) == [4]
    assert engine.calls == [[0], [2]]


def test_close_leaves_a_model_behind_that_takes_too_long() -> None:
    engine = Doubler()
    batcher = Batcher(engine)
    held = batcher.submit(rows(1))
    batcher.close(timeout_s=0.01)

    assert not held.done()
    engine.release.set()
    assert held.result(PATIENCE_S) == [2]


def test_close_finishes_what_is_queued_and_takes_no_more() -> None:
    engine = Doubler()
    batcher = Batcher(engine)
    futures = [batcher.submit(rows(n)) for n in range(3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    engine.release.set()
    closing.join(PATIENCE_S)

    assert [future.result(0) for future in futures] == [[0], [2], [4]]
    with pytest.raises(ModelNotReady, match="shut down"):
        batcher.submit(rows(1))
    batcher.close()


class Slow:
    """Takes so long for each row by a clock of its own, or for each call."""

    def __init__(self, call_s: float, row_s: float) -> None:
        self._call_s, self._row_s = call_s, row_s
        self.calls: list[int] = []
        self.now = 100.0
        self.entered, self.turn = threading.Event(), threading.Semaphore(0)
        self.learnt = threading.Semaphore(0)  # from a call

    def __call__(self, requests: Sequence[Rows]) -> list[list[int]]:
        self.entered.set()
        assert self.turn.acquire(timeout=PATIENCE_S)
        self.calls.append(sum(request.n_rows for request in requests))
        self.now += self._call_s + self._row_s * self.calls[-1]
        return [list(request) for request in requests]

    def batcher(self, **options: Any) -> Batcher:
        """One that knows what a call for one row takes."""
        made = Batcher(self, clock=lambda: self.now, **options)
        made._cost = TellingCost(self.learnt)
        self.learn_from(made, 1)
        return made

    def learn_from(self, batcher: Batcher, n_rows: int) -> None:
        """A call for so many rows."""
        self.turn.release()
        batcher.submit(rows(*range(n_rows))).result(PATIENCE_S)
        assert self.learnt.acquire(timeout=PATIENCE_S)


class TellingCost(Cost):
    """learnt: told when it has."""

    def __init__(self, learnt: threading.Semaphore) -> None:
        super().__init__()
        self._learnt = learnt

    def learn(self, n_rows: int, seconds: float) -> None:
        super().learn(n_rows, seconds)
        self._learnt.release()


def test_who_cannot_be_answered_in_time_is_refused_at_once() -> None:
    slow = Slow(0.0, 0.010)
    batcher = slow.batcher()
    queued = [batcher.submit(rows(n), slow.now + 0.1) for n in range(8)]

    with pytest.raises(Overloaded, match="within the time") as refused:
        batcher.submit(rows(9), slow.now + 0.05)
    assert refused.value.retry_after_s == pytest.approx(0.08)
    slow.turn.release(100)
    assert [future.result(PATIENCE_S) for future in queued] == [[n] for n in range(8)]
    batcher.close()


def test_nobody_waits_longer_than_he_may() -> None:
    slow = Slow(0.0, 1.0)
    batcher = slow.batcher(max_wait_s=2.5)
    for _ in range(3):
        batcher.submit(rows(1))

    with pytest.raises(Overloaded, match="busy for longer"):
        batcher.submit(rows(1))
    slow.turn.release(100)
    batcher.close()


def test_an_idle_model_is_tried_again_whatever_it_took_before() -> None:
    slow = Slow(1.0, 0.0)
    batcher = slow.batcher()
    with pytest.raises(Overloaded):
        batcher.submit(rows(1), slow.now + 0.5)
    slow.now += 2.0
    slow._call_s = 0.01

    slow.turn.release(100)
    assert batcher.submit(rows(1), slow.now + 0.5).result(PATIENCE_S) == [1]
    batcher.close()


def test_rows_that_wait_are_bounded_but_not_those_of_one_request(made: Any) -> None:
    engine, batcher = made(max_queue_rows=10)
    first = batcher.submit(rows(*range(11)))
    with pytest.raises(Overloaded):
        batcher.submit(rows(1))
    engine.release.set()
    assert len(first.result(PATIENCE_S)) == 11


@pytest.mark.parametrize(
    ("call_s", "row_s", "largest"), [(0.0, 0.010, range(1, 8)), (0.010, 0.000001, range(256, 4097))]
)
def test_requests_are_joined_where_that_gains_something(
    call_s: float, row_s: float, largest: range
) -> None:
    slow = Slow(call_s, row_s)
    batcher = slow.batcher()
    futures = [batcher.submit(rows(n)) for n in range(990)]
    slow.turn.release(2000)

    assert [future.result(PATIENCE_S) for future in futures] == [[n] for n in range(990)]
    assert max(slow.calls) in largest
    batcher.close()


def test_a_batch_is_no_larger_than_its_first_deadline_allows() -> None:
    slow = Slow(0.010, 0.010)
    batcher = slow.batcher()
    for n_rows in (4, 8, 2):  # it learns what a row takes
        slow.learn_from(batcher, n_rows)
    slow.calls.clear()
    slow.entered.clear()
    held = batcher.submit(rows(0))
    assert slow.entered.wait(PATIENCE_S)
    soon = batcher.submit(rows(1), slow.now + 0.1)
    later = [batcher.submit(rows(n)) for n in range(20)]
    slow.turn.release(100)

    assert (soon.result(PATIENCE_S), held.result(PATIENCE_S)) == ([1], [0])
    assert [future.result(PATIENCE_S) for future in later] == [[n] for n in range(20)]
    assert slow.calls[1] < 8


def test_what_waits_for_more_holds_nothing_of_what_was_computed() -> None:
    """A request's callbacks hold its model, which could not go once another takes its place."""
    batcher, model = Batcher(lambda requests: [2]), Doubler()
    is_gone = threading.Event()
    weakref.finalize(model, is_gone.set)
    future = batcher.submit(Rows([1]))
    future.add_done_callback(lambda _, held=model: None)
    assert future.result(PATIENCE_S) == 2

    del future, model

    assert is_gone.wait(PATIENCE_S)
    batcher.close()
