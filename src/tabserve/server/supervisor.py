"""Forks the workers, replaces those that die or hang, and passes on when to stop.

The model is loaded before the fork, so that workers share its memory and a new one is there at
once. This process answers no request: it has no event loop, and no thread that a fork would lose.
"""

import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NoReturn

from tabserve import temporary
from tabserve.errors import OperatorError
from tabserve.server.listening import Listener
from tabserve.server.run_folder import RunFolder
from tabserve.server.starting import (
    LOADING_S,
    REFUSED,
    STOPPING,
    freeze,
    heeded,
    refuse,
    started,
    tell_stopping,
)
from tabserve.server.worker import ENDING, STUCK, Worker

if TYPE_CHECKING:
    from tabserve.service import Service

logger = logging.getLogger("tabserve")

# A worker that says nothing for so long is killed. Large imports on a busy machine take seconds.
_HANGING_S = 10.0
# Not more often is a worker begun in the place of one that died.
_AGAIN_S = 1.0
_LOOK_S = 0.5
# Between two looks no more time is taken to have passed for the workers: in more than that this
# process was stopped itself, as by Ctrl-Z or with its container, and they most likely too.
_MOST_PASSED_S = 2 * _LOOK_S
# Beyond what a worker gives itself to stop.
_PATIENCE_S = 10.0


# What the process is replaced for that answers until the model is loaded.
_LOADED = "loaded"


@dataclass
class _Child:
    """A worker as its parent sees it.

    hangs_at: unless it says something before, by the supervisor's own clock. replaced_for: why
    another one has its place, though it may be there still.
    """

    pid: int
    end: socket.socket
    hangs_at: float
    replaced_for: str = ""


class Supervisor:
    def __init__(self, service: "Service", listeners: list[Listener]) -> None:
        self._service = service
        self._listeners = listeners
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._is_refused = False
        run_dir = service.settings.run_dir
        self._run_folder = None if run_dir is None else RunFolder(run_dir)
        self._lacks_run_folder = False
        self._begun = 0.0  # the last of them
        self._looked = time.monotonic()
        self._now = 0.0  # seconds that workers had for saying something

    def run(self) -> int:
        """Until a signal ends it; gives back the exit code. Raises what refuses the model."""
        with self._doorkeeper():
            self._service.preload()
            freeze()
            self._heed_signals()
            for _ in range(self._service.settings.workers):
                self._begin()
        while not self._is_ending:
            self._listen()
            self._reap()
            self._kill_hanging()
            self._keep_run_folder()
            self._begin_missing()
        return self._stopped()

    @contextmanager
    def _doorkeeper(self) -> Iterator[None]:
        """A process that says of itself that it is loading, while this one does."""
        doorkeeper = self._begin(is_doorkeeper=True)
        try:
            yield
        finally:
            os.kill(doorkeeper.pid, signal.SIGTERM)
            if not self._children.keys() - {doorkeeper.pid}:  # what was loaded is refused
                os.waitpid(doorkeeper.pid, 0)

    def _heed_signals(self) -> None:
        woken, self._wakes = socket.socketpair()
        for end in (woken, self._wakes):
            end.setblocking(False)
        self._selector.register(woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for number in heeded():
            signal.signal(number, lambda number, _: self._told(number))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it only wakes

    def _told(self, number: int) -> None:
        if number != signal.SIGHUP or not self._signals:  # see the worker's
            self._signals.append(number)

    def _begin(self, is_doorkeeper: bool = False) -> _Child:
        self._begun = time.monotonic()
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        # Until it has handlers of its own: one of these, told to ours, would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(ours, theirs, is_doorkeeper)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            theirs.close()
        child = _Child(pid, ours, hangs_at=self._now + LOADING_S + _HANGING_S)
        if is_doorkeeper:  # the workers have its place, however long they take
            child.hangs_at, child.replaced_for = inf, _LOADED
        self._children[pid] = child
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _be_worker(
        self, ours: socket.socket, theirs: socket.socket, is_doorkeeper: bool
    ) -> NoReturn:
        exit_code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, lambda *_: temporary.end(0))  # nothing is begun yet
            # Ctrl-C reaches all processes of a terminal, and so does its end: it is for this one's
            # parent to say what follows from it.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            self._selector.close()
            # Whoever holds such an end keeps its worker from seeing that the supervisor is gone.
            for end in (ours, *(child.end for child in self._children.values())):
                end.close()
            if is_doorkeeper:
                self._service.hold()
            else:
                self._service.metrics.keep()  # fails here, and not with each request
                self._service.catch_up()
                started(self._service, REFUSED)
            Worker(self._service, self._listeners, theirs).run()
            exit_code = 0
        except OperatorError as error:
            exit_code = REFUSED
            if not is_doorkeeper:  # a worker will find the same, and say it
                refuse(error, REFUSED)
        except OSError as error:  # such as a disk that is full: it is tried again
            logger.error("A worker could not begin: %s", error)
        except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(exit_code)

    def _listen(self) -> None:
        """To workers and signals, for a moment."""
        for key, _ in self._selector.select(_LOOK_S):
            with suppress(OSError):
                said = key.fileobj.recv(4096)  # type: ignore[union-attr]
                if key.data is not None:
                    self._heard(key.data, said)

    def _heard(self, child: _Child, said: bytes) -> None:
        if not said:  # it is ending, or has ended
            self._selector.unregister(child.end)
        elif ENDING in said or STUCK in said:
            child.hangs_at = self._now + self._stopping_s
            self._replace(child, "stuck" if STUCK in said else "ended")
        else:
            child.hangs_at = self._now + _HANGING_S

    def _reap(self) -> None:
        for child in list(self._children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            exit_code = os.waitstatus_to_exitcode(status)
            is_refused = exit_code == REFUSED and child.replaced_for != _LOADED
            if is_refused and not self._others_answer(child):
                self._is_refused = True
            self._replace(child, "ended" if exit_code >= 0 else "killed")
            del self._children[pid]
            self._service.metrics.fold(pid)
            with suppress(KeyError):
                self._selector.unregister(child.end)
            child.end.close()

    def _others_answer(self, child: _Child) -> bool:
        """Whether there are workers that began with a model which a later one is refused."""
        others = [each for each in self._children.values() if each is not child]
        return (
            self._run_folder is not None
            and self._run_folder.has_been_ready
            and any(not each.replaced_for for each in others)
        )

    def _kill_hanging(self) -> None:
        now = time.monotonic()
        self._now += min(now - self._looked, _MOST_PASSED_S)
        self._looked = now
        for child in self._children.values():
            if self._now > child.hangs_at:
                self._replace(child, "hanging")
                os.kill(child.pid, signal.SIGKILL)
                child.hangs_at = inf

    def _replace(self, child: _Child, reason: str) -> None:
        """Take note of it: another one is begun once there is time."""
        if not (child.replaced_for or self._is_ending):
            child.replaced_for = reason
            logger.warning("Worker %d is replaced (%s)", child.pid, reason)
            self._service.metrics.workers_replaced.labels(reason).inc()

    def _keep_run_folder(self) -> None:
        if self._run_folder is None:
            return
        try:
            self._run_folder.keep()
            self._service.metrics.keep()
        except OSError as error:
            if not self._lacks_run_folder:
                logger.warning("The run folder cannot be made again: %s", error)
            self._lacks_run_folder = True
        else:
            self._lacks_run_folder = False

    def _begin_missing(self) -> None:
        present = [child for child in self._children.values() if not child.replaced_for]
        missing = self._service.settings.workers - len(present)
        if missing and not self._is_ending and time.monotonic() - self._begun >= _AGAIN_S:
            try:
                for _ in range(missing):
                    self._begin()
            except OSError as error:  # what took the worker's memory may take this one's still
                logger.warning("No worker can be begun at the moment: %s", error.strerror)

    @property
    def _is_ending(self) -> bool:
        return bool(self._signals) or self._is_refused

    @property
    def _stopping_s(self) -> float:
        """As long as a worker may take to stop."""
        settings = self._service.settings
        return settings.drain_delay + 2 * settings.deadline + _PATIENCE_S

    def _stopped(self) -> int:
        """The exit code, once all workers have ended."""
        if self._signals:
            tell_stopping(self._signals[0])
        for listener in self._listeners:
            listener.socket.close()  # the workers' own are open still
        for child in self._children.values():
            os.kill(child.pid, signal.SIGTERM)
        n_signals = len(self._signals)
        ends = time.monotonic() + self._stopping_s
        while self._children and len(self._signals) == n_signals and time.monotonic() < ends:
            self._listen()
            self._reap()
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        if self._is_refused:
            return 2
        return 128 + self._signals[-1] if len(self._signals) > n_signals else 0
