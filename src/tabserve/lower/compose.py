"""Steps that hold steps: sklearn.pipeline and sklearn.compose."""

from dataclasses import replace
from typing import Any

from tabserve.lower.graph import Matrix
from tabserve.lower.lowering import Lowering, Scores


def pipeline(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    for _, inner in step.steps:
        matrix = _passed(inner, matrix, lowering)
    return matrix


def pipeline_predictor(step: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    for _, inner in step.steps[:-1]:
        matrix = _passed(inner, matrix, lowering)
    return lowering.predict(step.steps[-1][1], matrix)


def column_transformer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    parts = []
    for name, inner, _ in step.transformers_:
        places = list(map(int, step._transformer_to_input_indices[name]))
        if inner == "drop" or not places:
            continue
        part = _passed(inner, lowering.graph.select(matrix, places), lowering)
        parts.append(_weighted(part, (step.transformer_weights or {}).get(name), lowering))
    return replace(lowering.graph.concat(parts), is_sparse=bool(step.sparse_output_))


def feature_union(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    parts = []
    for name, inner in step.transformer_list:
        if inner == "drop":
            continue
        part = _passed(inner, matrix, lowering)
        parts.append(_weighted(part, (step.transformer_weights or {}).get(name), lowering))
    is_sparse = any(part.is_sparse for part in parts)
    return replace(lowering.graph.concat(parts), is_sparse=is_sparse)


def _passed(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    if step is None or step == "passthrough":
        return matrix
    return lowering.transform(step, matrix)


def _weighted(matrix: Matrix, weight: float | None, lowering: Lowering) -> Matrix:
    if weight is None:
        return matrix
    value = lowering.graph.node("Mul", matrix.numbers(), lowering.graph.constant(float(weight)))
    return Matrix(value, matrix.columns, matrix.is_sparse)
