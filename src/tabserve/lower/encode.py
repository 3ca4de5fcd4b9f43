"""Categories to numbers: sklearn.preprocessing's encoders.

A category that is text stands in the graph as its code, see Vocabulary; one that is a number as
itself.
"""

from typing import Any

import numpy as np

from tabserve.lower.graph import CannotLower, Column, Graph, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.types import Array


def one_hot_encoder(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    outputs = [_categories_by_output(step, i) for i in range(len(step.categories_))]
    pairs = [(i, categories) for i, groups in enumerate(outputs) for categories in groups]
    if not pairs:
        raise CannotLower("a OneHotEncoder without outputs")
    # One comparison for each output that stands for one category, and so for nearly all.
    columns = graph.select(matrix, [i for i, _ in pairs])
    codes = [matrix.columns[i].code(categories[0]) for i, categories in pairs]
    hot = _equal(columns.value, codes, graph)
    for more in range(1, max(len(categories) for _, categories in pairs)):
        codes = [matrix.columns[i].code(group[min(more, len(group) - 1)]) for i, group in pairs]
        hot = graph.node("Or", hot, _equal(columns.value, codes, graph))
    value = graph.as_double(hot)
    if any(_infrequent_output(step, i) is not None for i in range(len(outputs))):
        value = _with_unknown(step, matrix, pairs, value, graph)
    encoded = tuple(_encoded(matrix.columns[i]) for i, _ in pairs)
    return Matrix(value, encoded, bool(step.sparse_output))


def ordinal_encoder(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    # Where unknown ones are refused, any number: what is missing takes other ways through trees.
    unknown = step.unknown_value if step.handle_unknown == "use_encoded_value" else -1.0
    numbers = [_ordinals(step, i) for i in range(matrix.width)]
    table = np.concatenate([np.append(float(unknown), each) for each in numbers])
    value = graph.node("Gather", graph.constant(table), _places(step, matrix, graph))
    return Matrix(value, tuple(_encoded(column) for column in matrix.columns))


def target_encoder(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    means = np.atleast_1d(step.target_mean_)
    n = len(means)  # of classes, where there are more than two
    encodings = [
        np.stack(step.encodings_[start : start + n], axis=1)
        for start in range(0, len(step.encodings_), n)
    ]
    table = np.concatenate([np.concatenate([means[np.newaxis], each]) for each in encodings])
    encoded = graph.node("Gather", graph.constant(table), _places(step, matrix, graph), axis=0)
    value = graph.node("Reshape", encoded, graph.constant([0, matrix.width * n], np.int64))
    return Matrix(value, tuple(_encoded(column) for column in matrix.columns for _ in means))


def _encoded(column: Column) -> Column:
    """Of a number, whether it equals another neither rises nor falls with it."""
    return Column(column.origin if column.vocabulary is not None else None)


def _categories_by_output(step: Any, i: int) -> list[list[Any]]:
    """For each output of feature i the categories that it stands for: several where they are
    infrequent. One that is dropped has none.
    """
    categories = list(step.categories_[i])
    places = list(range(len(categories)))
    if _groups(step, i):
        places = step._default_to_infrequent_mappings[i].tolist()
    outputs: list[list[Any]] = [[] for _ in range(max(places) + 1)]
    for category, place in zip(categories, places, strict=True):
        outputs[place].append(category)
    dropped = None if step._drop_idx_after_grouping is None else step._drop_idx_after_grouping[i]
    return [group for place, group in enumerate(outputs) if place != dropped]


def _groups(step: Any, i: int) -> bool:
    return bool(step._infrequent_enabled) and step._infrequent_indices[i] is not None


def _infrequent_output(step: Any, i: int) -> Any | None:
    """A category of the output that unknown values of feature i belong to."""
    if step.handle_unknown not in ("infrequent_if_exist", "warn") or not _groups(step, i):
        return None
    return step.categories_[i][int(step._infrequent_indices[i][0])]


def _with_unknown(
    step: Any, matrix: Matrix, pairs: list[tuple[int, list[Any]]], value: str, graph: Graph
) -> str:
    """Whatever is none of a feature's categories, counted as one of its infrequent ones."""
    total = value
    for i, categories in enumerate(step.categories_):
        infrequent = _infrequent_output(step, i)
        if infrequent is None:
            continue
        codes = [matrix.columns[i].code(category) for category in categories]
        equal = graph.as_double(_equal(graph.select(matrix, [i]).value, codes, graph))
        known = graph.node("ReduceMax", equal, graph.constant([1], np.int64), keepdims=1)
        row = [float(j == i and infrequent in group) for j, group in pairs]
        unknown = graph.node("Sub", graph.constant([[1.0]]), known)
        total = graph.node("Add", total, graph.node("Mul", unknown, graph.constant([row])))
    return total


def _ordinals(step: Any, i: int) -> Array:
    """What stands for each category of feature i."""
    numbers = np.arange(len(step.categories_[i]), dtype=np.float64)
    if step._infrequent_enabled and step._default_to_infrequent_mappings[i] is not None:
        mapping = step._default_to_infrequent_mappings[i]  # without the missing one, the last
        numbers[: len(mapping)] = mapping
    if i in step._missing_indices:
        numbers[step._missing_indices[i]] = step.encoded_missing_value
    return numbers


def _places(step: Any, matrix: Matrix, graph: Graph) -> str:
    """Of each value its category's place in a table of all features' categories one after another,
    of which each feature's begin with the unknown one.
    """
    sizes = [len(categories) for categories in step.categories_]
    starts = np.cumsum([0, *(size + 1 for size in sizes[:-1])])
    features = np.repeat(np.arange(len(sizes)), sizes).tolist()
    codes = [
        column.code(category)
        for column, categories in zip(matrix.columns, step.categories_, strict=True)
        for category in categories
    ]
    equal = _equal(graph.select(matrix, features).value, codes, graph)
    # From 1 on, of the one that is equal; 0 where none is.
    numbers = np.zeros((len(codes), len(sizes)))
    numbers[np.arange(len(codes)), features] = np.concatenate([np.arange(n) + 1.0 for n in sizes])
    place = graph.node("MatMul", graph.as_double(equal), graph.constant(numbers))
    return graph.as_integer(graph.node("Add", place, graph.constant([starts])))


def _equal(values: str, codes: list[float], graph: Graph) -> str:
    """Column by column; boolean. NaN, a missing number, equals a category that is NaN."""
    equal = graph.node("Equal", values, graph.constant([codes]))
    missing = np.isnan(codes)
    if not missing.any():
        return equal
    is_missing = graph.node("IsNaN", values)
    return graph.node(
        "Or", equal, graph.node("And", is_missing, graph.constant([missing], np.bool_))
    )
