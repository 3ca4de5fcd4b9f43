"""Elementary functions made of nodes give numpy's numbers, and the same bits in any batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tabserve.lower import functions
from tabserve.lower.graph import INPUT, Graph
from tabserve.lowered import logistic
from tabserve.types import Array

random = np.random.default_rng(0)
ENDS = np.array(
    [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310, 1e-300, 1e-20, -1e-20, 709.7, 709.7827128933840, 709.79,
     -744.4, -745.14, -746.0, 1e10, -1e10, 1e300, np.inf, -np.inf, np.nan]
)  # fmt: skip
SOME = np.concatenate(
    [ENDS, random.normal(0, 1, 40_000), random.uniform(-750, 715, 40_000),
     random.normal(0, 1e-5, 999)]
)  # fmt: skip
POSITIVE = np.concatenate(
    [ENDS, random.lognormal(0, 3, 30_000), np.exp(random.uniform(-745, 709.7, 30_000)),
     1 + random.normal(0, 1e-4, 9_999), np.exp2(np.arange(-1074, 1024))]
)  # fmt: skip


def computed(function: Callable[..., str], values: Array, *more: Any) -> Array:
    graph = Graph()
    content = graph.model(values.shape[1], {"out": function(graph, INPUT, *more)})
    session = onnxruntime.InferenceSession(content)
    (together,) = session.run(None, {INPUT: values})
    for size in (1, 7, 64):
        starts = range(0, min(len(values), 50 * size), size)
        batches = [session.run(None, {INPUT: values[i : i + size]})[0] for i in starts]
        joined = np.concatenate(batches)
        np.testing.assert_array_equal(joined, together[: len(joined)])
    return together


def assert_near(found: Array, expected: Array, least_scale: float) -> None:
    """Within 6 units in the last place, or as many of the scale."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    allowed = 6 * np.spacing(np.maximum(np.abs(expected[finite]), least_scale))
    assert (np.abs(found[finite] - expected[finite]) <= allowed).all()


@pytest.mark.parametrize(("function", "expected", "least_scale"), [
    (functions.exp, np.exp, 0), (functions.expm1, np.expm1, 1), (functions.logistic, logistic, 0),
    (functions.tanh, np.tanh, 1),
], ids=["exp", "expm1", "logistic", "tanh"])  # fmt: skip
def test_functions_of_any_number(function: Any, expected: Any, least_scale: float) -> None:
    with np.errstate(all="ignore"):
        assert_near(computed(function, SOME[:, np.newaxis])[:, 0], expected(SOME), least_scale)


@pytest.mark.parametrize(("function", "expected", "least_scale"), [
    (functions.log, np.log, 0), (functions.log1p, np.log1p, 1),
], ids=["log", "log1p"])  # fmt: skip
def test_logarithms(function: Any, expected: Any, least_scale: float) -> None:
    with np.errstate(all="ignore"):
        values = expected(POSITIVE)
    assert_near(computed(function, POSITIVE[:, np.newaxis])[:, 0], values, least_scale)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_softmax(n: int) -> None:
    scores = random.normal(0, 30, (5_000, n))
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert_near(computed(functions.softmax, scores, n), expected, 0)
