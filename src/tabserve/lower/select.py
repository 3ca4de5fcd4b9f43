"""Some of the columns: sklearn.feature_selection."""

from dataclasses import replace
from typing import Any

from tabserve.lower.graph import Matrix
from tabserve.lower.lowering import Lowering, Scores


def selector(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    if not step.__sklearn_tags__().input_tags.allow_nan:
        lowering.as_double(matrix)  # the columns that are left out as well
    selected = lowering.graph.select(matrix, step.get_support(indices=True).tolist())
    return replace(selected, is_sparse=matrix.is_sparse)


def eliminating_predictor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return lowering.predict(model.estimator_, selector(model, matrix, lowering))
