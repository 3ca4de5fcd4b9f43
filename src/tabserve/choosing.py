"""Which engine serves a packed model: the fastest of those that parity finds equal."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tabserve import parity
from tabserve.artifact import GRAPH, REFUSED, Exactness, GoldenRows, Parity, Tried
from tabserve.engines.onnx import OnnxEngine, safe_below
from tabserve.errors import InvalidInput, NotReproduced, PackError
from tabserve.hard import hard_columns
from tabserve.lower import CannotLower, LoweredModel, lower
from tabserve.lowered import Lowered
from tabserve.output import Target
from tabserve.signature import Signature
from tabserve.types import Columns, Engine, Outputs, Parts, n_rows

# Single rows that are timed, after one to warm up.
_TIMED_ROWS = 20
# Hard rows computed alone as well as in batches: an engine's answers may differ only there.
_MOST_ALONE = 2000


@dataclass(frozen=True)
class Choice:
    """parity: the report. files, lowered: of the graph, where it was chosen."""

    engine: Literal["native", "onnx", "function"]
    parity: Parity
    lowered: Lowered | None = None
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Original:
    """What the fitted model itself says, on golden and on hard rows."""

    engine: Engine
    exactness: Exactness
    golden: GoldenRows
    columns: Columns  # of the golden rows


def choose(
    model: Any,
    original: Engine,
    packed: Engine,
    *,
    signature: Signature,
    targets: tuple[Target, ...],
    parts: Parts,
    golden: GoldenRows,
    exactness: Exactness,
    only_native: bool = False,
) -> Choice:
    """model: None where no graph can be made of it. original: the fitted model itself; packed: as
    it comes back out of its file.
    """
    truth = Original(original, exactness, golden, parity.columns_of(signature, golden.rows))
    native, joinable, largest = _native(packed, truth)

    def report(tried: list[Tried], n_hard_rows: int, joinable: bool, largest: float) -> Parity:
        return Parity(
            exactness=exactness,
            n_rows=len(golden.rows),
            n_hard_rows=n_hard_rows,
            batch_sizes=list(parity.BATCH_SIZES),
            max_difference=largest,
            joinable=joinable,
            cpu=parity.cpu_model(),
            tried=tried,
        )

    if only_native or model is None:
        return Choice(native.engine, report([native], 0, joinable, largest))
    try:
        lowered = lower(model, signature, parts)
    except CannotLower as error:
        tried = [native, Tried(engine="onnx", equal=False, why=f"Cannot be lowered: {error}.")]
        return Choice("native", report(tried, 0, joinable, largest))
    engine, plan = _onnx(lowered, signature, targets, parts)
    hard = hard_columns(signature, golden.rows, lowered)
    found = _graph(engine, truth, hard)
    tried = [native, found]
    if not found.equal or not _faster(found, native):
        return Choice("native", report(tried, n_rows(hard), joinable, largest))
    files = {GRAPH: lowered.graph}
    if lowered.refused is not None:
        files[REFUSED] = lowered.refused
    difference = found.max_difference or 0.0
    return Choice("onnx", report(tried, n_rows(hard), True, difference), plan, files)


def _native(packed: Engine, truth: Original) -> tuple[Tried, bool, float]:
    """The packed model against the original one, alone and in batches; whether rows of several
    requests may be joined, and the largest difference.

    Raises NotReproduced where it is another even on all rows at once.
    """
    golden, exactness = truth.golden, truth.exactness
    everything = parity.in_batches(packed, truth.columns, len(golden.rows))
    found = parity.compare(golden.outputs, everything, exactness)
    if found.difference is not None:
        raise NotReproduced(parity.sentence(found.difference, exactness))
    largest, joinable = found.max_difference, True
    for size in parity.BATCH_SIZES:
        try:
            outputs = parity.in_batches(packed, truth.columns, size)
        except Exception as error:
            raise PackError(
                f"The model fails on a batch of {size}: {type(error).__name__}: {error}"
            ) from error
        found = parity.compare(golden.outputs, outputs, exactness)
        joinable &= found.difference is None
        largest = max(largest, found.max_difference)
    row_us = _row_us(lambda: packed.predict(parity.rows_of(truth.columns, slice(0, 1))))
    name: Any = packed.name
    tried = Tried(engine=name, equal=True, max_difference=largest, row_us=row_us)
    return tried, joinable, largest


def _onnx(
    lowered: LoweredModel, signature: Signature, targets: tuple[Target, ...], parts: Parts
) -> tuple[OnnxEngine, Lowered]:
    plan = lowered.plan
    if lowered.refused is not None:
        limit = safe_below(lowered.refused, len(signature.features))
        plan = plan.model_copy(update={"safe_below": limit})
    return OnnxEngine(lowered.graph, lowered.refused, plan, signature, targets, parts), plan


def _graph(engine: Engine, truth: Original, hard: Columns) -> Tried:
    """The lowered graph against the original model, on golden and on hard rows."""
    row = parity.rows_of(truth.columns, slice(0, 1))
    accepted, expected = parity.answered(truth.engine, hard)
    refused = parity.rows_of(hard, ~accepted)
    hard = parity.rows_of(hard, accepted)
    try:
        largest = _compared(engine, truth, truth.columns, truth.golden.outputs)
        if expected is not None:
            largest = max(largest, _compared(engine, truth, hard, expected))
        _refuses(engine, refused)
    except _Differs as difference:
        return Tried(engine="onnx", equal=False, why=str(difference))
    except Exception as error:  # noqa: BLE001 - whatever it raises, it is not used
        return Tried(engine="onnx", equal=False, why=f"Failed: {type(error).__name__}: {error}")
    row_us = _row_us(lambda: engine.predict(row))
    return Tried(engine="onnx", equal=True, max_difference=largest, row_us=row_us)


class _Differs(Exception):
    pass


def _compared(engine: Engine, truth: Original, columns: Columns, expected: Outputs) -> float:
    """The largest difference, over all batch sizes. Raises _Differs."""
    every = np.arange(n_rows(columns))
    alone = np.linspace(0, len(every) - 1, min(len(every), _MOST_ALONE)).astype(int)
    largest = 0.0
    for size in (*parity.BATCH_SIZES, len(every)):
        places = alone if size == 1 else every
        found = parity.in_batches(engine, parity.rows_of(columns, places), size)
        comparison = parity.compare(
            parity.rows_of(expected, places), found, truth.exactness, truth.golden.outputs
        )
        if comparison.difference is not None:
            difference = comparison.difference
            kind = "golden" if columns is truth.columns else "hard"
            raise _Differs(
                f"Differs on {kind} row {places[difference.row] + 1} in batches of {size}: "
                f"{difference.part}: expected {difference.expected!r}, found "
                f"{difference.found!r}{difference.by}."
            )
        largest = max(largest, comparison.max_difference)
    return largest


def _refuses(engine: Engine, columns: Columns) -> None:
    """What the original model raises on must not be answered."""
    for i in range(n_rows(columns)):
        try:
            outputs = engine.predict(parity.rows_of(columns, slice(i, i + 1)))
        except InvalidInput:
            continue
        if all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f"):
            raise _Differs("Answers a row on which the model itself fails.")


def _row_us(predict: Callable[[], Any]) -> float:
    predict()
    samples = []
    for _ in range(_TIMED_ROWS):
        began = time.perf_counter()
        predict()
        samples.append(time.perf_counter() - began)
    return round(1e6 * statistics.median(samples), 1)


def _faster(one: Tried, other: Tried) -> bool:
    return (one.row_us or 0.0) < (other.row_us or 0.0)
