"""A thread that does one thing after another, and looks around while it is told nothing."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Jobs:
    """first: what it begins with. between: what it does whenever it was told nothing for rest_s.
    Neither raises.
    """

    def __init__(
        self, name: str, first: Callable[[], None], between: Callable[[], None], rest_s: float
    ) -> None:
        self._name = name
        self._first = first
        self._between = between
        self._rest_s = rest_s
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def end(self, timeout_s: float | None = None) -> None:
        """Finish what is queued, if that takes no longer; `start` begins anew."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def do(self, action: Callable[[], T]) -> "Future[T]":
        """What the action comes to, in the thread."""
        future: Future[T] = Future()
        self._queue.put(lambda: _do(action, future))
        return future

    def _work(self) -> None:
        self._first()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """False at the end. Nothing that a job has let go of stays in a variable of the thread."""
        try:
            job = self._queue.get(timeout=self._rest_s)
        except queue.Empty:
            self._between()
            return True
        if job is not None:
            job()
        return job is not None


def done(action: Callable[[], T]) -> "Future[T]":
    """What the action comes to, in this thread."""
    future: Future[T] = Future()
    _do(action, future)
    return future


def _do(action: Callable[[], T], future: "Future[T]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(action())
    except Exception as error:  # noqa: BLE001 - handed to whoever waits
        future.set_exception(error)
