"""What glibc keeps of memory that is free; with another C library nothing is done."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8  # malloc.h


def keep_one() -> None:
    """One heap for all threads, in this process and those forked from it; to be called before there
    are threads.

    Each version is loaded, and computed, in threads of its own, and glibc would give these up to
    eight heaps for each CPU. Of each some pages stay: under reloads a worker grew by 20 MiB.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """What was needed to read a model and not to hold it: for the churn example 24 of a server's
    127 MiB. Takes 3 ms.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
