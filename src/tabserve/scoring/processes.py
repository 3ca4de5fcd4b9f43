"""Work shared over processes: one piece at a time to whichever is free."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, TypeVar

from tabserve.errors import OperatorError, ScoreError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# Gives back what does the work, once for each process and in it.
Make = Callable[[], Callable[[Piece], Result]]

_PATIENCE_S = 5.0


class Processes(Generic[Piece, Result]):
    """A context: leaving it ends the processes, whatever they do.

    method: "fork" where they may go on with what this one has loaded, "spawn" where not.
    """

    def __init__(self, make: Make[Piece, Result], n: int, method: Literal["fork", "spawn"]) -> None:
        context: Any = multiprocessing.get_context(method)
        self._connections: list[Connection] = []
        self._processes = []
        for number in range(n):
            ours, theirs = context.Pipe()
            # A fork inherits our ends; held open there, they would hide that we are gone.
            inherited = [*self._connections, ours] if method == "fork" else []
            process = context.Process(
                target=_work, args=(make, theirs, inherited), name=f"tabserve-score-{number}",
                daemon=True,
            )  # fmt: skip
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "Processes[Piece, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(_PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()

    def results(self, pieces: Iterable[Piece]) -> Iterator[Result]:
        """In the order in which they come. There are never more pieces at once than processes, and
        the one that is read next. Raises ScoreError where a process ended, or what one raised.
        """
        free, busy = list(self._connections), set[Connection]()
        for piece in pieces:
            while not free:
                for connection in self._ready(busy):
                    busy.remove(connection)
                    free.append(connection)
                    yield self._received(connection)
            connection = free.pop()
            try:
                connection.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                raise self._ended(connection) from None
            busy.add(connection)
        while busy:
            for connection in self._ready(busy):
                busy.remove(connection)
                yield self._received(connection)

    def _ready(self, busy: set[Connection]) -> list[Connection]:
        return [found for found in wait(list(busy)) if isinstance(found, Connection)]

    def _received(self, connection: Connection) -> Result:
        try:
            result: Result | BaseException = connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended(connection) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def _ended(self, connection: Connection) -> ScoreError:
        process = self._processes[self._connections.index(connection)]
        process.join(_PATIENCE_S)
        return ScoreError(
            f"A process that scored ended ({_how(process.exitcode)}). What is done is kept: go on "
            "with --resume, with fewer --processes or a smaller --chunk where memory ran out."
        )


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


def _work(make: Make[Any, Any], connection: Connection, inherited: list[Connection]) -> None:
    # Of Ctrl-C the first process says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    threading.Thread(target=_end_with_the_first, name="tabserve-score-end", daemon=True).start()
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            piece = connection.recv()
        except (EOFError, OSError):
            return
        try:
            work = work or make()
            result = work(piece)
        except OperatorError as error:
            result = ScoreError(str(error))
        except Exception as error:  # noqa: BLE001 - told to the first process, which ends the run
            result = ScoreError(f"Scoring failed: {type(error).__name__}: {error}")
        try:
            connection.send(result)
        except OSError:
            return


def _end_with_the_first() -> None:
    """What nobody waits for any more, another run does anew."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)
