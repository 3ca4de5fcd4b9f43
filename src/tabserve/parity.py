"""Parity: does an engine give the original model's outputs, in its exactness class?"""

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tabserve.artifact import GOLDEN, Exactness, GoldenRows
from tabserve.errors import ArtifactError, InvalidInput, NotReproduced
from tabserve.signature import Signature
from tabserve.types import Array, Columns, Engine, Outputs, Values, concatenate, n_rows

# `close`: at most this times the scale, which is 1 for probabilities and else the largest golden
# output. BLAS, exp, log and pow differ in the last digits with batch size, CPU and library.
CLOSE = 1e-12

# Batches that requests make when they are joined: one, a few, and more than a SIMD lane or a
# BLAS block holds.
BATCH_SIZES = (1, 7, 64)

_ELSEWHERE = (
    "The libraries or the CPU are not those it was packed with; pack it again here, or install the "
    "versions that its manifest names."
)


@dataclass(frozen=True)
class Difference:
    """The first row that differs beyond the class, and the largest difference of all rows."""

    row: int
    part: str
    expected: Any
    found: Any
    amount: float | None = None  # of numbers

    @property
    def by(self) -> str:
        return "" if self.amount is None else f", which is {self.amount:g} apart"


@dataclass(frozen=True)
class Comparison:
    max_difference: float
    difference: Difference | None


def compare(
    expected: Outputs,
    found: Outputs,
    exactness: Exactness,
    golden: Outputs | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """expected and found: the same parts, each of shape (n_rows, ...).
    golden: usual outputs, whose largest is the scale; `expected` where left out.
    tolerance: of the class of that name.

    Labels must be equal in all classes, and what is no finite number in the one must be none in
    the other. Raises NotReproduced where parts or shapes differ.
    """
    if found.keys() != expected.keys():
        raise NotReproduced(
            f"The model gives {', '.join(sorted(found))}, and its golden rows hold "
            f"{', '.join(sorted(expected)) or 'nothing'}."
        )
    within = {"bits": 0.0, "close": CLOSE, "tolerance": tolerance or 0.0}[exactness]
    largest = 0.0
    first: Difference | None = None
    for part, wanted in expected.items():
        got = found[part]
        if got.shape != wanted.shape:
            raise NotReproduced(
                f"The model gives {part} in the shape {got.shape}, and its golden rows hold "
                f"{wanted.shape}."
            )
        if wanted.dtype.kind == "f":
            allowed = _allowed(part, wanted, within, (golden or expected)[part])
            wrong, differences = _differing(wanted, got, allowed)
            largest = max(largest, float(differences.max(initial=0.0)))
        else:
            wrong, differences = wanted.astype(object) != got.astype(object), None
        rows = wrong.reshape(len(wanted), -1).any(axis=1)
        if rows.any() and first is None:
            row = int(rows.argmax())
            amount = None if differences is None else float(np.max(differences[row]))
            first = Difference(row, part, wanted.tolist()[row], got.tolist()[row], amount)
    return Comparison(largest, first)


def _differing(wanted: Array, got: Array, allowed: float | Array) -> tuple[Array, Array]:
    """Where two arrays of floats are not the same number, and by how much they differ."""
    finite = np.isfinite(wanted)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        differences = np.where(finite, np.abs(got - wanted), 0.0)
    # A NaN is never within the class.
    return ~(differences <= allowed) | (finite != np.isfinite(got)), differences


def _allowed(part: str, expected: Array, within: float, golden: Array) -> float | Array:
    if within == 0.0 or part.rpartition(".")[2] == "proba":
        return within
    scale = np.abs(golden).max(initial=0.0)
    allowed: Array = within * np.maximum(scale, np.abs(expected))
    return allowed


def in_batches(engine: Engine, columns: Columns, size: int) -> Outputs:
    """The outputs of all rows, computed `size` rows at a time."""
    parts = [
        engine.predict({name: column[start : start + size] for name, column in columns.items()})
        for start in range(0, n_rows(columns), size)
    ]
    return concatenate(parts)


def rows_of(columns: Columns, chosen: Any) -> Columns:
    """chosen: a slice, places or a mask."""
    return {name: column[chosen] for name, column in columns.items()}


def answered(engine: Engine, columns: Columns) -> tuple[Array, Outputs | None]:
    """A mask of the rows that the engine answers, and its outputs on those.

    Whatever a library raises on one row it raises on a batch with it, so halves are tried.
    """
    rows = n_rows(columns)
    try:
        return np.ones(rows, dtype=bool), engine.predict(columns)
    except Exception:  # noqa: BLE001 - whatever the library raises: it does not answer the row
        if rows == 1:
            return np.zeros(1, dtype=bool), None
    halves = [
        answered(engine, rows_of(columns, half))
        for half in (slice(0, rows // 2), slice(rows // 2, rows))
    ]
    outputs = [outputs for _, outputs in halves if outputs is not None]
    return np.concatenate([mask for mask, _ in halves]), concatenate(outputs) if outputs else None


def columns_of(signature: Signature, rows: list[dict[str, Any]]) -> Columns:
    """Raises ArtifactError, naming the row, where one does not fit the signature."""
    names = {feature.name for feature in signature.features}
    for i, row in enumerate(rows):
        if row.keys() != names:
            raise ArtifactError(f"Row {i + 1} of {GOLDEN} has other features than the model.")
    try:
        return signature.columns({name: [row[name] for row in rows] for name in names})
    except InvalidInput as error:
        first = error.problems[0]
        row, name = first["loc"]
        raise ArtifactError(
            f"Row {row + 1} of {GOLDEN} does not fit the signature: {name}: {first['msg']}."
        ) from None


def prove(
    engine: Engine,
    signature: Signature,
    golden: GoldenRows,
    exactness: Exactness,
    batch_sizes: Iterable[int],
    tolerance: float | None = None,
    pause: Callable[[], None] = lambda: None,
) -> float:
    """Compute the golden rows in batches of each size; gives back the largest difference. Single
    rows are computed as requests bring them, which engines have ways of their own for.

    pause: called after each single row, for those who wait for the interpreter.
    Raises NotReproduced, naming the row, unless all outputs are in the exactness class.
    """
    columns = columns_of(signature, golden.rows)
    largest = 0.0
    for size in batch_sizes:
        if size == 1:
            found = _alone(engine, signature, golden.rows, columns, pause)
        else:
            found = in_batches(engine, columns, size)
        comparison = compare(golden.outputs, found, exactness, tolerance=tolerance)
        if comparison.difference is not None:
            told = sentence(comparison.difference, exactness, tolerance)
            raise NotReproduced(f"{told} {_ELSEWHERE}")
        largest = max(largest, comparison.max_difference)
    return largest


def _alone(
    engine: Engine,
    signature: Signature,
    rows: list[dict[str, Any]],
    columns: Columns,
    pause: Callable[[], None],
) -> Outputs:
    """Plain values where those of the row may go to the model as they are, else arrays."""
    parts = []
    for place, row in enumerate(rows):
        plain = {name: [row[name]] for name in columns}
        array = rows_of(columns, slice(place, place + 1))
        values: Values = plain if signature.admits(plain) else array
        parts.append(engine.predict(values))
        pause()
    return concatenate(parts)


def sentence(difference: Difference, exactness: Exactness, tolerance: float | None = None) -> str:
    shown = exactness if tolerance is None else f"{exactness} {tolerance:g}"
    return (
        f"The model does not give its golden outputs: row {difference.row + 1} of {GOLDEN}, "
        f"{difference.part}: expected {difference.expected!r}, found {difference.found!r}"
        f"{difference.by} (class {shown})."
    )


def cpu_model() -> str:
    """The CPU's name: outputs of class `close` may differ from one to another."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
