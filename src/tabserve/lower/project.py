"""Rows as a whole: sklearn.decomposition's projections, sklearn.preprocessing's Normalizer.

Sums are products with a constant matrix, which onnxruntime adds in an order that does not depend on
the batch; numpy's and BLAS's does.
"""

from typing import Any

import numpy as np

from tabserve.lower.graph import Column, Matrix
from tabserve.lower.lowering import Lowering


def pca(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    components = step.components_.T
    projected = graph.node("MatMul", lowering.as_double(matrix), graph.constant(components))
    shift = np.reshape(step.mean_, (1, -1)) @ components
    value = graph.node("Sub", projected, graph.constant(shift))
    if step.whiten:
        scale = np.sqrt(step.explained_variance_)
        scale = np.maximum(scale, np.finfo(scale.dtype).eps)
        value = graph.node("Div", value, graph.constant([scale]))
    return Matrix(value, (Column(),) * components.shape[1])


def truncated_svd(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    components = step.components_.T
    value = graph.node("MatMul", lowering.as_double(matrix), graph.constant(components))
    return Matrix(value, (Column(),) * components.shape[1])


def normalizer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    value = lowering.as_double(matrix)
    ones = graph.constant(np.ones((matrix.width, 1)))
    if step.norm == "l1":
        norm = graph.node("MatMul", graph.node("Abs", value), ones)
    elif step.norm == "l2":
        norm = graph.node("Sqrt", graph.node("MatMul", graph.node("Mul", value, value), ones))
    else:
        axes = graph.constant([1], np.int64)
        norm = graph.node("ReduceMax", graph.node("Abs", value), axes, keepdims=1)
    # So do scikit-learn's scales that are nearly zero.
    is_zero = graph.node("Less", norm, graph.constant(10 * np.finfo(np.float64).eps))
    norm = graph.node("Where", is_zero, graph.constant(1.0), norm)
    value = graph.node("Div", value, norm)
    return Matrix(value, (Column(),) * matrix.width, matrix.is_sparse)
