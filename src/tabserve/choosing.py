"""Which engine serves a packed model: the fastest of those that parity finds equal."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from tabserve import parity, runtime
from tabserve.artifact import GRAPH, REFUSED, Exactness, GoldenRows, Parity, Tried
from tabserve.engines.onnx import OnnxEngine, safe_below
from tabserve.engines.onnx_model import OnnxModelEngine
from tabserve.errors import ArtifactError, InvalidInput, NotReproduced, PackError, WrongFormat
from tabserve.hard import drawn_columns, hard_rows
from tabserve.lower import CannotLower, LoweredModel, lower
from tabserve.lowered import Lowered
from tabserve.output import Target
from tabserve.signature import Signature
from tabserve.types import Array, Columns, Engine, Outputs, Parts, concatenate, n_rows

logger = logging.getLogger("tabserve")

# Single rows that are timed, after one to warm up.
_TIMED_ROWS = 20
# Hard rows computed alone as well as in batches: an engine's answers may differ only there. Of a
# wide model fewer: so many values in all.
_MOST_ALONE, _MOST_VALUES_ALONE = 2000, 1_000_000
# Of a converted graph, whose errors may lie anywhere; in float a forest is wrong on 3 % of rows.
_DRAWN_ROWS = 1000


@dataclass(frozen=True)
class Choice:
    """parity: the report. files, lowered, libraries: of the graph, where it was chosen."""

    engine: Literal["native", "onnx", "function"]
    parity: Parity
    lowered: Lowered | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def libraries(self) -> dict[str, str]:
        return {"onnxruntime": runtime.VERSION} if self.engine == "onnx" else {}


@dataclass(frozen=True)
class Original:
    """What the fitted model itself says, on golden and on hard rows, and how near another way of
    computing it has to come.
    """

    engine: Engine
    signature: Signature
    targets: tuple[Target, ...]
    parts: Parts
    golden: GoldenRows
    columns: Columns  # of the golden rows
    exactness: Exactness
    tolerance: float | None = None  # of the class of that name


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
    only_native: bool,
    tolerance: float | None,
) -> Choice:
    """model: None where no graph can be made of it. original: the fitted model itself; packed: as
    it comes back out of its file.
    tolerance: accepted where the exact graph fails, and of what is no model to make a graph of.
    """
    columns = parity.columns_of(signature, golden.rows)
    truth = Original(original, signature, targets, parts, golden, columns, exactness)
    tolerated = replace(truth, exactness="tolerance", tolerance=tolerance)
    if model is None and tolerance is not None:
        truth = tolerated
    native, joinable, largest = _native(packed, truth)
    tried, n_hard_rows, n_known = [native], 0, 0

    def report(judged: Original, joinable: bool, largest: float) -> Parity:
        return Parity(
            exactness=judged.exactness,
            tolerance=judged.tolerance,
            n_rows=len(golden.rows),
            n_hard_rows=n_hard_rows,
            n_hard_rows_known=n_known,
            batch_sizes=list(parity.BATCH_SIZES),
            max_difference=largest,
            joinable=joinable,
            cpu=parity.cpu_model(),
            tried=tried,
        )

    if model is not None and not only_native:
        for graph in _graphs(model, truth, tolerated):
            tried.append(graph.tried)
            n_hard_rows, n_known = graph.n_hard_rows, graph.n_known
            if graph.tried.equal and _faster(graph.tried, native):
                difference = graph.tried.max_difference or 0.0
                found = report(graph.judged, True, difference)
                return Choice("onnx", found, graph.plan, graph.files)
    return Choice(native.engine, report(truth, joinable, largest))


@dataclass(frozen=True)
class _Graph:
    """One that may serve in the model's place. judged: by what it was compared with."""

    tried: Tried
    judged: Original
    n_hard_rows: int = 0
    n_known: int = 0
    plan: Lowered | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def _graphs(model: Any, truth: Original, tolerated: Original) -> Iterator[_Graph]:
    """The exact one; after it those of the converter, where it failed and its user accepts them."""
    lowered = None
    logger.info("Lowering the model to a graph")
    try:
        lowered = lower(model, truth.signature, truth.parts)
    except CannotLower as error:
        why = f"Cannot be lowered: {error}."
        graph = _Graph(Tried(engine="onnx", equal=False, why=why), truth)
    else:
        graph = _exact(lowered, truth)
    yield graph
    if tolerated.tolerance is not None and not graph.tried.equal:
        yield from _converted(model, tolerated, lowered)


def _exact(lowered: LoweredModel, truth: Original) -> _Graph:
    engine, plan = _onnx(lowered, truth)
    hard = hard_rows(truth.signature, truth.golden.rows, lowered)
    files = {GRAPH: lowered.graph}
    if lowered.refused is not None:
        files[REFUSED] = lowered.refused
    tried = _tried(engine, truth, hard.columns)
    return _Graph(tried, truth, n_rows(hard.columns), hard.n_known, plan, files)


def _converted(model: Any, truth: Original, lowered: LoweredModel | None) -> Iterator[_Graph]:
    """In double, and in float where that fails. lowered: whose thresholds make hard rows."""
    from tabserve import converting  # its library is an extra

    rows = truth.golden.rows
    drawn = drawn_columns(truth.signature, rows, _DRAWN_ROWS)
    known = hard_rows(truth.signature, rows, lowered)
    every = concatenate([known.columns, drawn])
    n_known = known.n_known + n_rows(drawn)
    for precision in get_args(converting.Precision):
        hard = every
        try:
            content = converting.convert(model, truth.signature, precision)
            engine = OnnxModelEngine(content, truth.signature, truth.targets, truth.parts, GRAPH)
        except (converting.CannotConvert, ArtifactError, WrongFormat) as error:
            tried, files = Tried(engine="onnx", equal=False, why=f"Not converted: {error}"), {}
        else:
            if engine.takes_float32:
                hard = parity.rows_of(every, _fit_float32(every))
            tried, files = _tried(engine, truth, hard), {GRAPH: content}
        why = tried.why and f"In {precision}: {tried.why}"
        tried = tried.model_copy(update={"converter": "skl2onnx", "why": why})
        yield _Graph(tried, truth, n_rows(hard), n_known, files=files)
        if tried.equal:
            return


def _fit_float32(columns: Columns) -> Array:
    """The rows without numbers that become infinite as a float32, which the engine refuses."""
    numbers = [column for column in columns.values() if column.dtype.kind == "f"]
    largest = np.finfo(np.float32).max
    fits = ~np.any([np.abs(column) > largest for column in numbers], axis=0)
    return np.broadcast_to(fits, n_rows(columns))


def _native(packed: Engine, truth: Original) -> tuple[Tried, bool, float]:
    """The packed model against the original one, alone and in batches; whether rows of several
    requests may be joined, and the largest difference.

    Raises NotReproduced where it is another even on all rows at once.
    """
    golden, exactness = truth.golden, truth.exactness
    everything = parity.in_batches(packed, truth.columns, len(golden.rows))
    found = parity.compare(golden.outputs, everything, exactness, tolerance=truth.tolerance)
    if found.difference is not None:
        told = parity.sentence(found.difference, exactness, truth.tolerance)
        raise NotReproduced(
            f"{told} It is the same model where it is packed: its answers change from call to "
            "call, or depend on what its file or a request does not hold, as the sample's index."
        )
    largest, joinable = found.max_difference, True
    for size in parity.BATCH_SIZES:
        try:
            outputs = parity.in_batches(packed, truth.columns, size)
        except Exception as error:
            raise PackError(
                f"The model fails on a batch of {size}: {type(error).__name__}: {error}"
            ) from error
        found = parity.compare(golden.outputs, outputs, exactness, tolerance=truth.tolerance)
        joinable &= found.difference is None
        largest = max(largest, found.max_difference)
    row_us = _row_us(lambda: packed.predict(parity.rows_of(truth.columns, slice(0, 1))))
    name: Any = packed.name
    tried = Tried(engine=name, equal=True, max_difference=largest, row_us=row_us)
    return tried, joinable, largest


def _onnx(lowered: LoweredModel, truth: Original) -> tuple[OnnxEngine, Lowered]:
    plan = lowered.plan
    if lowered.refused is not None:
        limit = safe_below(lowered.refused, len(truth.signature.features))
        plan = plan.model_copy(update={"safe_below": limit})
    engine = OnnxEngine(
        lowered.graph, lowered.refused, plan, truth.signature, truth.targets, truth.parts
    )
    return engine, plan


def _tried(engine: Engine, truth: Original, hard: Columns) -> Tried:
    """A graph against the original model, on golden and on hard rows."""
    logger.info("Proving the graph on %s hard rows", f"{n_rows(hard):,}")
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
    most = min(_MOST_ALONE, max(100, _MOST_VALUES_ALONE // len(columns)))
    alone = np.linspace(0, len(every) - 1, min(len(every), most)).astype(int)
    kind = "golden" if columns is truth.columns else "hard"
    largest = 0.0
    for size in (*parity.BATCH_SIZES, len(every)):
        places = alone if size == 1 else every
        wanted = parity.rows_of(expected, places)
        found = parity.in_batches(engine, parity.rows_of(columns, places), size)
        if truth.exactness == "tolerance" and kind == "hard":
            wanted, found = _without_labels(wanted), _without_labels(found)
        comparison = parity.compare(
            wanted, found, truth.exactness, truth.golden.outputs, truth.tolerance
        )
        if comparison.difference is not None:
            difference = comparison.difference
            raise _Differs(
                f"Differs on {kind} row {places[difference.row] + 1} in batches of {size}: "
                f"{difference.part}: expected {difference.expected!r}, found "
                f"{difference.found!r}{difference.by}."
            )
        largest = max(largest, comparison.max_difference)
    return largest


def _without_labels(outputs: Outputs) -> Outputs:
    """Without those whose probabilities or score are compared: within the tolerance of a tie
    another label is as right.
    """
    return {
        part: array
        for part, array in outputs.items()
        if not part.endswith("label")
        or not {part.removesuffix("label") + other for other in ("proba", "score")} & set(outputs)
    }


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
