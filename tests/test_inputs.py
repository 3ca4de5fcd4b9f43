"""What a library takes: the columns as they were in training, or what is the same to a booster."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

import tabserve
from tabserve import loading, repository
from tabserve.engines.native import NativeEngine
from tabserve.inputs import frame_or_array
from tabserve.lowered import Lowered
from tabserve.parity import columns_of
from tabserve.signature import Feature, Signature
from tabserve.types import Outputs

random = np.random.default_rng(0)
N_ROWS = 120
CITIES = random.choice(["Bonn", "Köln", "", "Ulm\x00"], N_ROWS)
SIZES = random.choice([-10, 20, 2**60 + 1], N_ROWS)
CAT: dict[str, Any] = {"n_estimators": 20, "verbose": 0, "allow_writing_files": False}

# By name the columns that are categories to CatBoost, in all dtypes that it takes for one.
CATEGORIES = {
    "text": pd.Series(CITIES, dtype="str"),
    "objects": pd.Series(CITIES, dtype=object),
    "listed": pd.Series(CITIES, dtype="category"),
    "listed integers": pd.Series(SIZES, dtype="category"),
    "integers": pd.Series(SIZES),
    "small": pd.Series(random.integers(-3, 4, N_ROWS), dtype="int8"),
    "integers of pandas": pd.Series(SIZES, dtype="Int64"),
    "flags": pd.Series(random.random(N_ROWS) < 0.5),
    "flags of pandas": pd.Series(random.random(N_ROWS) < 0.5, dtype="boolean"),
}
MISSING = random.random(N_ROWS) < 0.2
NUMBERS = {
    "double": pd.Series(random.normal(size=N_ROWS)).mask(MISSING),
    "single": pd.Series(random.normal(size=N_ROWS), dtype="float32").mask(MISSING),
    "half": pd.Series(random.normal(size=N_ROWS), dtype="float16").mask(MISSING),
    "count": pd.Series(random.integers(0, 9, N_ROWS)),
    "huge": pd.Series(random.integers(2**62, 2**63 - 1, N_ROWS)),
    "count of pandas": pd.Series(random.integers(0, 9, N_ROWS), dtype="Int64"),
    "count or none": pd.Series(random.choice([1, 2, None], N_ROWS), dtype=object),
    "member": pd.Series(random.random(N_ROWS) < 0.5),
    "member or none": pd.Series(random.choice([True, False, None], N_ROWS), dtype=object),
}
EVERY = pd.DataFrame(NUMBERS | CATEGORIES)
VALUE = random.normal(size=N_ROWS) + (CITIES == "Bonn") + (SIZES == 20) + EVERY["count"]


@pytest.mark.parametrize(
    ("feature", "column", "expected"),
    [
        ({"type": "number", "dtype": "float32"}, np.array([0.1]), pd.Series(np.float32([0.1]))),
        ({"type": "integer", "dtype": "int8"}, np.array([1]), pd.Series([1], dtype="int8")),
        ({"type": "integer", "dtype": "int64", "nullable": True}, np.array([1.0, np.nan]),
         pd.Series([1.0, np.nan])),
        ({"type": "integer", "dtype": "int8", "nullable": True}, np.array([1.0]),
         pd.Series([1], dtype="int8")),
        ({"type": "integer", "dtype": "Int64", "nullable": True}, np.array([1.0, np.nan]),
         pd.Series([1, None], dtype="Int64")),
        ({"type": "boolean", "dtype": "bool"}, np.array([True]), pd.Series([True])),
        ({"type": "boolean", "dtype": "bool", "nullable": True}, np.array([True, None], object),
         pd.Series([True, np.nan], dtype=object)),
        ({"type": "boolean", "dtype": "boolean", "nullable": True}, np.array([True, None], object),
         pd.Series([True, None], dtype="boolean")),
        ({"type": "string", "dtype": "object", "missing": "nan"}, np.array(["a", None], object),
         pd.Series(["a", np.nan], dtype=object)),
        ({"type": "string", "dtype": "object", "missing": "none"}, np.array(["a", None], object),
         pd.Series(["a", None], dtype=object)),
        ({"type": "string", "dtype": "str"}, np.array(["a", None], object),
         pd.Series(["a", None], dtype="str")),
        ({"type": "string", "dtype": "category", "categories": ("b", "a")},
         np.array(["a", None], object), pd.Series(pd.Categorical(["a", None], ["b", "a"]))),
        ({"type": "integer", "dtype": "category", "categories": (1, 2), "nullable": True},
         np.array([2.0, np.nan]), pd.Series(pd.Categorical([2, None], [1, 2]))),
        ({"type": "number", "dtype": "object", "nullable": True}, np.array([1.5, np.nan]),
         pd.Series([1.5, np.nan], dtype=object)),
    ],
)  # fmt: skip
def test_a_column_reaches_the_model_as_it_was_in_training(
    feature: Any, column: Any, expected: Any
) -> None:
    signature = Signature(features=(Feature(name="x", **feature),))
    frame = frame_or_array(signature, {"x": column})
    pd.testing.assert_frame_equal(frame, expected.to_frame("x"))


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float16"])
def test_a_graph_is_given_what_a_column_of_fewer_digits_holds(dtype: str) -> None:
    signature = Signature(features=(Feature(name="x", type="number", dtype=dtype),))
    expected = pd.Series([0.1], dtype=dtype).astype("float64")
    given = Lowered(vocabularies={}, links=()).matrix(signature, {"x": [0.1]})
    assert given.tolist() == [expected.tolist()]


def test_columns_go_to_the_model_in_its_order_by_name() -> None:
    features = tuple(Feature(name=name, type="number", dtype="float64") for name in "ab")
    signature, columns = Signature(features=features), {"b": np.array([2.0]), "a": np.array([1.0])}
    assert list(frame_or_array(signature, columns)) == ["a", "b"]
    array = signature.model_copy(update={"layout": "array"})
    assert frame_or_array(array, columns).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_a_wide_table_is_the_same_frame_as_a_narrow_one(dtype: str) -> None:
    kind: Any = "integer" if dtype == "int64" else "number"
    features = tuple(Feature(name=f"c{i}", type=kind, dtype=dtype) for i in range(40))
    columns = {feature.name: np.arange(3.0) + i for i, feature in enumerate(features)}
    found = frame_or_array(Signature(features=features), columns)
    expected = pd.DataFrame({name: column.astype(dtype) for name, column in columns.items()})
    pd.testing.assert_frame_equal(found, expected)


def native_engine(model: Any, rows: pd.DataFrame, folder: Path, **options: Any) -> NativeEngine:
    packed = tabserve.pack(model, folder, name="m", version="1", data=rows, **options)
    engine = loading.load(repository.find(packed)).engine
    assert isinstance(engine, NativeEngine)
    return engine


def asked(engine: NativeEngine, rows: pd.DataFrame) -> list[Outputs]:
    """All rows at once, as plain values and as arrays, and each alone."""
    values = {
        name: rows[name].astype(object).where(rows[name].notna(), None).tolist() for name in rows
    }
    listed = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    alone = [engine.predict({name: [value] for name, value in row.items()}) for row in listed]
    together = {part: np.concatenate([one[part] for one in alone]) for part in alone[0]}
    return [
        engine.predict(values),
        engine.predict(columns_of(engine._signature, listed)),
        together,
    ]


@pytest.mark.parametrize("name", [*CATEGORIES, "all of them"])
def test_categories_reach_catboost_as_in_a_frame_without_one(name: str, tmp_path: Path) -> None:
    names = list(CATEGORIES) if name == "all of them" else [name]
    rows = EVERY[[*NUMBERS, *names][::-1]]
    model = CatBoostRegressor(**CAT, cat_features=names).fit(rows, VALUE)
    engine = native_engine(model, rows, tmp_path)
    for found in asked(engine, rows):
        assert found["value"].tolist() == model.predict(rows).tolist()
    assert isinstance(engine._inputs(columns_of(engine._signature, [])), np.ndarray)


def test_an_integer_is_rounded_once_though_a_double_lies_between(tmp_path: Path) -> None:
    """Halfway between two numbers of float32, but for a last digit that a double does not hold."""
    border = (2**23 + 2) * 2**39 + 2**38
    rows = pd.DataFrame({"n": border + random.integers(-1, 2, N_ROWS), "c": CITIES})
    model = CatBoostRegressor(**CAT, cat_features=["c"]).fit(rows, rows["n"] > border)
    engine = native_engine(model, rows, tmp_path)
    assert len(set(model.predict(rows[rows["c"] == "Bonn"]))) == 2
    for found in asked(engine, rows):
        assert found["value"].tolist() == model.predict(rows).tolist()


def test_texts_reach_catboost_as_in_a_frame(tmp_path: Path) -> None:
    texts = [" ".join(random.choice(["good", "bad", "late"], 4)) for _ in range(N_ROWS)]
    rows = pd.DataFrame({"review": texts, "city": CITIES, "age": EVERY["double"]})
    model = CatBoostClassifier(**CAT, text_features=["review"], cat_features=["city"])
    model.fit(rows, [text.count("good") > 1 for text in texts])
    for found in asked(native_engine(model, rows, tmp_path), rows):
        assert found["proba"].tolist() == model.predict_proba(rows).tolist()


def test_a_category_that_catboost_never_saw_is_answered_as_the_library_does(tmp_path: Path) -> None:
    rows = EVERY[["double", "text"]]
    model = CatBoostRegressor(**CAT, cat_features=["text"]).fit(rows, VALUE)
    engine = native_engine(model, rows, tmp_path)
    row = pd.DataFrame({"double": [0.5], "text": ["Rome"]})
    found = engine.predict({"double": [0.5], "text": ["Rome"]})
    assert found["value"].tolist() == model.predict(row).tolist()


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_catboost_with_categories_may_end_a_pipeline(output: Any, tmp_path: Path) -> None:
    rows = EVERY[["double", "count", "objects"]]
    steps = make_column_transformer(
        ("passthrough", ["objects", "count"]), remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform=output)  # fmt: skip
    model = make_pipeline(steps, CatBoostRegressor(**CAT, cat_features=[0])).fit(rows, VALUE)
    for found in asked(native_engine(model, rows, tmp_path), rows):
        assert found["value"].tolist() == model.predict(rows).tolist()


def test_the_steps_before_catboost_are_computed_once_for_label_and_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, calls = EVERY[["double", "objects"]], []
    steps = make_column_transformer(("passthrough", ["objects", "double"]))
    model = make_pipeline(steps, CatBoostClassifier(**CAT, cat_features=[0])).fit(rows, VALUE > 5)
    engine = native_engine(model, rows, tmp_path)
    transform = ColumnTransformer.transform

    def counted(self: Any, given: Any) -> Any:
        calls.append(len(given))
        return transform(self, given)

    monkeypatch.setattr(ColumnTransformer, "transform", counted)
    assert engine.predict({"double": [0.5], "objects": ["Bonn"]}).keys() == {"proba", "label"}
    assert calls == [1]


def test_integers_that_are_imputed_are_computed_in_the_dtypes_of_the_training(
    tmp_path: Path,
) -> None:
    """Of int8 and float32 scikit-learn makes float32, and of float64 and float32 a float64."""
    rows = pd.DataFrame({"count": EVERY["small"], "size": EVERY["single"]})
    model = make_pipeline(SimpleImputer(), PCA(2), DecisionTreeRegressor()).fit(rows, VALUE)
    engine = native_engine(model, rows, tmp_path, engine="native")
    missing = rows.assign(count=rows["count"].mask(MISSING))
    for given in (rows, missing):
        found = engine.predict({name: given[name].to_numpy() for name in given})
        assert found["value"].tolist() == model.predict(given).tolist()
