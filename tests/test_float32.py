"""exp and its links in float32, against XGBoost, which calls the C library's expf."""

import platform
from typing import Any

import numpy as np
import pytest
import xgboost

from tabserve import float32

random = np.random.default_rng(0)
MARGINS = np.concatenate(
    [random.normal(0, spread, 60_000) for spread in (0.01, 1, 5, 40, 1e3)]
    + [np.array([0.0, -0.0, 88.7, -88.7, 88.8, 1e30, -1e30, 1e-45, np.inf, -np.inf] * 3)]
).astype(np.float32)


def of_xgboost(objective: str, margins: Any, n_classes: int = 0) -> Any:
    """What it makes of margins that no tree changes."""
    rows = np.zeros((len(margins), 1), dtype=np.float32)
    few = xgboost.DMatrix(rows[:3], label=[0, 1, 2] if n_classes else [0, 1, 1])
    parameters = {"objective": objective, "eta": 0, "base_score": 0.5}
    if n_classes:
        parameters["num_class"] = n_classes
    booster = xgboost.train(parameters, few, 1)
    return booster.predict(xgboost.DMatrix(rows, base_margin=margins))


pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has another expf"
)


def test_exp_is_that_of_glibc() -> None:
    np.testing.assert_array_equal(float32.exp(MARGINS), of_xgboost("count:poisson", MARGINS))


def test_the_logistic_is_xgboosts() -> None:
    np.testing.assert_array_equal(float32.logistic(MARGINS), of_xgboost("binary:logistic", MARGINS))


def test_the_softmax_is_xgboosts() -> None:
    margins = MARGINS[np.isfinite(MARGINS)][:200_001].reshape(-1, 3)
    found = of_xgboost("multi:softprob", margins, n_classes=3)
    np.testing.assert_array_equal(float32.softmax(margins), found)
