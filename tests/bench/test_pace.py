import asyncio

from tabserve.bench.pace import ClosedLoop, OpenLoop


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def next_start(pace: ClosedLoop | OpenLoop) -> float | None:
    return asyncio.run(pace.next_start(connection_broke=False))


def test_a_closed_loop_starts_at_once_until_its_time_is_up() -> None:
    clock = Clock()
    pace = ClosedLoop(2.0, clock)
    assert next_start(pace) == 100.0
    clock.now = 101.5
    assert next_start(pace) == 101.5
    clock.now = 102.0
    assert next_start(pace) is None
    assert pace.n_unsent() == 0


def test_an_open_loop_counts_from_the_schedule_when_it_is_late() -> None:
    clock = Clock()
    pace = OpenLoop(10, 1.0, clock)
    clock.now = 100.9
    assert [next_start(pace) for _ in range(3)] == [100.0, 100.1, 100.2]


def test_an_open_loop_names_what_it_never_sent() -> None:
    clock = Clock()
    pace = OpenLoop(10, 1.0, clock)
    next_start(pace)
    clock.now = 101.0
    assert next_start(pace) is None
    assert pace.n_unsent() == 9


def test_an_open_loop_that_is_stopped_owes_only_what_was_due() -> None:
    clock = Clock()
    pace = OpenLoop(10, 1.0, clock)
    next_start(pace)
    clock.now = 100.45
    pace.stop()
    assert next_start(pace) is None
    assert pace.n_unsent() == 4


def test_rounding_adds_no_slot() -> None:
    clock = Clock()
    pace = OpenLoop(100, 0.3 * 1.0000000000000002, clock)
    clock.now = 100.2999
    assert sum(next_start(pace) is not None for _ in range(32)) == 30
