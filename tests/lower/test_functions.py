"""Elementary functions made of nodes give numpy's numbers, and the same bits in any batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from scipy.special import expit

from tabserve.lower import functions
from tabserve.lower.graph import INPUT, Graph
from tabserve.types import Array

random = np.random.default_rng(0)
ENDS = np.array(
    [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310, 2.3e-308, 1e-300, 1e-20, -1e-20, 709.7,
     709.7827128933840, 709.79, 710.0, -708.4, -744.4, -745.14, -746.0, 1e10, -1e10, 1e300,
     1.7e308, np.inf, -np.inf, np.nan]
)  # fmt: skip
SOME = np.concatenate([
    ENDS, random.normal(0, 1, 40_000), random.uniform(-750, 715, 40_000),
    random.normal(0, 1e-3, 10_000), random.normal(0, 1, 10_000) * 10.0 ** random.uniform(-300, 0),
])  # fmt: skip
POSITIVE = np.concatenate([
    ENDS, random.lognormal(0, 3, 30_000), np.exp(random.uniform(-745, 709.7, 30_000)),
    1 + random.normal(0, 1e-4, 10_000), np.exp2(np.arange(-1074, 1024)),
    np.sqrt(2) * (1 + np.outer([-1e-15, 0, 1e-15, 1e-9], np.exp2(np.arange(-9, 9)))).ravel(),
])  # fmt: skip


def computed(function: Callable[..., str], values: Array, *more: Any) -> Array:
    """All rows at once, and some of them alone and in batches, to the same bits."""
    graph = Graph()
    content = graph.model(values.shape[1], {"out": function(graph, INPUT, *more)})
    session = onnxruntime.InferenceSession(content)
    (together,) = session.run(None, {INPUT: values})
    for size in (1, 7, 64, 1000):
        starts = range(0, min(len(values), 50 * size), size)
        batches = [session.run(None, {INPUT: values[i : i + size]})[0] for i in starts]
        joined = np.concatenate(batches)
        np.testing.assert_array_equal(joined, together[: len(joined)])
    return together


def assert_near(found: Array, expected: Array, n_ulps: int = 4) -> None:
    """In units in the last place, of which numpy's own may be one off."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    difference = np.abs(found[finite] - expected[finite])
    assert (difference <= n_ulps * np.spacing(np.abs(expected[finite]))).all()


@pytest.mark.parametrize(("function", "expected", "values"), [
    (functions.exp, np.exp, SOME),
    (functions.expm1, np.expm1, SOME),
    (functions.logistic, expit, SOME),
    (functions.tanh, np.tanh, SOME),
    (functions.log, np.log, POSITIVE),
    (functions.log2, np.log2, POSITIVE),
    (functions.log10, np.log10, POSITIVE),
    (functions.log1p, np.log1p, np.concatenate([SOME, POSITIVE])),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_function_is_numpys_to_its_last_digits(
    function: Callable[..., str], expected: Callable[[Array], Array], values: Array
) -> None:
    assert_near(computed(function, values[:, np.newaxis])[:, 0], expected(values))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_powers_by_column_are_numpys_to_their_last_digits() -> None:
    exponents = np.array([0.37, -1.7, 2.0, 1e-3, 5.3, -25.5, 0.5])
    values = np.tile(np.abs(POSITIVE)[:, np.newaxis], len(exponents))
    assert_near(computed(functions.power, values, exponents), np.power(values, exponents))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_power_of_a_negative_number_is_none() -> None:
    values = np.array([[-1.0], [-1e300], [-np.inf]])
    assert np.isnan(computed(functions.power, values, np.array(0.5))).all()


@pytest.mark.parametrize("n", [2, 3, 20])
def test_softmax_is_that_of_numpy_to_its_last_digits(n: int) -> None:
    scores = random.normal(0, 30, (5_000, n))
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert_near(computed(functions.softmax, scores, n), expected, n_ulps=10)
