"""Parity: does an engine give the original model's outputs, in its exactness class?"""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tabserve.artifact import GOLDEN, Exactness, GoldenRows
from tabserve.errors import ArtifactError, InvalidInput, NotReproduced
from tabserve.signature import Signature
from tabserve.types import Array, Columns, Engine, Outputs, concatenate, n_rows

# `close`: at most this times the scale, which is 1 for probabilities and else the largest golden
# output. BLAS, exp, log and pow differ in the last digits with batch size, CPU and library.
CLOSE = 1e-12

# Batches that requests make when they are joined: one, a few, and more than a SIMD lane or a
# BLAS block holds.
BATCH_SIZES = (1, 7, 64)


@dataclass(frozen=True)
class Difference:
    """The first row that differs beyond the class, and the largest difference of all rows."""

    row: int
    part: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Comparison:
    max_difference: float
    difference: Difference | None


def compare(expected: Outputs, found: Outputs, exactness: Exactness) -> Comparison:
    """expected and found: the same parts, each of shape (n_rows, ...).

    Labels must be equal in both classes. Raises NotReproduced where parts or shapes differ.
    """
    if found.keys() != expected.keys():
        raise NotReproduced(
            f"The model gives {', '.join(sorted(found))}, and its golden rows hold "
            f"{', '.join(sorted(expected)) or 'nothing'}."
        )
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
            difference = np.abs(got - wanted)
            # A NaN is never within the class.
            wrong = ~(difference <= _allowed(part, wanted, exactness))
            largest = max(largest, float(difference.max(initial=0.0)))
        else:
            wrong = got.astype(object) != wanted.astype(object)
        rows = wrong.reshape(len(wanted), -1).any(axis=1)
        if rows.any() and first is None:
            row = int(rows.argmax())
            first = Difference(row, part, wanted.tolist()[row], got.tolist()[row])
    return Comparison(largest, first)


def _allowed(part: str, expected: Array, exactness: Exactness) -> float:
    if exactness == "bits":
        return 0.0
    if part.rpartition(".")[2] == "proba":
        return CLOSE
    return CLOSE * float(np.abs(expected).max(initial=0.0))


def in_batches(engine: Engine, columns: Columns, size: int) -> Outputs:
    """The outputs of all rows, computed `size` rows at a time."""
    parts = [
        engine.predict({name: column[start : start + size] for name, column in columns.items()})
        for start in range(0, n_rows(columns), size)
    ]
    return concatenate(parts)


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
) -> float:
    """Compute the golden rows in batches of each size; gives back the largest difference.

    Raises NotReproduced, naming the row, unless all outputs are in the exactness class.
    """
    columns = columns_of(signature, golden.rows)
    largest = 0.0
    for size in batch_sizes:
        comparison = compare(golden.outputs, in_batches(engine, columns, size), exactness)
        if comparison.difference is not None:
            raise NotReproduced(_sentence(comparison.difference, exactness))
        largest = max(largest, comparison.max_difference)
    return largest


def _sentence(difference: Difference, exactness: Exactness) -> str:
    return (
        f"The model does not give its golden outputs: row {difference.row + 1} of {GOLDEN}, "
        f"{difference.part}: expected {difference.expected!r}, found {difference.found!r} "
        f"(class {exactness}). The libraries or the CPU are not those it was packed with; "
        "pack it again here, or install the versions that its manifest names."
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
