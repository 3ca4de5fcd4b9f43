"""The native engine: inputs as the model was trained on them, outputs as the model gives them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_selection import RFE, SelectFromModel, SelectKBest, r_regression
from sklearn.impute import MissingIndicator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    Normalizer,
    OneHotEncoder,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from tabserve import trusted
from tabserve.engines import native
from tabserve.errors import InvalidInput, UntrustedModel
from tabserve.output import Renderer, Target
from tabserve.signature import Feature, Signature
from tests.estimators import ThresholdPipeline

SIGNATURE = Signature(
    features=(
        Feature(name="a", type="number", dtype="float64"),
        Feature(name="b", type="number", dtype="float64"),
    )
)
VALUES = np.random.default_rng(0).integers(0, 4, (60, 2)).astype(float)
ROWS = pd.DataFrame(VALUES, columns=["a", "b"])
TARGET = np.where((VALUES[:, 0] + VALUES[:, 1]) % 3 > 1, "Yes", "No")
CLASSES = Target(kind="classes", classes=("No", "Yes"), has_proba=True)


def engine(model: Any, *targets: Target) -> native.NativeEngine:
    return native.NativeEngine(model, SIGNATURE, targets, Renderer(targets, None).parts)


def columns(rows: pd.DataFrame) -> dict[str, Any]:
    return {name: rows[name].to_numpy() for name in rows}


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(max_depth=2),
        ExtraTreeClassifier(max_depth=2),
        RandomForestClassifier(4, max_depth=2),
        ExtraTreesClassifier(4, max_depth=2),
        BaggingClassifier(KNeighborsClassifier(2), n_estimators=4),
        KNeighborsClassifier(4),
        KNeighborsClassifier(4, weights="distance"),
        FixedThresholdClassifier(LogisticRegression(), threshold=0.2, pos_label="Yes"),
        make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=2)),
    ],
    ids=repr,
)
def test_the_label_is_what_predict_says_in_ties_and_with_thresholds_too(model: Any) -> None:
    model.fit(ROWS, TARGET)
    outputs = engine(model, CLASSES).predict(columns(ROWS))
    assert outputs["label"].tolist() == model.predict(ROWS).tolist()
    assert outputs["proba"].tolist() == model.predict_proba(ROWS).tolist()


def test_a_part_that_no_answer_needs_is_not_computed() -> None:
    model = RandomForestClassifier(2).fit(ROWS, TARGET)
    only = native.NativeEngine(model, SIGNATURE, (CLASSES,), {"proba": None})
    assert only.predict(columns(ROWS)).keys() == {"proba"}
    bare = engine(SVC().fit(ROWS, TARGET), Target(kind="classes", classes=("No", "Yes")))
    assert bare.predict(columns(ROWS)).keys() == {"label"}


def test_one_output_of_a_model_for_several_is_one_output() -> None:
    model = MultiOutputClassifier(DecisionTreeClassifier(max_depth=2)).fit(ROWS, TARGET[:, None])
    outputs = engine(model, CLASSES).predict(columns(ROWS))
    assert outputs["label"].tolist() == model.predict(ROWS)[:, 0].tolist()
    assert outputs["proba"].tolist() == model.predict_proba(ROWS)[0].tolist()
    line = LinearRegression().fit(ROWS, VALUES[:, :1])
    assert engine(line, Target(kind="number")).predict(columns(ROWS))["value"].shape == (60,)


def test_n_jobs_is_1_however_deep() -> None:
    forest = RandomForestClassifier(2, n_jobs=-1)
    model = CalibratedClassifierCV(make_pipeline(StandardScaler(), forest), cv=2)
    model.fit(ROWS, TARGET).n_jobs = 2
    engine(model, CLASSES)
    found = [getattr(inner, "n_jobs", None) for inner in native.estimators(model)]
    assert sum(isinstance(inner, RandomForestClassifier) for inner in native.estimators(model)) == 3
    assert set(found) == {None, 1}


def test_a_few_rows_have_one_thread_and_many_the_workers_share() -> None:
    served = native.NativeEngine(
        RandomForestClassifier(2).fit(ROWS, TARGET), SIGNATURE, (CLASSES,), {"proba": None}
    )
    with threadpoolctl.threadpool_limits(2):
        served.predict(columns(ROWS[:1]))
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}


@pytest.mark.parametrize(
    ("model", "exactness"),
    [
        (make_pipeline(StandardScaler(), RandomForestClassifier(2)), "bits"),
        (make_column_transformer(("passthrough", ["a"])), "bits"),
        (FunctionTransformer(np.log1p), "close"),
        (FunctionTransformer(np.square), "bits"),
        (make_pipeline(SelectFromModel(LogisticRegression()), DecisionTreeClassifier()), "bits"),
        (make_pipeline(RFE(LogisticRegression()), DecisionTreeClassifier()), "close"),
        (QuantileTransformer(n_quantiles=2), "bits"),
        (QuantileTransformer(n_quantiles=2, output_distribution="normal"), "close"),
        (Normalizer("max"), "bits"),
        (Normalizer(), "close"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "close"),
        (BaggingClassifier(LogisticRegression(), n_estimators=2), "close"),
        (HistGradientBoostingRegressor(max_iter=2), "bits"),
        (HistGradientBoostingRegressor(max_iter=2, loss="poisson"), "close"),
        (type("RandomForestClassifier", (RandomForestClassifier,), {})(2), "close"),
    ],
)
def test_bits_is_only_for_what_compares_and_adds_in_a_fixed_order(
    model: Any, exactness: str
) -> None:
    target = VALUES.sum(axis=1) if isinstance(model, HistGradientBoostingRegressor) else TARGET
    assert native.exactness_of(model.fit(ROWS, target)) == exactness


def test_every_trusted_type_has_a_reason_and_no_code_is_loaded_from_a_hostile_file() -> None:
    assert all(trusted.TRUSTED_TYPES.values())
    for content in (b"", b"PK\x03\x04", b"cos\nsystem\n(S'true'\ntR."):
        with pytest.raises(UntrustedModel):
            native.load(content, "skops", allow_pickle=True)
    with pytest.raises(UntrustedModel, match="--allow-pickle"):
        native.load(b"cos\nsystem\n(S'true'\ntR.", "joblib", allow_pickle=False)


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
    loaded = native.load(native.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict_proba(ROWS), model.predict_proba(ROWS))


def test_a_score_for_values_keeps_none_from_it() -> None:
    values = VALUES.sum(axis=1)
    search = GridSearchCV(LinearRegression(), {}, cv=2, scoring="neg_mean_absolute_error")
    model = make_pipeline(SelectKBest(r_regression, k=1), search).fit(ROWS, values)
    loaded = native.load(native.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))


def test_nor_does_a_union_of_frames() -> None:
    union = FeatureUnion([("scaled", StandardScaler()), ("sign", FunctionTransformer(np.sign))])
    model = make_pipeline(union, TREE).set_output(transform="pandas").fit(ROWS, TARGET)
    loaded = native.load(native.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict_proba(ROWS), model.predict_proba(ROWS))


def test_nor_does_a_class_that_every_row_has() -> None:
    labels = np.stack([TARGET == "Yes", np.ones(60, dtype=bool)], axis=1).astype(int)
    with pytest.warns(UserWarning, match="all training examples"):
        model = OneVsRestClassifier(TREE).fit(ROWS, labels)
    loaded = native.load(native.dump(model, "skops"), "skops", allow_pickle=False)
    np.testing.assert_array_equal(loaded.predict(ROWS), model.predict(ROWS))


def test_the_label_of_a_users_class_is_its_own() -> None:
    steps = [("scale", StandardScaler()), ("tree", DecisionTreeClassifier(max_depth=2))]
    model = ThresholdPipeline(steps).fit(ROWS, TARGET)
    labels = engine(model, CLASSES).predict(columns(ROWS))["label"].tolist()
    assert labels == model.predict(ROWS).tolist()
    assert labels != Pipeline(steps).predict(ROWS).tolist()


def test_a_number_that_a_float32_cannot_hold_is_named_with_its_row() -> None:
    model = DecisionTreeClassifier(max_depth=2).fit(ROWS, TARGET)
    given = columns(ROWS) | {"b": np.where(np.arange(60) == 7, -1e39, VALUES[:, 1])}
    with pytest.raises(InvalidInput) as caught:
        engine(model, CLASSES).predict(given)
    assert caught.value.problems == [
        {"loc": (7, "b"), "msg": "Input is too large for the model", "type": "out_of_range"}
    ]


def test_a_number_of_which_the_model_makes_none_is_the_requests_fault() -> None:
    logarithm = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    model = make_pipeline(logarithm, LinearRegression()).fit(ROWS, VALUES[:, 0])
    for value in (-1.0, -2.0):  # minus infinity, and NaN
        with pytest.raises(InvalidInput) as caught:
            engine(model, Target(kind="number")).predict(columns(ROWS) | {"a": np.full(60, value)})
        message = "The model makes of a number one that is infinite or undefined"
        assert caught.value.problems == [{"loc": (), "msg": message, "type": "out_of_range"}]


MARKED = FeatureUnion(
    [("marks", MissingIndicator(missing_values=-999)), ("scaled", StandardScaler())]
)


@pytest.mark.parametrize(
    ("step", "value", "kind"),
    [
        (OneHotEncoder(), 9.0, "unknown_category"),
        (MARKED, -999.0, "missing_value"),
    ],
    ids=["category", "marker"],
)
def test_a_value_that_a_step_within_does_not_take_is_the_requests_fault(
    step: Any, value: float, kind: str
) -> None:
    model = make_pipeline(step, DecisionTreeClassifier()).fit(ROWS, TARGET)
    with pytest.raises(InvalidInput) as caught:
        engine(model, CLASSES).predict(columns(ROWS.assign(a=value)))
    assert [problem["type"] for problem in caught.value.problems] == [kind]
