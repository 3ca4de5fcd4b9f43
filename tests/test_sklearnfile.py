"""The file of a scikit-learn model: what is kept in it, and what is not loaded from one."""

from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import StackingClassifier
from sklearn.feature_selection import SelectKBest, r_regression
from sklearn.linear_model import LinearRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from tabserve import sklearnfile, trusted
from tabserve.errors import UntrustedModel
from tests.few_rows import ROWS, TARGET, VALUES


def test_every_trusted_type_has_a_reason_and_no_code_is_loaded_from_a_hostile_file() -> None:
    assert all(trusted.TRUSTED_TYPES.values())
    for content in (b"", b"PK\x03\x04", b"cos\nsystem\n(S'true'\ntR."):
        with pytest.raises(UntrustedModel):
            sklearnfile.load(content, "skops", allow_pickle=True)
    with pytest.raises(UntrustedModel, match="--allow-pickle"):
        sklearnfile.load(b"cos\nsystem\n(S'true'\ntR.", "joblib", allow_pickle=False)


TREE = DecisionTreeClassifier(max_depth=2)
DEPTHS = {"max_depth": [1, 2]}


@pytest.mark.parametrize("model", [
    make_pipeline(StandardScaler(), GridSearchCV(TREE, DEPTHS, cv=2)),
    GridSearchCV(TREE, DEPTHS, cv=2, scoring=["f1_macro", "roc_auc"], refit="roc_auc"),
    GridSearchCV(TREE, DEPTHS, cv=ShuffleSplit(2), scoring=make_scorer(f1_score, pos_label="Yes")),
    StackingClassifier([("tree", TREE)], cv=StratifiedKFold(2)),
    CalibratedClassifierCV(TREE, cv=RepeatedStratifiedKFold(n_splits=2, n_repeats=1)),
    CalibratedClassifierCV(TREE, cv=[(np.arange(30), np.arange(30, 60))]),
    TunedThresholdClassifierCV(TREE, cv=2, scoring="f1_macro"),
], ids=repr)  # fmt: skip
def test_what_is_kept_of_training_keeps_no_model_from_being_packed_as_skops(model: Any) -> None:
    model.fit(ROWS, TARGET)
    loaded = sklearnfile.load(sklearnfile.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict_proba(ROWS), model.predict_proba(ROWS))


def test_a_score_for_values_keeps_none_from_it() -> None:
    values = VALUES.sum(axis=1)
    search = GridSearchCV(LinearRegression(), {}, cv=2, scoring="neg_mean_absolute_error")
    model = make_pipeline(SelectKBest(r_regression, k=1), search).fit(ROWS, values)
    loaded = sklearnfile.load(sklearnfile.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))


def test_nor_does_a_union_of_frames() -> None:
    union = FeatureUnion([("scaled", StandardScaler()), ("sign", FunctionTransformer(np.sign))])
    model = make_pipeline(union, TREE).set_output(transform="pandas").fit(ROWS, TARGET)
    loaded = sklearnfile.load(sklearnfile.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict_proba(ROWS), model.predict_proba(ROWS))


def test_nor_does_a_step_without_columns_among_frames() -> None:
    nothing = OneHotEncoder(drop="first", sparse_output=False)
    columns = make_column_transformer((nothing, ["same"]), remainder="passthrough")
    rows = ROWS.assign(same="everywhere")
    model = make_pipeline(columns, TREE).set_output(transform="pandas").fit(rows, TARGET)
    loaded = sklearnfile.load(sklearnfile.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict_proba(rows), model.predict_proba(rows))


def test_nor_does_a_class_that_every_row_has() -> None:
    labels = np.stack([TARGET == "Yes", np.ones(60, dtype=bool)], axis=1).astype(int)
    with pytest.warns(UserWarning, match="all training examples"):
        model = OneVsRestClassifier(TREE).fit(ROWS, labels)
    loaded = sklearnfile.load(sklearnfile.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))
