"""The onnx engine: onnxruntime computes the lowered graph, to the same bits alone as in a batch."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tabserve import runtime
from tabserve.artifact import GRAPH, REFUSED
from tabserve.lowered import ROUNDED, UNKNOWN, Lowered
from tabserve.output import Target
from tabserve.signature import LARGEST_ADMITTED, Signature, unusable
from tabserve.types import Array, Outputs, Parts, Values

# Rows from which several threads are worth their start.
ROWS_FOR_THREADS = 256
# Rows from which their order is worth making; onnxruntime takes 128 at a time through each tree.
ROWS_TO_SORT = 256


class OnnxEngine:
    """graph: the file that gives the scores of each target.
    refused: the file of the values that scikit-learn refuses where they are not finite.
    threads: that a large batch may use.
    """

    name = "onnx"
    reentrant = True

    def __init__(
        self,
        graph: bytes,
        refused: bytes | None,
        lowered: Lowered,
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
        threads: int = 1,
    ) -> None:
        self._lowered = lowered
        self._signature = signature
        self._scores = runtime.session(graph, GRAPH)
        self._refused = None if refused is None else runtime.session(refused, REFUSED)
        (self._input,) = (given.name for given in self._scores.get_inputs())
        self._names = [given.name for given in self._scores.get_outputs()]
        # What the session itself calls after checks of its own, which take a third as long again as
        # one row does.
        self._run = self._scores._sess.run
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = 0
        self._outputs = lowered.linked(targets, parts)
        self._codes = lowered.codes(signature)
        # Of what the signature admits as it is.
        self._cannot_overflow = refused is None or lowered.safe_below > LARGEST_ADMITTED
        self._is_plain = self._cannot_overflow and not any(
            feature.dtype in ROUNDED for feature in signature.features
        )
        self._one_row = _OneRow(self._scores, len(signature.features))

    def predict(self, values: Values) -> Outputs:
        """Raises InvalidInput where scikit-learn would find that a number is none any more."""
        first = values[self._codes[0][0]]
        if self._is_plain and len(first) == 1 and type(first) is not np.ndarray:
            return self._outputs(self._one_row.scores(self._row(values)))
        matrix = self._lowered.matrix(self._signature, values)
        if self._refused is not None and self._may_overflow(values, matrix):
            found = self._refused.run(None, {self._input: matrix})
            is_refused = np.any([np.isinf(part).any(axis=1) for part in found], axis=0)
            if is_refused.any():
                rows = np.flatnonzero(is_refused).tolist()
                raise unusable(self._signature.arrays(values), rows)
        if self._lowered.cuts and len(matrix) >= ROWS_TO_SORT:
            scores = self._sorted(matrix)
        else:
            scores = self._computed(matrix)
        return self._outputs(scores)

    def _sorted(self, matrix: Array) -> list[Array]:
        """Rows that go the same ways one after another: a tree then finds the way in the caches,
        and the processor guesses it.
        """
        order = self._lowered.alike(matrix)
        scores = []
        for found in self._computed(matrix[order]):
            score = np.empty_like(found)
            score[order] = found
            scores.append(score)
        return scores

    def _computed(self, matrix: Array) -> list[Array]:
        if self._threads > 1 and len(matrix) >= ROWS_FOR_THREADS:
            return self._in_threads(matrix)
        scores: list[Array] = self._run(self._names, {self._input: matrix}, None)
        return scores

    def _row(self, values: Values) -> list[Any]:
        """Of one row whose values are numbers or codes as they stand; None where missing."""
        return [
            values[name][0] if codes is None else codes.get(values[name][0], UNKNOWN)
            for name, codes in self._codes
        ]

    def _in_threads(self, matrix: Array) -> list[Array]:
        """Rows are shared out here, and not by onnxruntime: its own threads share out trees too,
        and add their sums in another order.
        """
        if self._pool is None or self._pool_of != os.getpid():  # threads do not outlive a fork
            self._pool = ThreadPoolExecutor(self._threads, "tabserve-engine")
            self._pool_of = os.getpid()
        shares = np.array_split(matrix, self._threads)
        found = self._pool.map(
            lambda part: self._run(self._names, {self._input: part}, None), shares
        )
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _may_overflow(self, values: Values, matrix: Array) -> bool:
        if self._cannot_overflow and not any(isinstance(v, np.ndarray) for v in values.values()):
            return False
        # A NaN, which is a missing value, is not large.
        return bool((np.abs(matrix) >= self._lowered.safe_below).any())


class _OneRow(threading.local):
    """The call for one row, into arrays that stay: half of what onnxruntime takes for it is making
    its inputs and outputs. Each thread has its own.
    """

    def __init__(self, session: Any, n_features: int) -> None:
        self._row = np.zeros((1, n_features))
        (given,), names = session.get_inputs(), [output.name for output in session.get_outputs()]
        self._scores: list[Array] = session.run(names, {given.name: self._row})
        binding = session.io_binding()
        _bind(binding.bind_input, given.name, self._row)
        for name, scores in zip(names, self._scores, strict=True):
            _bind(binding.bind_output, name, scores)
        self._binding = binding._iobinding
        self._run = session._sess.run_with_iobinding

    def scores(self, row: list[Any]) -> list[Array]:
        self._row[0] = row
        self._run(self._binding, None)
        return [scores.copy() for scores in self._scores]


def _bind(bind: Any, name: str, array: Array) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def safe_below(refused: bytes, n_features: int) -> float:
    """A limit below which no combination of inputs was found that makes something infinite."""
    session = runtime.session(refused, REFUSED)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(64, n_features))
    signs[0], signs[1] = 1.0, -1.0
    for limit in (1e30, 1e15, 1e7):
        found = session.run(None, {session.get_inputs()[0].name: limit * signs})
        if all(np.isfinite(values).all() for values in found):
            return limit
    return 0.0
