"""One process that answers requests on an event loop, from its first connection to its last."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from tabserve.connection import Connection, Door
from tabserve.connections import Connections
from tabserve.exchange import Turn
from tabserve.server.listening import BACKLOG, Listener
from tabserve.server.starting import heeded, tell_stopping

if TYPE_CHECKING:
    from tabserve.service import Service

# What a worker tells its supervisor this often while its event loop turns, and once when it
# begins to end: why.
_BEAT_S = 1.0
ALIVE = b"."
ENDING = b"e"
STUCK = b"s"

# What /ready says meanwhile.
_STOPPED = "The server is being stopped."
_REPLACED = "The model has not returned from a call within the deadline; its worker is replaced."


class Worker:
    """supervisor: the worker's end of a pair of sockets; None where nobody supervises it."""

    def __init__(
        self,
        service: "Service",
        listeners: Iterable[Listener],
        supervisor: socket.socket | None = None,
    ) -> None:
        self._service = service
        self._listeners = listeners
        self._supervisor = supervisor
        self._connections = Connections()
        self._told: asyncio.Event

    def run(self) -> None:
        """Until it is told to stop, and has answered what it owes."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())
        self._service.close()

    async def _serve(self) -> None:
        self._told = asyncio.Event()
        self._heed_signals()
        self._connections.begin()
        servers = await self._listen()
        if self._supervisor is not None:
            self._beat(self._supervisor)
        await self._told.wait()
        await self._drain(servers)

    async def _listen(self) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        turn, service = Turn(loop), self._service
        answering = {"main": service.dispatcher, "admin": service.admin_dispatcher}
        return [
            await loop.create_server(
                partial(Connection, Door(turn, answering[listener.name]), self._connections),
                sock=listener.socket,
                backlog=BACKLOG,  # else the loop takes it back to 100
            )
            for listener in self._listeners
        ]

    async def _drain(self, servers: list[asyncio.Server]) -> None:
        """Whoever asks /ready soon sends nothing new here; until then everybody is answered."""
        settings = self._service.settings
        self._connections.drain()
        is_stuck = self._service.models.is_stuck
        self._service.drain(_REPLACED if is_stuck else _STOPPED)
        if self._supervisor is not None:
            _tell(self._supervisor, STUCK if is_stuck else ENDING)
        await asyncio.sleep(0 if is_stuck or self._service.is_held else settings.drain_delay)
        for server in servers:
            server.close()
        await self._connections.end(settings.deadline)

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        if self._supervisor is None:
            for number in heeded():
                loop.add_signal_handler(number, self._stop_or_end_at_once, number)
        else:
            loop.add_signal_handler(signal.SIGTERM, self._told.set)
            self._supervisor.setblocking(False)
            loop.add_reader(self._supervisor, self._alone, self._supervisor)

    def _stop_or_end_at_once(self, number: int) -> None:
        if not self._told.is_set():
            tell_stopping(number)
            self._told.set()
        elif number != signal.SIGHUP:  # a shell sends it, and the system once that has ended
            os._exit(128 + number)

    def _beat(self, supervisor: socket.socket) -> None:
        if self._told.is_set():
            return
        _tell(supervisor, ALIVE)
        with suppress(OSError):  # the supervisor says so, and makes the folder again
            self._service.keep_run_folder()
        if self._service.models.is_stuck:
            self._told.set()
        asyncio.get_running_loop().call_later(_BEAT_S, self._beat, supervisor)

    def _alone(self, supervisor: socket.socket) -> None:
        """The supervisor never says anything, so that it has ended."""
        asyncio.get_running_loop().remove_reader(supervisor)
        self._told.set()


def _tell(supervisor: socket.socket, what: bytes) -> None:
    # It may have stopped, and will find enough; or have ended.
    with suppress(OSError):
        supervisor.send(what)
