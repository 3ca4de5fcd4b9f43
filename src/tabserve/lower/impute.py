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
    fills = [
        matrix.columns[i].code(step.statistics_[i])
        if matrix.is_coded
        else float(step.statistics_[i])
        for i in kept
    ]
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
    if matrix.is_coded:
        codes = [_code(column, wanted) for column in matrix.columns]
        return graph.node("Equal", matrix.value, graph.constant([codes]))
    if wanted is None or wanted != wanted:
        return graph.node("IsNaN", matrix.numbers())
    return graph.node("Equal", matrix.numbers(), graph.constant(float(wanted)))


def _code(column: Column, wanted: Any) -> float:
    """What stands for a missing value as the imputer sees it; where nothing does, NaN, which equals
    nothing.
    """
    if wanted is None or wanted != wanted:
        return MISSING if column.missing_is_none == (wanted is None) else float("nan")
    return column.code(wanted)


def _kept(step: Any) -> list[int]:
    """Columns in which nothing was seen at fitting are left out of the answer."""
    if step.keep_empty_features:
        return list(range(len(step.statistics_)))
    return [i for i, value in enumerate(step.statistics_) if not _is_nan(value)]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _indicated(step: Any, mask: str, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph, features = lowering.graph, step.features_.tolist()
    others = sorted(set(range(matrix.width)) - set(features))
    if step.features == "missing-only" and step.error_on_new and others:
        if not (step.missing_values is None or _is_nan(step.missing_values)):
            # What is refused is looked for where numbers are large, and no proof tries this one.
            raise CannotLower("a MissingIndicator that raises at a number that it takes as missing")
        lowering.refuse(graph.select(Matrix(mask, matrix.columns), others).value)
    columns = tuple(Column(_filled(column, step).origin) for column in matrix.columns)
    return graph.select(Matrix(graph.as_double(mask), columns), features)


def _filled(column: Column, step: Any) -> Column:
    """A number that stands for a missing value makes what becomes of it neither rise nor fall."""
    wanted = step.missing_values
    if wanted is None or wanted != wanted or column.vocabulary is not None:
        return column
    return Column()
