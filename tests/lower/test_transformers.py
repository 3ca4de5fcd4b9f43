"""Each lowered step gives what scikit-learn's gives, bit by bit, alone and in a batch."""

from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from tabserve.inference import signature_of
from tabserve.lower import PREDICTORS, TRANSFORMERS, CannotLower, input_matrix
from tabserve.lower.lowering import Lowering
from tabserve.lowered import Lowered
from tabserve.parity import columns_of
from tabserve.signature import Signature

random = np.random.default_rng(0)
N_ROWS = 300
ROWS = pd.DataFrame(
    {
        "a": np.where(random.random(N_ROWS) < 0.1, np.nan, random.normal(3, 2, N_ROWS)),
        "b": random.integers(-5, 5, N_ROWS),
        "empty": np.nan,
        "colour": random.choice(
            ["red", "green", "blue", "grey"], N_ROWS, p=[0.6, 0.35, 0.03, 0.02]
        ),
        "size": pd.Series(random.choice(["S", "M", None], N_ROWS), dtype=object),
        "shape": pd.Series(random.choice(["O", "X"], N_ROWS), dtype=object).where(
            random.random(N_ROWS) < 0.7, np.nan
        ),
        "grade": random.choice([1.0, 2.0, np.nan], N_ROWS),
    }
)
NUMBERS = ["a", "b"]


def lowered(step: Any, rows: pd.DataFrame) -> Any:
    """What the step's graph gives, of all rows at once and of each alone."""
    signature = signature_of(step, rows, "frame", {}, "refuse")
    matrix = input_matrix(signature)
    lowering = Lowering(TRANSFORMERS, PREDICTORS, matrix)
    given = lowering.transform(step, matrix)
    session = onnxruntime.InferenceSession(lowering.graph.model(matrix.width, {"out": given.value}))
    vocabularies = {
        column.name: tuple(column.vocabulary.values)
        for column in matrix.columns
        if column.vocabulary is not None
    }
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    plan = Lowered(vocabularies=vocabularies, links=())
    inputs = plan.matrix(signature, columns_of(signature, records))
    (together,) = session.run(None, {"features": inputs})
    alone = [session.run(None, {"features": row[np.newaxis]})[0] for row in inputs]
    np.testing.assert_array_equal(np.concatenate(alone), together)
    return together


@pytest.mark.parametrize(
    ("step", "columns"),
    [
        (SimpleImputer(strategy="mean"), NUMBERS),
        (SimpleImputer(strategy="median", add_indicator=True), NUMBERS),
        (SimpleImputer(strategy="constant", fill_value=-1.5), NUMBERS),
        (SimpleImputer(strategy="most_frequent"), NUMBERS),
        (SimpleImputer(strategy="mean", keep_empty_features=True), ["a", "empty"]),
        (SimpleImputer(missing_values=3, strategy="mean"), ["b"]),
        (MissingIndicator(features="all"), NUMBERS),
        (StandardScaler(), NUMBERS),
        (StandardScaler(with_mean=False), NUMBERS),
        (StandardScaler(with_std=False), NUMBERS),
        (MinMaxScaler(), NUMBERS),
        (MinMaxScaler(feature_range=(-1, 3), clip=True), NUMBERS),
        (MaxAbsScaler(), NUMBERS),
        (MaxAbsScaler(clip=True), NUMBERS),
        (RobustScaler(), NUMBERS),
        (RobustScaler(with_centering=False), NUMBERS),
        (Binarizer(threshold=1), ["b"]),
        (OneHotEncoder(sparse_output=False), ["colour"]),
        (OneHotEncoder(), ["colour", "size", "grade"]),
        (OneHotEncoder(drop="first"), ["colour", "size"]),
        (OneHotEncoder(drop="if_binary"), ["colour", "size"]),
        (OneHotEncoder(min_frequency=0.1), ["colour", "size"]),
        (OneHotEncoder(max_categories=2, drop="first"), ["colour"]),
        (OneHotEncoder(min_frequency=0.1, handle_unknown="infrequent_if_exist"), ["colour", "b"]),
        (OrdinalEncoder(), ["colour", "size", "grade"]),
        (OrdinalEncoder(encoded_missing_value=-1), ["size", "grade"]),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
         ["size", "shape"]),
        (make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=None),
                       OneHotEncoder()), ["size"]),
        (OneHotEncoder(drop="if_binary"), ["shape"]),
        (make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OrdinalEncoder()),
         ["size", "shape"]),
        (make_union(StandardScaler(), MinMaxScaler()), NUMBERS),
        (FeatureUnion([("a", StandardScaler()), ("b", "drop")], transformer_weights={"a": 0.3}),
         NUMBERS),
        (make_column_transformer((StandardScaler(), ["b"]), (OneHotEncoder(), ["colour"]),
                                 remainder=SimpleImputer()), ["a", "colour", "b"]),
        (ColumnTransformer([("kept", "passthrough", ["b"]), ("none", "drop", ["colour"]),
                            ("scaled", make_pipeline(StandardScaler(), MinMaxScaler()), ["a"])]),
         ["colour", "a", "b"]),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
def test_a_lowered_step_is_equal(step: Any, columns: list[str]) -> None:
    rows = ROWS[columns]
    expected = step.fit(rows).transform(rows)
    expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)

    np.testing.assert_array_equal(lowered(step, rows), expected.astype(float))


@pytest.mark.parametrize("encoder", [
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.1),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-7),
], ids=repr)  # fmt: skip
def test_an_unknown_category_is_encoded_as_the_encoder_says(encoder: Any) -> None:
    fitted = encoder.fit(ROWS[["colour"]])
    strange = pd.DataFrame({"colour": ["red", "violet", "grey"]})
    expected = fitted.transform(strange)
    expected = expected.toarray() if hasattr(expected, "toarray") else expected

    signature = signature_of(fitted, ROWS[["colour"]], "frame", {"colour": "allow"}, "refuse")
    matrix = input_matrix(signature)
    lowering = Lowering(TRANSFORMERS, PREDICTORS, matrix)
    given = lowering.transform(fitted, matrix)
    session = onnxruntime.InferenceSession(lowering.graph.model(1, {"out": given.value}))
    values = matrix.columns[0].vocabulary
    assert values is not None
    plan = Lowered(vocabularies={"colour": tuple(values.values)}, links=())
    inputs = plan.matrix(signature, {"colour": strange["colour"].to_numpy(dtype=object)})
    np.testing.assert_array_equal(session.run(None, {"features": inputs})[0], expected)


def _transformed(step: Any, signature: Signature) -> Any:
    matrix = input_matrix(signature)
    return Lowering(TRANSFORMERS, PREDICTORS, matrix).transform(step, matrix)


@pytest.mark.parametrize("step", [StandardScaler(), MinMaxScaler()])
def test_codes_of_categories_reach_no_step_of_numbers(step: Any) -> None:
    rows = ROWS[["colour"]]
    signature = signature_of(step, rows, "frame", {}, "refuse")
    step.fit(ROWS[["b"]])
    with pytest.raises(CannotLower, match="colour is no number"):
        _transformed(step, signature)


def test_a_class_of_the_users_is_not_taken_for_scikit_learns() -> None:
    own = type("StandardScaler", (StandardScaler,), {"__module__": "mine"})().fit(ROWS[["b"]])
    signature = signature_of(own, ROWS[["b"]], "frame", {}, "refuse")
    with pytest.raises(CannotLower, match="StandardScaler has no lowering"):
        _transformed(own, signature)
