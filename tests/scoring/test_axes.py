import numpy as np
import pytest

from tabserve.scoring.axes import Axis
from tabserve.scoring.forest import EQ, LEQ, Forest

RANDOM = np.random.default_rng(5)
NOTHING = np.zeros(0)


def axis_of(thresholds: list[float], equal: list[float]) -> Axis:
    mode = np.array([LEQ] * len(thresholds) + [EQ] * len(equal))
    n = len(mode)
    nodes = np.array(thresholds + equal)
    forest = Forest(
        np.zeros(n, int), nodes, mode, mode > EQ, NOTHING, NOTHING, NOTHING, NOTHING, 1.0
    )
    return Axis(forest, 0)


@pytest.mark.parametrize(
    ("thresholds", "equal"),
    [
        ([0.5], []),
        ([], [0.0, 1.0, 2.0]),
        (RANDOM.normal(size=3000).round(3).tolist(), []),
        (RANDOM.lognormal(3, 2, size=3000).tolist(), []),
        ([1e308, -1e308, 0.0, 5e-324], []),
        ([*np.nextafter(0.1, np.arange(2)), 0.1, 1e6], []),
    ],
)
def test_intervals_are_those_of_a_search(thresholds: list[float], equal: list[float]) -> None:
    axis = axis_of(thresholds, equal)
    near = np.concatenate([axis.edges, *(np.nextafter(axis.edges, x) for x in (-np.inf, np.inf))])
    values = np.concatenate([near, RANDOM.normal(0, 100, 1000), [1.7e308, -1.7e308, 0.0, -0.0]])
    found = axis.intervals(np.append(values, np.nan))
    assert found[:-1].tolist() == np.searchsorted(axis.edges, values).tolist()
    assert found[-1] == len(axis.edges) + 1
