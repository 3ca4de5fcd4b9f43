"""What is read off a fitted model and a sample: features, categories, nulls, targets."""

from datetime import timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.svm import OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabserve.errors import PackError
from tabserve.inference import signature_of, with_types
from tabserve.output import Target
from tabserve.sample import layout_of, model_input
from tabserve.signature import Signature
from tabserve.targets import targets_of
from tests.naming import stable

SAMPLE = pd.DataFrame(
    {
        "age": [20, 30, 40, 50, 60, 70],
        "income": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
        "city": ["Ulm", "Kiel", "Ulm", "Bonn", "Kiel", "Bonn"],
        "code": [1, 2, 3, 1, 2, 3],
    }
)
TARGET = ["No", "Yes", "No", "Yes", "No", "Yes"]
CITIES, CODES = ("Bonn", "Kiel", "Ulm"), (1, 2, 3)
# What is read from the model and the sample; the rest is for the user to declare.
SHOWN = {"name", "type", "nullable", "dtype", "missing", "categories", "unknown", "minimum",
         "maximum", "typical"}  # fmt: skip


def signature(model: Any, data: Any = SAMPLE, **unknown: Any) -> Signature:
    return signature_of(
        model, model_input(model, data), layout_of(model, data), unknown, extra_fields="refuse"
    )


def categories(model: Any) -> dict[str, Any]:
    return {feature.name: feature.categories for feature in signature(model).features}


def nullable(model: Any, data: Any = SAMPLE) -> list[str]:
    return [feature.name for feature in signature(model, data).features if feature.nullable]


def pipe(*transformers: Any, **options: Any) -> Pipeline:
    transformer = make_column_transformer(*transformers, **options)
    return make_pipeline(transformer, DecisionTreeClassifier()).fit(SAMPLE, TARGET)


ENCODED = pipe((OneHotEncoder(), ["city", "code"]), remainder="passthrough")


def test_each_column_is_a_feature_with_what_the_sample_shows() -> None:
    assert [feature.model_dump(include=SHOWN) for feature in signature(ENCODED).features[:3]] == [
        common | own
        for common in [{"nullable": False, "missing": "nan", "unknown": "refuse"}]
        for own in [
            {"name": "age", "type": "integer", "dtype": "int64", "categories": None,
             "minimum": 20.0, "maximum": 70.0, "typical": (40, 30, 60)},
            {"name": "income", "type": "number", "dtype": "float64", "categories": None,
             "minimum": 1.5, "maximum": 6.5, "typical": (3.5, 2.5, 5.5)},
            {"name": "city", "type": "string", "dtype": str(SAMPLE["city"].dtype),
             "categories": CITIES, "minimum": None, "maximum": None,
             "typical": ("Ulm", "Kiel", "Bonn")},
        ]
    ]  # fmt: skip


@pytest.mark.parametrize(
    "columns",
    [
        ["city", "code"],
        [2, 3],
        [-2, -1],
        slice(2, None),
        slice("city", "code"),
        slice("city", None),
        [False, False, True, True],
        np.array([2, 3]),
        pd.Index(["city", "code"]),
        make_column_selector("^c"),
    ],
    ids=stable,
)
def test_an_encoders_categories_are_found_however_its_columns_are_named(columns: Any) -> None:
    model = pipe(
        (OneHotEncoder(), columns),
        (StandardScaler(), []),
        (StandardScaler(), make_column_selector(dtype_include="category")),
        ("passthrough", ["age"]),
    )
    assert categories(model) == {"age": None, "income": None, "city": CITIES, "code": CODES}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: Pipeline([("nothing", "passthrough"), ("model", model)]),
        lambda model: GridSearchCV(model, {}, cv=2),
        lambda model: CalibratedClassifierCV(model, cv=2),
        lambda model: MultiOutputClassifier(model),
    ],
)
def test_what_a_pipeline_knows_is_found_inside_whatever_wraps_it(wrap: Any) -> None:
    target = (
        np.array(TARGET)[:, None] if wrap(ENCODED).__class__ is MultiOutputClassifier else TARGET
    )
    inner = make_pipeline(
        ColumnTransformer(
            [
                (
                    "text",
                    make_pipeline(
                        SimpleImputer(strategy="most_frequent"),
                        OneHotEncoder(handle_unknown="ignore"),
                    ),
                    ["city"],
                ),
                ("numbers", make_union(SimpleImputer(), StandardScaler()), ["age"]),
                ("rest", "drop", ["income", "code"]),
            ]
        ),
        DecisionTreeClassifier(),
    )
    model = wrap(inner).fit(SAMPLE, target)
    assert nullable(model) == ["age", "city"]
    assert set(categories(model)["city"]) <= set(CITIES)


@pytest.mark.parametrize(
    "before", [StandardScaler(), KBinsDiscretizer(2, encode="ordinal", quantile_method="linear"),
               FunctionTransformer(np.negative, feature_names_out="one-to-one")],
)  # fmt: skip
def test_categories_of_changed_values_are_not_the_features_own(before: Any) -> None:
    model = pipe((make_pipeline(before, OneHotEncoder(handle_unknown="ignore")), ["code"]))
    assert categories(model)["code"] is None


def test_an_imputers_indicators_hide_no_categories() -> None:
    imputer = SimpleImputer(strategy="most_frequent", add_indicator=True)
    rows = SAMPLE[["city", "code"]].replace("Bonn", np.nan)
    model = make_pipeline(imputer, OneHotEncoder()).fit(rows)
    assert categories(model) == {"city": ("Kiel", "Ulm"), "code": CODES}


def test_imputed_columns_are_nullable_where_what_is_imputed_is_a_missing_value() -> None:
    model = pipe(
        (make_pipeline(StandardScaler(), SimpleImputer()), ["income"]),
        (SimpleImputer(missing_values=-1), ["age"]),
        (
            make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OrdinalEncoder()),
            ["city"],
        ),
    )
    assert nullable(model) == ["income", "city"]


def test_a_missing_value_in_the_sample_or_in_an_encoder_makes_a_feature_nullable() -> None:
    rows = SAMPLE.assign(income=[1.5, None, 3.5, 4.5, 5.5, 6.5])
    assert nullable(pipe(("passthrough", ["income"])), rows) == ["income"]
    with_nan = SAMPLE.assign(city=["Ulm", np.nan, "Ulm", "Bonn", np.nan, "Bonn"])
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["city"])), DecisionTreeClassifier()
    ).fit(with_nan, TARGET)
    assert nullable(model) == ["city"]
    assert categories(model)["city"] == ("Bonn", "Ulm")


@pytest.mark.parametrize(
    ("values", "kind", "may_be_null", "missing"),
    [
        ([1, 2], "integer", False, "nan"),
        ([1, 2.5], "number", False, "nan"),
        (np.array([1, 2], "float32"), "number", False, "nan"),
        (np.array([1, 2], "uint8"), "integer", False, "nan"),
        ([True, False], "boolean", False, "nan"),
        (pd.array([1, None], "Int64"), "integer", True, "nan"),
        (pd.array([1.5, None], "Float32"), "number", True, "nan"),
        (pd.array([True, None], "boolean"), "boolean", True, "nan"),
        (pd.array(["a", None], "string"), "string", True, "nan"),
        (pd.Series(["a", None], dtype=object), "string", True, "none"),
        (pd.Series(["a", np.nan], dtype=object), "string", True, "nan"),
        (pd.Series([True, None], dtype=object), "boolean", True, "none"),
        (pd.Series([1, 2], dtype=object), "integer", False, "nan"),
        (pd.Series([1, 2.5], dtype=object), "number", False, "nan"),
        (pd.Categorical(["a", None]), "string", True, "nan"),
        (pd.Categorical([2, 1]), "integer", False, "nan"),
        (pd.Categorical([True, False]), "boolean", False, "nan"),
    ],
)
def test_a_dtype_is_one_of_four_types(
    values: Any, kind: str, may_be_null: bool, missing: str
) -> None:
    data = pd.DataFrame({"x": values})
    model = make_pipeline(FunctionTransformer(), DecisionTreeClassifier())
    model.steps[0][1].fit(data)
    found = signature(model, data).features[0]
    assert (found.type, found.nullable, found.missing) == (kind, may_be_null, missing)
    assert found.dtype == str(data["x"].dtype)
    assert all(type(value) in (int, float, bool, str) for value in found.typical)


@pytest.mark.parametrize(
    "values",
    [
        pd.to_timedelta([1, 2]),
        [1 + 2j, 3j],
        pd.Series([1, "a"], dtype=object),
        pd.Series([[1], [2]]),
        pd.Categorical(pd.to_datetime(["2024-01-31", "2024-02-01"])),
    ],
)
def test_a_column_of_anything_else_is_refused_by_name(values: Any) -> None:
    data = pd.DataFrame({"when": values})
    model = make_pipeline(FunctionTransformer(), DecisionTreeClassifier())
    model.steps[0][1].fit(data)
    with pytest.raises(PackError, match="in the column when, got"):
        signature(model, data)


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (pd.to_datetime(["2024-01-31T00:00:00.000000001", None]), r"nanoseconds.*floor\(\"us\"\)"),
        (
            pd.to_datetime(["2024-01-31"]).tz_localize(timezone(timedelta(hours=1), "own")),
            r"time zone that a server cannot find.*tz_convert\(\"UTC\"\)",
        ),
        (pd.to_datetime(["2024-01-31"]).tz_localize("dateutil/Europe/Berlin"), "time zone"),
    ],
)
def test_dates_that_no_request_can_have_are_refused(dates: Any, message: str) -> None:
    data = pd.DataFrame({"when": dates})
    model = FunctionTransformer().fit(data)
    with pytest.raises(PackError, match=f"The column when has dates .*{message}"):
        signature(model, data)


def test_text_of_dates_with_nanoseconds_is_refused_too() -> None:
    data = pd.DataFrame({"when": ["2024-01-31T00:00:00.000000001"]})
    with pytest.raises(PackError, match="nanoseconds"):
        with_types(data, {"when": "datetime"})


def test_categories_of_a_category_column_are_its_own_and_of_its_type() -> None:
    data = pd.DataFrame({"x": pd.Categorical([3, 1, 1]), "y": pd.Categorical(list("bab"))})
    model = make_pipeline(FunctionTransformer(), DecisionTreeClassifier())
    model.steps[0][1].fit(data)
    assert [feature.categories for feature in signature(model, data).features] == [
        (1, 3),
        ("a", "b"),
    ]


def test_the_samples_columns_are_taken_by_name_in_the_models_order() -> None:
    turned = SAMPLE[["code", "city", "income", "age"]].assign(more=1)
    assert list(model_input(ENCODED, turned)) == ["age", "income", "city", "code"]
    with pytest.raises(PackError, match=r"lacks the column\(s\) age, code, .* it has income, city"):
        model_input(ENCODED, SAMPLE[["income", "city"]])


def test_a_model_of_a_bare_array_has_numbered_features() -> None:
    values = np.arange(12.0).reshape(6, 2)
    model = DecisionTreeClassifier().fit(values, TARGET)
    found = signature(model, values)
    assert ([feature.name for feature in found.features], found.layout) == (["x0", "x1"], "array")
    with pytest.raises(PackError, match="takes 2 columns and the sample has 4"):
        signature(model, SAMPLE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SAMPLE[:0], "no rows"),
        (SAMPLE[["age", "age", "income", "city", "code"]], "several columns named age"),
        (np.arange(3), "two dimensions"),
    ],
)
def test_a_sample_that_cannot_be_used_is_refused(data: Any, message: str) -> None:
    with pytest.raises(PackError, match=message):
        model_input(ENCODED, data)


def test_a_policy_for_what_is_no_feature_is_refused() -> None:
    assert signature(ENCODED, city="allow").features[2].unknown == "allow"
    with pytest.raises(PackError, match="A policy names town"):
        signature(ENCODED, town="allow")


# Targets

NUMBERS = SAMPLE[["age", "income"]]
TWO_VALUES = pd.DataFrame({"price": range(6), "size": range(6)})


@pytest.mark.parametrize(
    ("model", "target", "expected"),
    [
        (DecisionTreeClassifier(), TARGET,
         [Target(kind="classes", classes=("No", "Yes"), has_proba=True)]),
        (LogisticRegression(), [True, False] * 3,
         [Target(kind="classes", classes=(False, True), has_proba=True)]),
        (DecisionTreeClassifier(), [0, 1, 2] * 2,
         [Target(kind="classes", classes=(0, 1, 2), has_proba=True)]),
        (Ridge(), range(6), [Target(kind="number")]),
        (LinearRegression(), np.zeros((6, 1)), [Target(kind="number")]),
        (make_pipeline(StandardScaler(), LinearRegression()), TWO_VALUES,
         [Target(name="price", kind="number"), Target(name="size", kind="number")]),
        (DecisionTreeRegressor(), np.zeros((6, 2)),
         [Target(name="output_0", kind="number"), Target(name="output_1", kind="number")]),
        (DecisionTreeClassifier(), pd.DataFrame({"a": TARGET, "b": TARGET[::-1]}),
         [Target(name=name, kind="classes", classes=("No", "Yes"), has_proba=True)
          for name in "ab"]),
    ],
)  # fmt: skip
def test_targets_are_what_the_model_answers(model: Any, target: Any, expected: Any) -> None:
    assert targets_of(model.fit(NUMBERS, target), NUMBERS, target) == tuple(expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_labels_that_exclude_one_another_not_at_all_are_refused_with_the_way_out() -> None:
    several = np.array([[0, 1], [1, 1], [1, 0]] * 2)
    model = MLPClassifier((2,), max_iter=2).fit(NUMBERS, several)
    with pytest.raises(PackError, match="fit a MultiOutputClassifier"):
        targets_of(model, NUMBERS, several)


@pytest.mark.parametrize(("model", "classes", "has"), [
    (KMeans(2, n_init=1), (0, 1), {}),
    (make_pipeline(StandardScaler(), KMeans(3, n_init=1)), (0, 1, 2), {}),
    (GaussianMixture(2), (0, 1), {"has_proba": True}),
    (IsolationForest(n_estimators=2), (-1, 1), {"has_score": True}),
    (make_pipeline(StandardScaler(), OneClassSVM()), (-1, 1), {"has_score": True}),
], ids=stable)  # fmt: skip
def test_clusters_and_outliers_are_classes(model: Any, classes: Any, has: Any) -> None:
    expected = Target(kind="classes", classes=classes, **has)
    assert targets_of(model.fit(NUMBERS), NUMBERS, None) == (expected,)


def test_a_transformer_answers_the_columns_that_it_makes() -> None:
    model = make_pipeline(StandardScaler(), PCA(2)).fit(NUMBERS)
    names = [target.name for target in targets_of(model, NUMBERS, None)]
    assert names == ["pca0", "pca1"]


@pytest.mark.parametrize("model", [DBSCAN()])
def test_what_takes_no_new_rows_is_refused(model: Any) -> None:
    with pytest.raises(PackError, match="Expected a classifier, a regressor"):
        targets_of(model.fit(NUMBERS), NUMBERS, None)
