"""Rate limits that count together over all workers of one server.

Counters lie in a memory-mapped file. Limiters that keep them in each process admit N times the rate
with N workers; the locks here are the kernel's and are freed when a worker dies.
"""

import fcntl
import hashlib
import mmap
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

from tabserve.errors import InvalidSettings
from tabserve.mapped import reserve
from tabserve.settings import Rate

# A slot: the client's digest, when its window began (seconds), requests in it.
_SLOT = struct.Struct("<16sdQ")
_N_SLOTS = 1 << 16  # 2 MiB: as many clients as are counted apart
_PROBES = 8  # neighbouring slots that a client may use


class Limiter(Protocol):
    """Counts what it is asked to admit, here or elsewhere: where that takes time, it gives back
    what to wait for.
    """

    rate: Rate

    def admit(self, client: str, n: int = 1) -> float | Future[float]: ...


class RateLimiter:
    """path: the file that the workers share; None counts in this process alone.

    clock: monotonic, and the same for all processes of the machine. Raises InvalidSettings where
    the file cannot be made.
    """

    def __init__(
        self, rate: Rate, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._thread_lock = threading.Lock()  # file locks are between processes only
        size = _N_SLOTS * _SLOT.size
        self._file = None if path is None else _opened(path, size)
        self._slots = mmap.mmap(-1 if self._file is None else self._file.fileno(), size)

    def admit(self, client: str, n: int = 1) -> float:
        """Count `n`; 0.0 if that is admitted, else the seconds until the next one may be. n: 0 asks
        whether one would be.
        """
        digest = hashlib.blake2b(client.encode(), digest_size=16).digest()
        with self._thread_lock:
            if self._file is None:
                return self._count(digest, n)
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                return self._count(digest, n)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        self._slots.close()
        if self._file is not None:
            self._file.close()

    def _count(self, digest: bytes, n: int) -> float:
        now = self._clock()
        offset, began, count = self._slot(digest, now)
        if count + (n or 1) > self.rate.count:
            return began + self.rate.period_s - now
        if n:
            _SLOT.pack_into(self._slots, offset, digest, began, count + n)
        return 0.0

    def _slot(self, digest: bytes, now: float) -> tuple[int, float, int]:
        """Offset, start of the window and count for this client.

        Where all its slots are other clients', the oldest window gives way: with so many clients
        at once a limit forgets somebody rather than refuse the innocent.
        """
        first = int.from_bytes(digest[:4], "little")
        oldest = (0, float("inf"))
        for probe in range(_PROBES):
            offset = (first + probe) % _N_SLOTS * _SLOT.size
            owner, began, count = _SLOT.unpack_from(self._slots, offset)
            # A window of the future was begun before the machine was: its clock starts anew.
            expired = count == 0 or not 0 <= now - began < self.rate.period_s
            if owner == digest:
                return (offset, now, 0) if expired else (offset, began, count)
            age = float("-inf") if expired else began
            if age < oldest[1]:
                oldest = (offset, age)
        return (oldest[0], now, 0)


def _opened(path: Path, n_bytes: int) -> BinaryIO:
    try:
        with ExitStack() as unless_whole:
            file = unless_whole.enter_context(path.open("a+b"))
            reserve(file.fileno(), n_bytes)
            unless_whole.pop_all()
            return file
    except OSError as error:
        raise InvalidSettings(f"Cannot count in {path}: {error.strerror}.") from None
