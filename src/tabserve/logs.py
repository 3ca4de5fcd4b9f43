"""The log of requests and predictions: one JSON line each, written by a thread of its own."""

import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from tabserve.errors import InvalidSettings
from tabserve.lines import Lines, encoded
from tabserve.redaction import redacted

LogLine = dict[str, Any]
# Makes the lines of one request, later: building them costs more than all else of logging.
LogLines = Callable[[], Iterable[LogLine] | Lines]

# Lines that may wait for a slow disk or terminal before further ones are dropped: some 10 MB; and
# the bodies of their requests, for features may be long texts.
MAX_WAITING = 20_000
MAX_BYTES_WAITING = 64 * 2**20
# Lines written at a time, while others may come.
_MOST_AT_ONCE = 1000
# For so long lines gather before they are written: a thread that wakes for each of them takes the
# interpreter's lock from the requests as often.
_GATHER_S = 0.05
# Requests whose lines are worth making together, and the most lines that such a one may have.
_WORTH_MAKING = 16
_FEW_LINES = 8
# So many bytes Linux writes to a pipe in one piece, and to a file any number.
_PIPE_BUF = 4096
_MOST_BYTES_AT_ONCE = 2**18


class RequestLog:
    """target: a file (appended to, and begun anew where it was moved or deleted), "-" for standard
    output, or "off".

    hide: names of features, echoes and results that no line shows. on_drop: told how many lines are
    lost.
    """

    def __init__(
        self,
        target: str = "-",
        hide: Iterable[str] = (),
        on_drop: Callable[[int], None] = lambda lost: None,
    ) -> None:
        self._hide = frozenset(hide)
        self._on_drop = on_drop
        # How the lines of each request are made, how many they are, and the size of its body.
        self._unmade: deque[tuple[LogLines, int, int]] = deque()
        # Some lines, and how many of what waits no longer once they are written.
        self._made: deque[tuple[bytes, int, int]] = deque()
        self._making = threading.Lock()
        self._n_waiting = self._n_bytes_waiting = 0
        self._lock = threading.Lock()  # of the numbers
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._descriptor = _opened(target)
        self._piece = 0 if self._descriptor is None else _piece(self._descriptor)
        self._owned = target not in ("-", "off")
        # Wherever the code of a model may go.
        self._path = Path(target).absolute() if self._owned else None
        self._has_failed = False  # to write a line, or its end
        self._thread: threading.Thread | None = None
        if self._descriptor is not None:
            self._thread = threading.Thread(
                target=self._work, args=(self._descriptor,), name="tabserve-log", daemon=True
            )
            self._thread.start()

    def write(self, lines: LogLines, n_lines: int = 1, n_bytes: int = 0) -> None:
        """Returns at once. n_lines: as many as `lines` will make. n_bytes: of the body that they
        are made of.
        """
        if self._descriptor is None:
            return
        with self._lock:
            is_full = self._n_waiting > 0 and (
                self._n_waiting + n_lines > MAX_WAITING
                or self._n_bytes_waiting + n_bytes > MAX_BYTES_WAITING
            )
            if not is_full:
                self._n_waiting += n_lines
                self._n_bytes_waiting += n_bytes
        if is_full:
            self._on_drop(n_lines)
            return
        self._unmade.append((lines, n_lines, n_bytes))
        self._wake_up()

    def make_ready(self) -> None:
        """Make lines of many small requests in this thread, if they wait.

        For an event loop that has sent their answers: the log's own thread, which would have to
        take the interpreter's lock for it, needs twice as long.
        """
        if len(self._unmade) >= _WORTH_MAKING and self._making.acquire(blocking=False):
            try:
                self._make(_FEW_LINES)
            finally:
                self._making.release()
            self._wake_up()  # it may have looked while one was neither unmade nor made

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits, then end the thread; one whose reader has stopped is left behind."""
        if self._thread is not None:
            self._closing.set()
            self._wake.set()
            self._thread.join(timeout_s)
            if self._owned and self._descriptor is not None and not self._thread.is_alive():
                os.close(self._descriptor)
            self._thread = self._descriptor = None

    def _wake_up(self) -> None:
        """After what is to be done: the thread forgets that it was woken before it looks."""
        if not self._wake.is_set():  # to ask costs a tenth
            self._wake.set()

    def _work(self, descriptor: int) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            closing = self._closing.wait(_GATHER_S)
            self._wake.clear()
            while self._unmade or self._made:
                with self._making:
                    self._make()
                self._follow(descriptor)
                self._write_made(descriptor)

    def _make(self, most_lines: float = inf) -> None:
        """Of the requests that have no more lines, up to one that has; in their order."""
        n_made = 0
        while self._unmade and n_made < _MOST_AT_ONCE and self._unmade[0][1] <= most_lines:
            make, n_lines, n_bytes = self._unmade.popleft()
            n_made += n_lines
            try:
                *texts, last = self._encoded(make()) or [b""]
            except Exception:  # noqa: BLE001 - those of the other requests must go on
                self._on_drop(n_lines)
                texts, last = [], b""
            self._made.extend((text, 0, 0) for text in texts)
            self._made.append((last, n_lines, n_bytes))

    def _write_made(self, descriptor: int) -> None:
        texts, size, n_lines, n_bytes = [], 0, 0, 0
        while self._made and size < _MOST_BYTES_AT_ONCE:
            text, n_lines_done, n_bytes_done = self._made.popleft()
            texts.append(text)
            size += len(text)
            n_lines += n_lines_done
            n_bytes += n_bytes_done
        self._write(descriptor, redacted(b"".join(texts)))
        with self._lock:
            self._n_waiting -= n_lines
            self._n_bytes_waiting -= n_bytes

    def _encoded(self, lines: Iterable[LogLine] | Lines) -> list[bytes]:
        if isinstance(lines, Lines):
            return (lines.without(self._hide) if self._hide else lines).encoded()
        return [encoded(line) for line in lines]

    def _follow(self, descriptor: int) -> None:
        """Begin the file anew where somebody has moved or deleted it, as logrotate does."""
        if self._path is None:
            return
        ours = os.fstat(descriptor)
        with suppress(OSError):  # it goes on with what it has
            try:
                is_there = os.path.samestat(self._path.stat(), ours)
            except FileNotFoundError:
                is_there = False
            if not is_there and stat.S_ISREG(ours.st_mode):
                another = _appending(self._path)
                os.dup2(another, descriptor, inheritable=False)
                os.close(another)

    def _write(self, descriptor: int, text: bytes) -> None:
        """Whole lines at a time, so that those of several workers do not mix: in a file none does,
        in a pipe none that is shorter than what the system writes in one piece.
        """
        n_written = end = 0
        try:
            if self._has_failed and _is_amid_line(descriptor):
                os.write(descriptor, b"\n")
            self._has_failed = False
            for piece in _pieces(text, self._piece):
                end += len(piece)
                while n_written < end:
                    n_written += os.write(descriptor, text[n_written:end])
        except OSError:  # the disk is full, or the reader of the pipe is gone
            self._on_drop(text.count(b"\n", n_written))
            self._has_failed = True


def _piece(descriptor: int) -> int:
    """Bytes that are written at a time without those of another process between them."""
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    return _MOST_BYTES_AT_ONCE if is_file else _PIPE_BUF


def _pieces(text: bytes, most: int) -> Iterator[bytes]:
    """As many lines at a time as have no more bytes than `most`, and at least one."""
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + most) + 1 or text.index(b"\n", start) + 1
        yield text[start:end]
        start = end


def _opened(target: str) -> int | None:
    if target == "off":
        return None
    if target == "-":
        sys.stdout.flush()
        return 1
    try:
        return _appending(Path(target))
    except OSError as error:
        raise InvalidSettings(f"Cannot write the log {target}: {error.strerror}.") from None


def _is_amid_line(descriptor: int) -> bool:
    """Whether what this or another process wrote last to the file has no end: a line behind that
    would be lost with it.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return False
    with suppress(OSError), Path(f"/proc/self/fd/{descriptor}").open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
    return False


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
