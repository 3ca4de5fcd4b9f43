"""The native engine: inputs as the model was trained on them, outputs as the model gives them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, RandomForestClassifier
from sklearn.impute import MissingIndicator
from sklearn.kernel_approximation import AdditiveChi2Sampler, SkewedChi2Sampler
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    PowerTransformer,
    SplineTransformer,
    StandardScaler,
)
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from tabserve.engines import native
from tabserve.errors import InvalidInput
from tabserve.estimators import estimators
from tabserve.output import Renderer, Target
from tabserve.signature import Feature, Signature
from tests.estimators import ThresholdPipeline
from tests.few_rows import ROWS, TARGET, VALUES

SIGNATURE = Signature(
    features=(
        Feature(name="a", type="number", dtype="float64"),
        Feature(name="b", type="number", dtype="float64"),
    )
)

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
    found = [getattr(inner, "n_jobs", None) for inner in estimators(model)]
    assert sum(isinstance(inner, RandomForestClassifier) for inner in estimators(model)) == 3
    assert set(found) == {None, 1}


def test_a_few_rows_have_one_thread_and_many_the_workers_share() -> None:
    served = native.NativeEngine(
        RandomForestClassifier(2).fit(ROWS, TARGET), SIGNATURE, (CLASSES,), {"proba": None}
    )
    with threadpoolctl.threadpool_limits(2):
        served.predict(columns(ROWS[:1]))
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}


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
        (make_pipeline(MinMaxScaler((1, 2)), PowerTransformer("box-cox")), -9.0, "out_of_range"),
        (SplineTransformer(extrapolation="error"), 9.0, "out_of_range"),
        (AdditiveChi2Sampler(), -9.0, "out_of_range"),
        (SkewedChi2Sampler(), -9.0, "out_of_range"),
    ],
    ids=["category", "marker", "box-cox", "spline", "negative", "skewed"],
)
def test_a_value_that_a_step_within_does_not_take_is_the_requests_fault(
    step: Any, value: float, kind: str
) -> None:
    model = make_pipeline(step, DecisionTreeClassifier()).fit(ROWS, TARGET)
    with pytest.raises(InvalidInput) as caught:
        engine(model, CLASSES).predict(columns(ROWS.assign(a=value)))
    assert [problem["type"] for problem in caught.value.problems] == [kind]
