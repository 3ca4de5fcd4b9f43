"""Folders that go with the process that made them, however it ends."""

import os
import posix
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

_makers: dict[Path, int] = {}  # ids of processes


@contextmanager
def folder() -> Iterator[Path]:
    """It is there until the end of `with`, or of the process by `end`."""
    path = Path(tempfile.mkdtemp(prefix="tabserve-"))
    _makers[path] = os.getpid()
    try:
        yield path
    finally:
        _remove(path)


def end(exit_code: int) -> NoReturn:
    """At once, from a signal's handler.

    An exception would be lost where it meets an import's lock, and leave that taken; and a thread
    that is in a library, loading a model, must not meet an interpreter that ends. What was put in
    the place of os._exit, as coverage.py does, may wait for a lock that this thread holds.
    """
    for path in [*_makers]:
        _remove(path)
    posix._exit(exit_code)


def _remove(path: Path) -> None:
    if _makers[path] == os.getpid():  # one that was forked comes by here too
        # Else what such a process makes in it meanwhile would stay, and it with that.
        gone = path.with_name(f"{path.name}-gone")
        with suppress(OSError):
            path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    del _makers[path]  # not before: a signal may come meanwhile, whose handler removes the rest
