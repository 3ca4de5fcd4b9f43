"""Files that processes map into their memory."""

import os


def reserve(descriptor: int, n_bytes: int) -> None:
    """Space on the disk for as many: writing to a mapping ends the process (SIGBUS) where the disk
    is full by then. Raises OSError.
    """
    if os.fstat(descriptor).st_size < n_bytes:
        # Not in macOS.
        getattr(os, "posix_fallocate", _lengthen)(descriptor, 0, n_bytes)


def _lengthen(descriptor: int, start: int, n_bytes: int) -> None:
    os.truncate(descriptor, start + n_bytes)
