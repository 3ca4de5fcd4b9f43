"""Which signals stop a server."""

import signal

import pytest

from tabserve.server.starting import heeded


@pytest.mark.parametrize(
    ("handler", "is_heeded"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)]
)
def test_sighup_stops_a_server_unless_nohup_has_it_ignored(
    handler: signal.Handlers, is_heeded: bool
) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        found = heeded()
    finally:
        signal.signal(signal.SIGHUP, before)

    assert {signal.SIGINT, signal.SIGTERM} <= {*found}
    assert (signal.SIGHUP in found) == is_heeded
