"""Lowered boosters against their own libraries, on rows that no training saw: to the last bit, but
for the links of LightGBM and CatBoost, whose exp is the C library's.
"""

from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from xgboost import XGBClassifier, XGBRegressor, XGBRFClassifier, XGBRFRegressor

from tabserve.engines.onnx import OnnxEngine
from tabserve.inference import signature_of
from tabserve.lower import CannotLower, lower
from tabserve.output import Renderer
from tabserve.parity import in_batches
from tabserve.targets import targets_of
from tabserve.types import Columns, Outputs

NAMES = list("abcdef")
random = np.random.default_rng(0)


def numbers(n_rows: int, spread: float) -> Any:
    """Some missing, some whole, some 0 or -0.0, some beyond float32."""
    values = random.normal(0, spread, (n_rows, len(NAMES)))
    values[:, 2] = random.integers(-3, 4, n_rows)
    values[:, 3] = values[:, 3].round(1)
    values[random.random(values.shape) < 0.1] = np.nan
    return values


TRAINING = numbers(400, 1.0)
FRESH = numbers(800, 2.0)
FRESH[:40] = random.choice([0.0, -0.0, 1e39, -1e39, 1e-40, 1e-36, np.nan], (40, len(NAMES)))
filled = np.nan_to_num(TRAINING)
VALUE = 2 * filled[:, 0] + np.sin(3 * filled[:, 1]) + filled[:, 2] * filled[:, 3]
TARGETS = {
    "value": VALUE,
    "positive": np.exp(VALUE / 8),
    "share": 1 / (1 + np.exp(-VALUE)),
    "values": np.stack([VALUE, VALUE**2], axis=1),
    "two": (VALUE > 0).astype(int),
    "three": np.digitize(VALUE, [-1, 1]),
    "words": np.where(VALUE > 0, "Yes", "No"),
}

XGB: dict[str, Any] = {"n_estimators": 15, "n_jobs": 1}
LGB: dict[str, Any] = {"n_estimators": 15, "n_jobs": 1, "verbose": -1}
RF: dict[str, Any] = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
CAT: dict[str, Any] = {
    "n_estimators": 15, "verbose": 0, "allow_writing_files": False, "thread_count": 1,
}  # fmt: skip


def named(value: Any) -> str:
    return type(value).__name__ if hasattr(value, "fit") else str(value)[:20].strip()


def answers(model: Any, values: Any) -> Outputs:
    """What the library says."""
    if hasattr(model, "predict_proba"):
        label = np.asarray(model.predict(values)).reshape(-1)
        return {"label": label, "proba": model.predict_proba(values).astype(np.float64)}
    predicted = np.asarray(model.predict(values), dtype=np.float64).reshape(len(values), -1)
    several = predicted.shape[1] > 1
    return {
        f"output_{i}.value" if several else "value": column for i, column in enumerate(predicted.T)
    }


def engine_of(model: Any) -> OnnxEngine:
    rows = pd.DataFrame(TRAINING, columns=NAMES)
    signature = signature_of(model, rows, "array", {}, "refuse")
    targets = targets_of(model, TRAINING[:2], None)
    parts = Renderer(targets, None).parts
    lowered = lower(model, signature, parts)
    return OnnxEngine(lowered.graph, lowered.refused, lowered.plan, signature, targets, parts)


def columns_of(values: Any) -> Columns:
    return {name: values[:, i] for i, name in enumerate(NAMES)}


def assert_lowered_exactly(model: Any, close: bool = False) -> None:
    engine = engine_of(model)
    for size, n_rows in [(len(FRESH), len(FRESH)), (7, 140), (1, 60)]:
        found = in_batches(engine, columns_of(FRESH[:n_rows]), size)
        expected = answers(model, FRESH[:n_rows])
        assert found.keys() == expected.keys()
        for part, values in found.items():
            if close and values.dtype.kind == "f":
                np.testing.assert_allclose(values, expected[part], rtol=1e-12, atol=1e-15)
            else:
                np.testing.assert_array_equal(values, expected[part])


@pytest.mark.parametrize(("model", "target"), [
    (XGBClassifier(**XGB), "two"),
    (XGBClassifier(**XGB), "three"),
    (XGBClassifier(**XGB, missing=0), "two"),
    (XGBClassifier(**XGB, base_score=0.3), "two"),
    (XGBClassifier(**XGB, booster="dart", rate_drop=0.3), "three"),
    (XGBClassifier(**XGB, num_parallel_tree=2, subsample=0.5), "three"),
    (XGBRFClassifier(**XGB), "three"),
    (XGBRFRegressor(**XGB), "value"),
    (XGBRegressor(**XGB), "value"),
    (XGBRegressor(**XGB), "values"),
    (XGBRegressor(**XGB, booster="dart", rate_drop=0.3), "value"),
    (XGBRegressor(**XGB, objective="reg:absoluteerror"), "value"),
    (XGBRegressor(**XGB, objective="reg:pseudohubererror"), "value"),
    (XGBRegressor(**XGB, objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]), "value"),
    (XGBRegressor(**XGB, objective="reg:squaredlogerror"), "positive"),
    (XGBRegressor(**XGB, objective="reg:logistic"), "share"),
    (XGBRegressor(**XGB, objective="count:poisson"), "positive"),
    (XGBRegressor(**XGB, objective="reg:gamma"), "positive"),
    (XGBRegressor(**XGB, objective="reg:tweedie"), "positive"),
    (LGBMRegressor(**LGB), "value"),
    (LGBMRegressor(**LGB, objective="regression_l1"), "value"),
    (LGBMRegressor(**LGB, objective="quantile"), "value"),
    (LGBMRegressor(**LGB, reg_sqrt=True), "value"),
    (LGBMRegressor(**LGB, zero_as_missing=True), "value"),
    (LGBMRegressor(**LGB, use_missing=False), "value"),
    (LGBMRegressor(**LGB, boosting_type="dart"), "value"),
    (LGBMRegressor(**LGB, **RF), "value"),
    (LGBMClassifier(**LGB, **RF), "three"),
    (CatBoostRegressor(**CAT), "value"),
    (CatBoostRegressor(**CAT, loss_function="MAE"), "value"),
    (CatBoostRegressor(**CAT, loss_function="MultiRMSE"), "values"),
    (CatBoostRegressor(**CAT, nan_mode="Max"), "value"),
    (CatBoostRegressor(**CAT, grow_policy="Depthwise"), "value"),
    (CatBoostRegressor(**CAT, grow_policy="Lossguide"), "value"),
], ids=named)  # fmt: skip
def test_a_lowered_booster_is_equal_to_the_last_bit(model: Any, target: str) -> None:
    # LightGBM's forest of classes ends in a softmax.
    is_close = isinstance(model, LGBMClassifier)
    assert_lowered_exactly(model.fit(TRAINING, TARGETS[target]), close=is_close)


@pytest.mark.parametrize(("model", "target"), [
    (LGBMClassifier(**LGB), "words"),
    (LGBMClassifier(**LGB, sigmoid=0.7), "two"),
    (LGBMClassifier(**LGB), "three"),
    (LGBMClassifier(**LGB, objective="multiclassova"), "three"),
    (LGBMRegressor(**LGB, objective="poisson"), "positive"),
    (LGBMRegressor(**LGB, objective="gamma"), "positive"),
    (LGBMRegressor(**LGB, objective="tweedie"), "positive"),
    (LGBMRegressor(**LGB, objective="cross_entropy"), "share"),
    (CatBoostClassifier(**CAT), "words"),
    (CatBoostClassifier(**CAT), "three"),
    (CatBoostClassifier(**CAT, loss_function="MultiClassOneVsAll"), "three"),
    (CatBoostClassifier(**CAT, grow_policy="Lossguide"), "three"),
    (CatBoostRegressor(**CAT, loss_function="Poisson"), "positive"),
    (CatBoostRegressor(**CAT, loss_function="Tweedie:variance_power=1.5"), "positive"),
], ids=named)  # fmt: skip
def test_a_lowered_booster_with_a_link_of_doubles_is_close(model: Any, target: str) -> None:
    assert_lowered_exactly(model.fit(TRAINING, TARGETS[target]), close=True)


def test_categories_that_are_numbers_are_those_of_lightgbm() -> None:
    """It looks at the whole part, and takes what is negative or missing for none of them."""
    model = LGBMRegressor(**LGB, min_child_samples=5, min_data_per_group=5)
    values = np.where(TRAINING < 0, np.nan, TRAINING)
    model.fit(values, VALUE, categorical_feature=[2])
    assert "cat_threshold" in model.booster_.model_to_string()
    assert_lowered_exactly(model)


def test_training_that_stopped_early_counts_up_to_its_best_iteration() -> None:
    new = numbers(100, 1.0)
    held_out = [(new, np.digitize(np.nan_to_num(new[:, 0]), [-1, 1]))]
    three = TARGETS["three"]
    stop = lightgbm.early_stopping(2, verbose=False)
    ((rows, labels),) = held_out
    models = [
        XGBClassifier(n_estimators=200, early_stopping_rounds=2).fit(
            TRAINING, three, eval_set=held_out, verbose=False
        ),
        LGBMClassifier(**LGB | {"n_estimators": 200}).fit(
            TRAINING, three, eval_X=rows, eval_y=labels, callbacks=[stop]
        ),
        CatBoostClassifier(**CAT | {"n_estimators": 200, "learning_rate": 0.5}).fit(
            TRAINING, three, eval_set=held_out, early_stopping_rounds=2
        ),
    ]
    for model in models:
        assert_lowered_exactly(model, close=not isinstance(model, XGBClassifier))


@pytest.mark.parametrize("booster", [
    XGBClassifier(**XGB), LGBMClassifier(**LGB), CatBoostClassifier(**CAT)
], ids=named)  # fmt: skip
def test_a_booster_may_end_a_pipeline(booster: Any) -> None:
    steps = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [0, 1, 4]), remainder="passthrough"
    )
    model = make_pipeline(steps, make_union(MinMaxScaler(), SimpleImputer()), booster)
    model.fit(TRAINING, TARGETS["two"])
    engine, rows = engine_of(model), FRESH[40:]

    found, expected = engine.predict(columns_of(rows)), model.predict_proba(rows)
    tolerance = 0 if isinstance(booster, XGBClassifier) else 1e-12
    assert np.abs(found["proba"] - expected).max() <= tolerance


def test_zeros_that_a_sparse_matrix_leaves_out_are_missing_for_xgboost() -> None:
    values = np.nan_to_num(TRAINING)
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), [2]),
        (StandardScaler(), [0]),
        remainder="passthrough",
        sparse_threshold=1.0,
    )
    model = make_pipeline(encoder, XGBClassifier(**XGB)).fit(values, TARGETS["two"])
    rows = np.nan_to_num(FRESH[40:])
    rows[::3, 0] = values[:, 0].mean()

    found = engine_of(model).predict(columns_of(rows))["proba"]
    np.testing.assert_array_equal(found, model.predict_proba(rows))


CODES = pd.DataFrame({"a": TRAINING[:, 0], "c": np.abs(filled[:, 2]).astype(int)})


@pytest.mark.parametrize(("model", "rows", "why"), [
    (XGBRegressor(booster="gblinear"), TRAINING, "XGBoost's gblinear"),
    (XGBRegressor(multi_strategy="multi_output_tree"), TRAINING, "trees of several outputs"),
    (XGBRegressor(feature_types=["q", "c"]), CODES, "categories that its file does not list"),
    (CatBoostRegressor(**CAT, cat_features=["c"]), CODES.astype({"c": "category"}),
     "categories, text or embeddings"),
    (LGBMRegressor(**LGB, linear_tree=True), TRAINING, "linear trees"),
    (CatBoostRegressor(**CAT, loss_function="RMSEWithUncertainty"), TRAINING,
     "the loss RMSEWithUncertainty"),
], ids=named)  # fmt: skip
def test_what_has_no_exact_graph_says_why(model: Any, rows: Any, why: str) -> None:
    several = getattr(model, "multi_strategy", None) is not None
    model.fit(rows, TARGETS["values" if several else "value"])
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=NAMES)
    with pytest.raises(CannotLower, match=why):
        lower(model, signature_of(model, frame, "frame", {}, "refuse"), {"value": None})


def test_the_base_margin_is_the_librarys_for_any_base_score() -> None:
    """Trees that add nothing: what is left is a logarithm in float32."""
    rows, two = TRAINING[:20], TARGETS["two"][:20]
    for base_score in random.uniform(0.001, 0.999, 300):
        model = XGBClassifier(
            n_estimators=1, max_depth=1, learning_rate=0, base_score=base_score, n_jobs=1
        )
        (score,) = engine_of(model.fit(rows, two))._scores.run(None, {"features": rows[:1]})
        assert score.tolist() == [model.predict(rows[:1], output_margin=True).tolist()]


@pytest.mark.parametrize("model", [XGBRegressor(**XGB), LGBMRegressor(**LGB)], ids=named)
def test_trees_without_a_decision_are_their_leaf(model: Any) -> None:
    assert_lowered_exactly(model.fit(np.ones_like(TRAINING), VALUE))
