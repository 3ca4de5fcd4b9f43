"""What scikit-learn raises on, the graph of a step marks as refused, and nothing else."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import SelectFromModel, SelectKBest, VarianceThreshold, f_regression
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)

from tests.lower.transforming import FULL, ROWS, VALUE, lowered
from tests.naming import stable

SEEN = ROWS[FULL].astype(float)
# Of some, what comes before makes infinite numbers of large ones, and none of negative ones.
ROWS_TO_REFUSE = pd.DataFrame(
    {name: [1.0, 0.0, -1.0, 1e300, -1e300, np.nan] for name in FULL}
)  # fmt: skip
LOG = FunctionTransformer(np.log1p)
SQUARE = FunctionTransformer(np.square)


@pytest.mark.parametrize("step", [
    make_pipeline(before, step)
    for before in (LOG, SQUARE, StandardScaler())
    for step in (
        KBinsDiscretizer(2, encode="ordinal", strategy="uniform"), PolynomialFeatures(1),
        Normalizer("max"), PowerTransformer(), QuantileTransformer(n_quantiles=9), PCA(1),
        TruncatedSVD(1), SelectKBest(f_regression, k=1), SelectFromModel(Lasso(0.01)),
        VarianceThreshold(), FunctionTransformer(np.abs, validate=True), FunctionTransformer(),
    )
] + [
    make_pipeline(PowerTransformer("box-cox", standardize=False)),
    KBinsDiscretizer(2, encode="ordinal", strategy="uniform", dtype=np.float32),
], ids=stable)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_row_is_refused_where_scikit_learn_raises(step: Any) -> None:
    step.fit(SEEN.abs() + 1, VALUE)
    raises = [_raises(step, ROWS_TO_REFUSE[i : i + 1]) for i in range(len(ROWS_TO_REFUSE))]
    seen = SEEN.assign(**{name: SEEN[name].where(SEEN.index > 0) for name in FULL})
    assert lowered(step, ROWS_TO_REFUSE, seen).refused.tolist() == raises


def _raises(step: Any, row: pd.DataFrame) -> bool:
    try:
        step.transform(row)
    except ValueError:
        return True
    return False
