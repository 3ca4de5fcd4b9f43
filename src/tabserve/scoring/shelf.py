"""Tables in memory that forked processes share: each box is made by one of them, once."""

import mmap
import multiprocessing
from collections.abc import Iterator

import numpy as np

from tabserve.scoring.making import Box, place_type
from tabserve.types import Array

_FREE, _BEING_MADE, _LEFT = 0, -1, -2
_ALIGNED = 8


class Shelf:
    """To be made before the processes are. Boxes are called by numbers up to n_boxes.

    n_bytes: of all boxes; memory is taken as they come, and past it they are left.
    """

    def __init__(self, n_boxes: int, n_bytes: int) -> None:
        self._lock = multiprocessing.get_context("fork").Lock()
        self._content = np.frombuffer(mmap.mmap(-1, n_bytes), dtype=np.uint8)
        # Of each box what is with it, or where it begins; then where there is room.
        self._places = np.frombuffer(mmap.mmap(-1, 8 * (n_boxes + 1)), dtype=np.int64)
        self._places[-1] = _ALIGNED

    def claim(self, boxes: Array, n: int) -> Array:
        """The first n that nobody has claimed: from now on they are the caller's to put. None once
        one had no room.
        """
        with self._lock:
            if self._places[-1] >= len(self._content):
                return boxes[:0]
            found: Array = boxes[self._places[boxes] == _FREE][:n]
            self._places[found] = _BEING_MADE
        return found

    def put(self, number: int, box: Box | None) -> None:
        """None: there will be no such box."""
        parts = [] if box is None else list(_parts(box))
        n_bytes = sum(_aligned(part.nbytes) for part in parts)
        with self._lock:
            start = int(self._places[-1])
            has_room = start + n_bytes <= len(self._content)
            if box is None or not has_room:
                self._places[number] = _LEFT
                self._places[-1] = start if has_room else len(self._content)
                return
            self._places[-1] = start + n_bytes
        at = start
        for part in parts:
            self._content[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
            at += _aligned(part.nbytes)
        with self._lock:
            self._places[number] = start

    def get(self, number: int) -> Box | None:
        """None as long as it is not there."""
        with self._lock:
            at = int(self._places[number])
        if at <= _FREE:
            return None

        def part(n: int, dtype: type) -> Array:
            nonlocal at
            start, at = at, at + _aligned(n * np.dtype(dtype).itemsize)
            return self._content[start : start + n * np.dtype(dtype).itemsize].view(dtype)

        n_cells, n_trees, n_offsets = part(3, np.int64).tolist()
        weights = part(n_cells, np.float64)
        offsets = []
        for _ in range(n_offsets):
            feature, n_intervals, n_rows = part(3, np.int64).tolist()
            rows = part(n_intervals, np.uint16)
            table = part(n_rows * n_trees, place_type(n_cells)).reshape(-1, n_trees)
            offsets.append((feature, rows, table))
        return Box(offsets, weights)


def _parts(box: Box) -> Iterator[Array]:
    n_trees = box.offsets[0][2].shape[1] if box.offsets else 0
    yield np.array([len(box.weights), n_trees, len(box.offsets)])
    yield box.weights
    for feature, rows, table in box.offsets:
        yield np.array([feature, len(rows), len(table)])
        yield rows
        yield table


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNED) * _ALIGNED
