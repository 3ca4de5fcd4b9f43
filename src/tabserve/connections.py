"""What the connections of a worker share, and how they are given up."""

import asyncio
from contextlib import suppress
from email.utils import formatdate
from time import monotonic
from typing import Protocol

from tabserve.heads import KnownHeads

# Each client that is given up, and opens another connection, costs 0.1 ms.
_SWEEP_S = 0.1
# Of those that are given up together, as many in one turn of the loop: others are answered between.
_SWEPT_AT_ONCE = 4


class _Connection(Protocol):
    expires: float  # on the monotonic clock

    def expire(self, now: float) -> None: ...
    def shutdown(self) -> None: ...
    def abort(self) -> None: ...


class Connections:
    """Of one event loop."""

    def __init__(self) -> None:
        self.connections: set[_Connection] = set()
        self.default_headers = ""
        self.known_heads = KnownHeads()
        self.n_held = 0  # bytes of bodies, from when they come until their answer
        self.n_unsent = 0  # bytes of answers that clients do not read
        # Each answer is its connection's last, so that clients go elsewhere.
        self.is_draining = False
        self._emptied = asyncio.Event()

    def begin(self) -> None:
        """One timer for all connections: one for each request would cost as much as reading it."""
        self.default_headers = f"date: {formatdate(usegmt=True)}\r\n"
        now = monotonic()
        self._expire([each for each in self.connections if each.expires < now])

    def _expire(self, connections: list[_Connection]) -> None:
        now = monotonic()
        for connection in connections[:_SWEPT_AT_ONCE]:
            connection.expire(now)
        loop = asyncio.get_running_loop()
        if len(connections) > _SWEPT_AT_ONCE:
            loop.call_soon(self._expire, connections[_SWEPT_AT_ONCE:])
        else:
            loop.call_later(_SWEEP_S, self.begin)

    def drain(self) -> None:
        self.is_draining = True

    async def end(self, timeout_s: float) -> None:
        """Once no more are taken: after the answers that are owed, if they take no longer."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.shutdown()
        if self.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
        for connection in list(self.connections):
            connection.abort()

    def add(self, connection: _Connection) -> None:
        self.connections.add(connection)
        self._emptied.clear()

    def discard(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()
