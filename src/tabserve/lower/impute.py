"""Missing values: sklearn.impute."""

from typing import Any

import numpy as np

from tabserve.lower.graph import CannotLower, Column, Graph, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.lowered import MISSING


def simple_imputer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    missing = missing_mask(step, matrix, graph)
    kept = _kept(step)
    fills = [_known_code(matrix.columns[i], step.statistics_[i]) for i in kept]
    filled = graph.select(matrix, kept)
    if kept:
        mask = graph.select(Matrix(missing, matrix.columns), kept).value
        value = graph.node("Where", mask, graph.constant([fills]), filled.value)
        filled = Matrix(value, tuple(_filled(column, step) for column in filled.columns))
    if not step.add_indicator:
        return filled
    return graph.concat([filled, _indicated(step.indicator_, missing, matrix, lowering)])


def missing_indicator(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    mask = missing_mask(step, matrix, lowering.graph)
    return _indicated(step, mask, matrix, lowering)


def missing_mask(step: Any, matrix: Matrix, graph: Graph) -> str:
    """Shape (n_rows, width), boolean: where the imputer finds a value missing."""
    wanted = step.missing_values
    codes = [_code(column, wanted) for column in matrix.columns]
    mask = graph.node("Equal", matrix.value, graph.constant([codes]))
    numbers = [column.vocabulary is None for column in matrix.columns]
    if not _is_nan(wanted) or not any(numbers):
        return mask
    is_nan = graph.node("IsNaN", matrix.value)
    if all(numbers):
        return is_nan
    is_nan = graph.node("And", is_nan, graph.constant([numbers], np.bool_))
    return graph.node("Or", mask, is_nan)


def _code(column: Column, wanted: Any) -> float:
    """What stands for a missing value as the imputer sees it; where nothing does, NaN, which equals
    nothing.
    """
    if not _is_missing(wanted):
        return _known_code(column, wanted)
    if column.vocabulary is None or column.missing_is_none != (wanted is None):
        return float("nan")
    return MISSING


def _known_code(column: Column, value: Any) -> float:
    """NaN of text among numbers: no step takes that for a number."""
    if column.vocabulary is None and isinstance(value, str):
        return float("nan")
    return column.code(value)


def _kept(step: Any) -> list[int]:
    """Columns in which nothing was seen at fitting are left out of the answer."""
    if step.keep_empty_features:
        return list(range(len(step.statistics_)))
    return [i for i, value in enumerate(step.statistics_) if not _is_nan(value)]


def _is_missing(value: Any) -> bool:
    return value is None or _is_nan(value)


def _is_nan(value: Any) -> bool:
    """Or what pandas has for it."""
    is_float = isinstance(value, float | np.floating)
    return type(value).__name__ == "NAType" or (is_float and bool(np.isnan(value)))


def _indicated(step: Any, mask: str, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph, features = lowering.graph, step.features_.tolist()
    others = sorted(set(range(matrix.width)) - set(features))
    if step.features == "missing-only" and step.error_on_new and others:
        if not _is_missing(step.missing_values):
            # What is refused is looked for where numbers are large, and no proof tries this one.
            raise CannotLower("a MissingIndicator that raises at a number that it takes as missing")
        lowering.refuse(graph.select(Matrix(mask, matrix.columns), others).value)
    columns = tuple(Column(_filled(column, step).origin) for column in matrix.columns)
    return graph.select(Matrix(graph.as_double(mask), columns), features)


def _filled(column: Column, step: Any) -> Column:
    """A number that stands for a missing value makes what becomes of it neither rise nor fall."""
    if _is_missing(step.missing_values) or column.vocabulary is not None:
        return column
    return Column()
