"""For how long the event loop looks for what comes next before it sleeps."""

from collections.abc import Callable

import pytest

from tabserve import exchange
from tabserve.exchange import Turn


@pytest.mark.parametrize("n_cpus", [1, 2])
def test_the_loop_sleeps_again_when_nothing_has_come(
    monkeypatch: pytest.MonkeyPatch, n_cpus: int
) -> None:
    now = 100.0
    monkeypatch.setattr(exchange, "monotonic", lambda: now)
    monkeypatch.setattr(exchange, "usable_cpus", lambda: n_cpus)

    class Loop:
        def __init__(self) -> None:
            self.due: list[Callable[[], None]] = []

        def call_soon(self, function: Callable[[], None]) -> None:
            self.due.append(function)

        def turn(self) -> None:
            due, self.due = self.due, []
            for function in due:
                function()

    loop = Loop()
    turn = Turn(loop)  # type: ignore[arg-type]
    turn.stay_awake()
    loop.turn()
    assert bool(loop.due) == (n_cpus > 1)  # else the client needs the only one
    if not loop.due:
        return
    now += exchange._AWAKE_S / 2
    turn.stay_awake()
    loop.turn()
    now += exchange._AWAKE_S * 3 / 4  # since the first, but not since the last, it is over
    loop.turn()
    assert len(loop.due) == 1
    now += exchange._AWAKE_S
    loop.turn()
    assert not loop.due
    turn.stay_awake()
    assert len(loop.due) == 1
