"""Each lowered step gives what scikit-learn's gives, bit by bit, alone and in a batch."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
    f_regression,
)
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import Lasso, LinearRegression
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeRegressor

from tabserve.inference import signature_of
from tabserve.lower import PREDICTORS, TRANSFORMERS, CannotLower, input_matrix
from tabserve.lower.lowering import Lowering
from tabserve.signature import Signature
from tests.lower.transforming import FULL, NUMBERS, ROWS, THREE, TWO, VALUE, dense, lowered
from tests.naming import stable


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
        (MissingIndicator(), NUMBERS),
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
        (OrdinalEncoder(min_frequency=0.1), ["colour", "size"]),
        (OrdinalEncoder(max_categories=2, encoded_missing_value=-1), ["colour", "size", "b"]),
        (TargetEncoder(), ["colour", "size", "grade", "b"]),
        (TargetEncoder(smooth=3.0), ["shape"]),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
         ["size", "shape"]),
        (make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=None),
                       OneHotEncoder()), ["size"]),
        (OneHotEncoder(drop="if_binary"), ["shape"]),
        (make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OrdinalEncoder()),
         ["size", "shape"]),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
         ["shape", "b", "grade"]),
        (make_pipeline(SimpleImputer(strategy="constant", fill_value="?", add_indicator=True),
                       OrdinalEncoder()), ["shape", "b"]),
        (make_union(StandardScaler(), MinMaxScaler()), NUMBERS),
        (FeatureUnion([("a", StandardScaler()), ("b", "drop")], transformer_weights={"a": 0.3}),
         NUMBERS),
        (make_column_transformer((StandardScaler(), ["b"]), (OneHotEncoder(), ["colour"]),
                                 remainder=SimpleImputer()), ["a", "colour", "b"]),
        (ColumnTransformer([("kept", "passthrough", ["b"]), ("none", "drop", ["colour"]),
                            ("scaled", make_pipeline(StandardScaler(), MinMaxScaler()), ["a"])]),
         ["colour", "a", "b"]),
        (make_column_transformer(
            (make_column_transformer((StandardScaler(), ["a"]), remainder="passthrough"),
             ["b", "a"]), remainder=OneHotEncoder()), ["colour", "a", "b"]),
        (KBinsDiscretizer(quantile_method="averaged_inverted_cdf"), FULL),
        (KBinsDiscretizer(4, encode="onehot-dense", strategy="uniform"), FULL),
        (KBinsDiscretizer([2, 3, 9], encode="ordinal", strategy="kmeans"), FULL),
        (KBinsDiscretizer(encode="ordinal", strategy="uniform", dtype=np.float32), FULL),
        (make_pipeline(StandardScaler(), KBinsDiscretizer(strategy="uniform")), FULL),
        (PolynomialFeatures(), FULL),
        (PolynomialFeatures(4, include_bias=False), FULL),
        (PolynomialFeatures((2, 3), interaction_only=True), FULL),
        (PolynomialFeatures((0, 1)), FULL),
        (PolynomialFeatures((3, 3), include_bias=False), ["c"]),
        (PolynomialFeatures(5, interaction_only=True, include_bias=False), FULL),
        (Normalizer("max"), FULL),
        (QuantileTransformer(n_quantiles=50), ["a", "b", "c", "d"]),
        (QuantileTransformer(n_quantiles=300), ["a", "b", "c", "d"]),
        (QuantileTransformer(n_quantiles=7, subsample=100), ["a", "b", "c", "d"]),
        (VarianceThreshold(2.0), NUMBERS),
        (SelectKBest(f_regression, k=2), FULL),
        (SelectPercentile(f_regression, percentile=60), FULL),
        (SelectFpr(f_regression), FULL),
        (SelectFdr(f_regression), FULL),
        (SelectFwe(f_regression), FULL),
        (GenericUnivariateSelect(f_regression, mode="k_best", param=1), FULL),
        (SelectFromModel(Lasso(0.1)), FULL),
        (SelectFromModel(DecisionTreeRegressor(random_state=0)), NUMBERS),
        (RFE(LinearRegression(), n_features_to_select=2), FULL),
        (RFECV(LinearRegression(), cv=2), FULL),
        (SequentialFeatureSelector(LinearRegression(), n_features_to_select=1, cv=2), FULL),
        *[(FunctionTransformer(function), FULL) for function in (
            None, np.abs, np.ceil, np.floor, np.negative, np.rint, np.sign, np.square, np.absolute,
        )],
        (FunctionTransformer(np.sqrt), ["a", "c", "d"]),
        (FunctionTransformer(np.sign), ["a"]),
        (FunctionTransformer(np.reciprocal), ["c"]),
    ],
    ids=stable,
)  # fmt: skip
@pytest.mark.filterwarnings(
    "ignore:Skipping features without any observed values", "ignore:invalid value"
)
def test_a_lowered_step_is_equal(step: Any, columns: list[str]) -> None:
    rows = ROWS[columns]
    expected = dense(step.fit(rows, VALUE).transform(rows))

    found = lowered(step, rows)

    np.testing.assert_array_equal(found.value, expected)
    assert not found.refused.any()


@pytest.mark.parametrize("target", [TWO, THREE], ids=["two", "three"])
def test_a_target_encoder_is_equal_for_classes(target: Any) -> None:
    rows = ROWS[["colour", "size", "grade"]]
    step = TargetEncoder().fit(rows, target)
    np.testing.assert_array_equal(lowered(step, rows).value, step.transform(rows))


@pytest.mark.parametrize("encoder", [
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.1),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-7),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-7, min_frequency=0.1),
    TargetEncoder(target_type="continuous"),
], ids=stable)  # fmt: skip
def test_an_unknown_category_is_encoded_as_the_encoder_says(encoder: Any) -> None:
    seen = ROWS[["colour"]]
    fitted = encoder.fit(seen, VALUE)
    strange = pd.DataFrame({"colour": ["red", "violet", "grey"]})

    found = lowered(fitted, strange, seen)

    np.testing.assert_array_equal(found.value, dense(fitted.transform(strange)))


@pytest.mark.parametrize("step", [
    OneHotEncoder(), OrdinalEncoder(encoded_missing_value=-1),
    make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
], ids=stable)  # fmt: skip
def test_a_missing_number_of_a_column_of_categories_is_missing(step: Any) -> None:
    grades = pd.Categorical.from_codes(np.arange(60) % 4 - 1, categories=[3, 1, 7])
    rows = pd.DataFrame({"grade": grades})
    expected = dense(step.fit(rows).transform(rows))
    np.testing.assert_array_equal(lowered(step, rows).value, expected)


@pytest.mark.parametrize("step", [
    make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough"),
    make_column_transformer((OneHotEncoder(), ["colour", "b"]), (StandardScaler(), ["a"])),
    make_column_transformer((OrdinalEncoder(), ["colour", "odd"]), (SimpleImputer(), ["a", "b"])),
], ids=stable)  # fmt: skip
def test_numbers_among_python_objects_are_numbers(step: Any) -> None:
    """Such as the columns of one array that holds text too."""
    rows = ROWS[["a", "b", "colour"]].assign(odd=ROWS["b"] % 2 == 1).astype(object)
    expected = dense(step.fit(rows).transform(rows))
    np.testing.assert_array_equal(lowered(step, rows).value, expected)


def test_bins_of_float32_are_found_in_a_graph_of_doubles() -> None:
    rows = ROWS[["c", "d"]].astype("float32")
    step = KBinsDiscretizer(9, encode="ordinal", strategy="uniform").fit(rows)
    np.testing.assert_array_equal(lowered(step, rows).value, step.transform(rows))


@pytest.mark.parametrize("name", ["shape", "grade"])
def test_what_pandas_has_for_missing_is_imputed(name: str) -> None:
    dtype = "string" if name == "shape" else "Int64"
    rows = pd.DataFrame({name: pd.Series(ROWS[name].array, dtype=dtype)})
    imputer = SimpleImputer(missing_values=pd.NA, strategy="most_frequent")
    step = make_pipeline(imputer, OneHotEncoder()).fit(rows)
    np.testing.assert_array_equal(lowered(step, rows).value, dense(step.transform(rows)))


def test_an_indicator_refuses_missing_values_where_none_was_seen() -> None:
    step = MissingIndicator().fit(ROWS[NUMBERS])
    rows = pd.DataFrame({"a": [np.nan, 1, np.nan, 1], "b": [1, np.nan, np.nan, 1.0]})
    with pytest.raises(ValueError, match="have missing values in transform"):
        step.transform(rows)
    assert lowered(step, rows).refused.tolist() == [False, True, True, False]


def test_an_indicator_that_refuses_a_number_is_not_lowered() -> None:
    """A graph would look whether it is there for numbers of 1e30 and more only."""
    rows = pd.DataFrame({"a": [-999.0, 1, 2], "b": [1.0, 2, 3]})
    step = MissingIndicator(missing_values=-999.0).fit(rows)
    with pytest.raises(CannotLower, match="a number that it takes as missing"):
        lowered(step, rows)


def _transformed(step: Any, signature: Signature) -> Any:
    matrix = input_matrix(signature)
    return Lowering(TRANSFORMERS, PREDICTORS, matrix).transform(step, matrix)


@pytest.mark.parametrize("step", [StandardScaler(), MinMaxScaler()])
def test_codes_of_categories_reach_no_step_of_numbers(step: Any) -> None:
    rows = ROWS[["colour"]]
    signature = signature_of(step, rows, "frame", {}, "refuse")
    step.fit(ROWS[["b"]])
    with pytest.raises(CannotLower, match="colour is text or a category"):
        _transformed(step, signature)


def test_a_class_of_the_users_is_not_taken_for_scikit_learns() -> None:
    own = type("StandardScaler", (StandardScaler,), {"__module__": "mine"})().fit(ROWS[["b"]])
    signature = signature_of(own, ROWS[["b"]], "frame", {}, "refuse")
    with pytest.raises(CannotLower, match="StandardScaler has no lowering"):
        _transformed(own, signature)
