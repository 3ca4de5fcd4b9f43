"""Fitted models of every family and kind of input, packed, served and compared with what their own
library says of rows that neither training nor packing saw.
"""

import asyncio
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import onnxruntime
import orjson
import pandas as pd
import pytest
import skops.io
import xgboost
from skl2onnx.common import data_types as types
from sklearn.base import is_outlier_detector
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

import tabserve
from tabserve import Service, packing
from tabserve.artifact import Artifact
from tests.functions import Scaled, days_since, described, doubled
from tests.serving import client_of, settings

random = np.random.default_rng(0)
N_ROWS, N_FRESH = 160, 40
CITIES = ["Bonn", "Köln", "東京", 'O\'Fallon, "MO"']
WORDS = ["late", "fine", "größer", "broken", "thanks", "naïve", "丈夫"]


def rows_of(n: int) -> pd.DataFrame:
    """Numbers, some missing; categories; text; booleans; nullable integers."""
    return pd.DataFrame(
        {
            "age": random.integers(18, 90, n),
            "income": np.where(random.random(n) < 0.2, np.nan, random.lognormal(7, 1, n)),
            "city": random.choice(CITIES, n),
            "remark": [" ".join(random.choice(WORDS, 4)) for _ in range(n)],
            "member": random.random(n) < 0.5,
            "visits": pd.array(random.integers(0, 9, n), dtype="Int64"),
            "size": pd.Categorical(random.choice(["S", "M", "L"], n), ["S", "M", "L"]),
        }
    ).assign(visits=lambda rows: rows["visits"].mask(random.random(n) < 0.1))


ROWS, FRESH = rows_of(N_ROWS), rows_of(N_FRESH)
FRESH.loc[::9, "city"] = "Nowhere"
NUMBERS = ["age", "income", "member"]
ARRAY, FRESH_ARRAY = (rows[["age", "income"]].fillna(0).to_numpy() for rows in (ROWS, FRESH))
score = ROWS["age"] / 50 + (ROWS["city"] == "Köln") - ROWS["income"].fillna(2e3) / 2e3
YES = (score > 0).astype(int).to_numpy()
WORD = np.where(YES, "ja", "nein")
THREE = pd.cut(score, 3, labels=False).to_numpy()
VALUE = score.to_numpy()

XGB: dict[str, Any] = {"max_depth": 3}
LGB: dict[str, Any] = {"verbose": -1, "num_threads": 1}
CAT: dict[str, Any] = {"iterations": 5, "verbose": 0, "allow_writing_files": False}


@dataclass
class Case:
    """model: what is packed: the fitted model, or a file of it.
    expected: by field of the answers, what the library says of the fresh rows.
    """

    model: Any
    rows: Any
    fresh: Any
    expected: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def fitted(model: Any, rows: Any, fresh: Any, target: Any = None, **options: Any) -> Case:
    """A scikit-learn estimator, and what it says itself."""
    model.fit(rows, target)
    return Case(model, rows, fresh, answers_of(model, fresh), options)


def answers_of(model: Any, rows: Any) -> dict[str, Any]:
    if not hasattr(model, "predict"):
        made = model.transform(rows)
        return dict(zip(model.get_feature_names_out(), np.asarray(made).T, strict=True))
    predicted = model.predict(rows)
    if predicted.ndim == 2:
        return {f"output_{i}": column for i, column in enumerate(predicted.T)}
    expected = {"prediction": predicted}
    if hasattr(model, "predict_proba"):
        expected["probabilities"] = model.predict_proba(rows)
    elif is_outlier_detector(model):
        expected["score"] = model.decision_function(rows)
    return expected


def saved(case: Case, path: Path, save: Callable[[Any, Path], Any], **options: Any) -> Case:
    """The same model as a file."""
    save(case.model, path)
    return Case(path, case.rows, case.fresh, case.expected, case.options | options)


def function(found: Any, names: list[str]) -> Case:
    """A user's own, which a server runs where that is allowed."""
    called = found().predict if isinstance(found, type) else found
    rows, fresh = (table[["age", "income", "city", "member"]] for table in (ROWS, FRESH))
    said = called({name: fresh[name].to_numpy() for name in fresh})
    if inspect.iscoroutine(said):
        said = asyncio.run(said)
    said = pd.DataFrame(said) if len(names) > 1 else pd.DataFrame({names[0]: said})
    expected = {name: said[name].to_numpy() for name in names}
    return Case(found, rows, fresh, expected, {"serving": {"allow_code": True}})


def several(case: Case) -> Case:
    """Labels with probabilities, each a field of its own."""
    probabilities = case.model.predict_proba(case.fresh)
    for i, proba in enumerate(probabilities):
        labels = case.expected[f"output_{i}"]
        case.expected[f"output_{i}"] = {"prediction": labels, "probabilities": proba}
    return case


def numbers(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[NUMBERS].astype({"member": int})


def xgboost_file(folder: Path, name: str, objective: str, target: Any) -> Case:
    parameters = XGB | {"objective": objective}
    if objective.startswith("multi:"):
        parameters["num_class"] = 3
    rows, fresh = numbers(ROWS), numbers(FRESH)
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, target), 5)
    booster.save_model(folder / name)
    said = booster.predict(xgboost.DMatrix(fresh)).astype(float)
    return Case(folder / name, rows, fresh, as_answers(said, objective))


def lightgbm_file(folder: Path, objective: str, target: Any, rows: Any, fresh: Any) -> Case:
    parameters = LGB | {"objective": objective}
    if objective == "multiclass":
        parameters["num_class"] = 3
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, target), 5)
    booster.save_model(folder / "m.txt")
    return Case(folder / "m.txt", rows, fresh, as_answers(booster.predict(fresh), objective))


def renamed(case: Case, classes: list[str]) -> Case:
    """Of a booster's file, with names for what are numbers in it."""
    case.expected["prediction"] = np.array(classes)[case.expected["prediction"]]
    case.options["classes"] = classes
    return case


def catboost_file(folder: Path, loss: str, target: Any) -> Case:
    rows, fresh = numbers(ROWS), numbers(FRESH)
    model = catboost.CatBoost(CAT | {"loss_function": loss}).fit(rows, target)
    model.save_model(str(folder / "m.cbm"))
    expected = {"prediction": model.predict(fresh)}
    if loss != "RMSE":
        expected = {
            "prediction": model.predict(fresh, "Class").reshape(-1),
            "probabilities": model.predict(fresh, "Probability"),
        }
    return Case(folder / "m.cbm", rows, fresh, expected)


def as_answers(said: Any, objective: str) -> dict[str, Any]:
    """What a booster's number, or numbers, come to."""
    if said.ndim == 2:
        return {"prediction": said.argmax(axis=1), "probabilities": said}
    if objective.startswith("binary"):
        return {"prediction": (said > 0.5).astype(int), "probability": said}
    return {"prediction": said}


def converted(
    folder: Path, model: Any, rows: Any, fresh: Any, kinds: list[Any], **options: Any
) -> Case:
    """A user's own ONNX file, and what onnxruntime says of it."""
    import skl2onnx

    onnx_model = skl2onnx.convert_sklearn(model, initial_types=kinds, options=options or None)
    path = folder / "m.onnx"
    path.write_bytes(onnx_model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.get_inputs()
    if len(given) == 1:
        fed: dict[str, Any] = {given[0].name: np.asarray(fresh, np.float32)}
    else:
        kinds_of = {"tensor(string)": object, "tensor(int64)": np.int64}
        fed = {
            one.name: fresh[[one.name]].to_numpy().astype(kinds_of.get(one.type, np.float32))
            for one in given
        }
    said = session.run(None, fed)
    expected = {"prediction": np.asarray(said[0]).reshape(len(fresh))}
    if len(said) == 2:
        rows_said = said[1]
        if isinstance(rows_said, list):
            rows_said = np.array([[row[key] for key in sorted(row)] for row in rows_said])
        expected["probabilities"] = rows_said.astype(float)
    return Case(path, rows, fresh, expected)


def table(columns: list[str]) -> Any:
    """Categories that may be unknown, numbers that may be missing."""
    return make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
        (OneHotEncoder(handle_unknown="ignore"), columns),
    )


def mlflow_folder(case: Case, flavour: str, file: str, **told: Any) -> Case:
    """A folder as MLflow writes it, around the file of a model."""
    case.model.rename(case.model.with_name(file))
    key = "pickled_model" if flavour == "sklearn" else "data"
    lines = [f"    {name}: {value}" for name, value in ({key: file} | told).items()]
    others = ["  python_function:", "    loader_module: mlflow.sklearn"]
    text = "\n".join(["flavors:", *others, f"  {flavour}:", *lines, "run_id: 1"])
    case.model.with_name("MLmodel").write_text(text)
    return Case(case.model.parent, case.rows, case.fresh, case.expected, case.options)


def wide(n_columns: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numbers alone, some missing."""
    names = [f"measure {i}" for i in range(n_columns)]
    tables = [random.normal(size=(n, n_columns)) for n in (N_ROWS, N_FRESH)]
    rows, fresh = (pd.DataFrame(table, columns=names).mask(table > 2) for table in tables)
    return rows, fresh


FLOATS = [("X", types.FloatTensorType([None, 2]))]
DATED, DATED_FRESH = (
    rows[["age"]].assign(
        joined=pd.Timestamp("2024-02-28 23:30")
        + pd.to_timedelta(random.integers(0, 9**7, len(rows)), unit="s")
    )
    for rows in (ROWS, FRESH)
)
FULL, FULL_FRESH = (
    rows[["income", "age", "city"]].fillna({"income": 0.0}) for rows in (ROWS, FRESH)
)
ANY_CITY = {"unknown": {"city": "allow"}}

CASES: dict[str, Callable[[Path], Case]] = {
    "forest in a pipeline, words": lambda folder: fitted(
        make_pipeline(table(["city"]), RandomForestClassifier(5, random_state=0)),
        ROWS, FRESH, WORD, **ANY_CITY,
    ),
    "skops file, three classes": lambda folder: saved(
        fitted(
            make_pipeline(table(["city"]), LogisticRegression()), ROWS, FRESH, THREE, **ANY_CITY
        ),
        folder / "m.skops", lambda model, path: skops.io.dump(model, path),
    ),
    "joblib file, a value": lambda folder: saved(
        fitted(RandomForestRegressor(5, random_state=0), ARRAY, FRESH_ARRAY, VALUE),
        folder / "m.joblib", joblib.dump, allow_pickle=True,
    ),
    "a function": lambda folder: function(doubled, ["prediction"]),
    "an async function of records": lambda folder: function(described, ["group", "where", "age"]),
    "a class": lambda folder: function(Scaled, ["a", "b"]),
    "several values": lambda folder: fitted(
        LinearRegression(), ARRAY, FRESH_ARRAY, np.stack([VALUE, YES], axis=1)
    ),
    "several labels": lambda folder: several(
        fitted(MultiOutputClassifier(DecisionTreeClassifier(max_depth=3)), ARRAY, FRESH_ARRAY,
               np.stack([THREE, YES], axis=1))
    ),
    "outliers, lowered": lambda folder: fitted(
        IsolationForest(n_estimators=5, random_state=0), ARRAY, FRESH_ARRAY
    ),
    "outliers, native": lambda folder: fitted(
        LocalOutlierFactor(novelty=True), ARRAY, FRESH_ARRAY
    ),
    "clusters": lambda folder: fitted(KMeans(3, n_init=1), ARRAY, FRESH_ARRAY),
    "clusters with probabilities": lambda folder: fitted(
        make_pipeline(StandardScaler(), GaussianMixture(3, random_state=0)), ARRAY, FRESH_ARRAY
    ),
    "a transformer": lambda folder: fitted(
        make_pipeline(SimpleImputer(), StandardScaler(), PCA(2)), numbers(ROWS), numbers(FRESH)
    ),
    "a transformer of categories": lambda folder: fitted(
        table(["city", "size"]), ROWS, FRESH, **ANY_CITY
    ),
    "text in a column": lambda folder: saved(
        fitted(
            make_pipeline(
                make_column_transformer(
                    (TfidfVectorizer(), "remark"), (CountVectorizer(), "city"),
                    (HashingVectorizer(n_features=16), "remark"),
                ),
                LogisticRegression(),
            ),
            ROWS, FRESH, WORD,
        ),
        folder / "m.skops", lambda model, path: skops.io.dump(model, path),
    ),
    "text alone": lambda folder: fitted(
        make_pipeline(TfidfVectorizer(), LogisticRegression()), ROWS["remark"], FRESH["remark"], YES
    ),
    "booleans, nullable integers and categoricals": lambda folder: fitted(
        HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype"),
        *(rows[["member", "visits", "size", "income"]] for rows in (ROWS, FRESH)), YES,
    ),
    "dates": lambda folder: fitted(
        make_pipeline(
            make_column_transformer(
                (FunctionTransformer(days_since), ["joined"]), remainder="passthrough"
            ),
            RandomForestRegressor(5, random_state=0),
        ),
        DATED, DATED_FRESH, VALUE, format="joblib", serving={"allow_pickle": True},
    ),
    "ordinal categories": lambda folder: fitted(
        make_pipeline(
            make_column_transformer(
                (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["city"]),
                (SimpleImputer(), ["visits"]),
            ),
            RandomForestRegressor(5, random_state=0),
        ),
        ROWS, FRESH, VALUE, **ANY_CITY,
    ),
    "wide": lambda folder: fitted(
        make_pipeline(SimpleImputer(), RandomForestClassifier(3, random_state=0)),
        *wide(400), WORD, engine="native",
    ),
    "lightgbm with categoricals": lambda folder: fitted(
        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1),
        *(rows[["member", "size", "income"]] for rows in (ROWS, FRESH)), WORD,
    ),
    "xgboost with categoricals": lambda folder: fitted(
        xgboost.XGBRegressor(n_estimators=5, enable_categorical=True),
        *(rows[["member", "size", "income"]] for rows in (ROWS, FRESH)), VALUE,
    ),
    "catboost with categories": lambda folder: fitted(
        catboost.CatBoostRegressor(**CAT, cat_features=["city"]),
        *(rows[["city", "age", "income"]] for rows in (ROWS, FRESH)), VALUE,
    ),
    "xgboost .json": lambda folder: xgboost_file(folder, "m.json", "binary:logistic", YES),
    "xgboost .json, names of classes": lambda folder: renamed(
        xgboost_file(folder, "m.json", "binary:logistic", YES), ["nein", "ja"]
    ),
    "lightgbm .txt, names of three": lambda folder: renamed(
        lightgbm_file(folder, "multiclass", THREE, ARRAY, FRESH_ARRAY), ["low", "mid", "high"]
    ),
    "xgboost .ubj, three": lambda folder: xgboost_file(folder, "m.ubj", "multi:softprob", THREE),
    "xgboost .ubj, a value": lambda folder: xgboost_file(folder, "m.ubj", "reg:gamma", YES + 1),
    "lightgbm .txt": lambda folder: lightgbm_file(
        folder, "binary", YES, numbers(ROWS), numbers(FRESH)
    ),
    "lightgbm .txt, three": lambda folder: lightgbm_file(
        folder, "multiclass", THREE, ARRAY, FRESH_ARRAY
    ),
    "lightgbm .txt, a value": lambda folder: lightgbm_file(
        folder, "l1", VALUE, numbers(ROWS), numbers(FRESH)
    ),
    "catboost .cbm, words": lambda folder: catboost_file(folder, "Logloss", WORD),
    "catboost .cbm, three": lambda folder: catboost_file(folder, "MultiClass", THREE),
    "catboost .cbm, a value": lambda folder: catboost_file(folder, "RMSE", VALUE),
    "mlflow, sklearn": lambda folder: mlflow_folder(
        saved(
            fitted(LinearRegression(), ARRAY, FRESH_ARRAY, VALUE), folder / "m.pkl",
            lambda model, path: path.write_bytes(pickle.dumps(model)), allow_pickle=True,
        ),
        "sklearn", "model.pkl", serialization_format="cloudpickle",
    ),
    "mlflow, xgboost": lambda folder: mlflow_folder(
        xgboost_file(folder, "m.ubj", "binary:logistic", YES), "xgboost", "model.xgb"
    ),
    "mlflow, lightgbm": lambda folder: mlflow_folder(
        lightgbm_file(folder, "l2", VALUE, ARRAY, FRESH_ARRAY), "lightgbm", "model.lgb"
    ),
    "mlflow, catboost": lambda folder: mlflow_folder(
        catboost_file(folder, "RMSE", VALUE), "catboost", "model.cb"
    ),
    "onnx, a table and a mapping": lambda folder: converted(
        folder, LogisticRegression().fit(ARRAY, WORD), ARRAY, FRESH_ARRAY, FLOATS
    ),
    "onnx, a table and a tensor": lambda folder: converted(
        folder, RandomForestClassifier(5).fit(ARRAY, THREE), ARRAY, FRESH_ARRAY, FLOATS,
        zipmap=False,
    ),
    "onnx, an input for each column, with text": lambda folder: converted(
        folder,
        make_pipeline(
            make_column_transformer(
                (StandardScaler(), ["income", "age"]),
                (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["city"]),
            ),
            LogisticRegression(),
        ).fit(FULL, WORD),
        FULL, FULL_FRESH,
        [("income", types.FloatTensorType([None, 1])), ("age", types.Int64TensorType([None, 1])),
         ("city", types.StringTensorType([None, 1]))],
    ),
    "onnx, a value": lambda folder: converted(
        folder, LinearRegression().fit(ARRAY, VALUE), ARRAY, FRESH_ARRAY, FLOATS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_served_model_answers_what_its_own_library_says(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    artifact = Artifact(packed(case, tmp_path))
    service = Service(artifact.folder, settings=settings(**case.options.get("serving", {})))
    client = client_of(service, "fastapi")
    service.wait(60)
    records = records_of(case.fresh, [f.name for f in artifact.manifest.signature.features])
    batch = client("POST", "/predict/batch", orjson.dumps(records))
    assert batch.status == 200, batch.body
    one = client("POST", "/predict", orjson.dumps(records[-1]))
    service.close()
    exactness = artifact.manifest.parity.exactness
    answers = batch.json()["predictions"]
    assert_answers(answers, case.expected, exactness)
    assert_answers([*answers[:-1], one.json()], case.expected, exactness)


def packed(case: Case, folder: Path) -> Path:
    options = {"out": folder / "models", "name": "m", "version": "1"} | case.options
    options.pop("serving", None)
    if isinstance(case.model, str | Path):
        sample = folder / "rows.csv"
        frame = case.rows if isinstance(case.rows, pd.DataFrame) else pd.DataFrame(case.rows)
        frame.to_csv(sample, index=False)
        return packing.pack_from_files(
            str(case.model), sample, **{"target": None, "allow_pickle": False} | options
        )
    return tabserve.pack(case.model, data=case.rows, **options)


def records_of(rows: Any, names: list[str]) -> list[dict[str, Any]]:
    """As a client sends them: missing values null, integers also as 12.0, dates as text."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=names)
    dates = frame.select_dtypes("datetime")
    frame = frame.assign(**{name: dates[name].map(pd.Timestamp.isoformat) for name in dates})
    frame = frame[names].astype(object).where(frame[names].notna(), None)
    records: list[dict[str, Any]] = frame.to_dict("records")
    for record in records[::2]:
        for name, value in record.items():
            if type(value) is int:
                record[name] = float(value)
    return records


def assert_answers(answers: list[Any], expected: dict[str, Any], exactness: str) -> None:
    for name, wanted in expected.items():
        values = [answer[name] for answer in answers]
        if isinstance(wanted, dict):
            assert_answers(values, wanted, exactness)
            continue
        if name == "probabilities":
            values = [list(value.values()) for value in values]
        if np.asarray(wanted).dtype.kind != "f":
            assert values == wanted.tolist()
        elif exactness == "bits":
            assert values == np.asarray(wanted, float).tolist()
        else:
            scale = max(1.0, np.abs(wanted).max())
            np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-12 * scale)
