"""Boosters, packed and loaded: each in its own format, served by its graph or its own predictor."""

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from rich.console import Console
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from xgboost import XGBClassifier, XGBRegressor

import tabserve
from tabserve import boosters, checking, loading, repository, stored
from tabserve.errors import InvalidInput, MissingExtra, PackError
from tabserve.parity import in_batches
from tabserve.types import Columns

random = np.random.default_rng(0)
N_ROWS = 200
ROWS = pd.DataFrame(
    {
        "age": random.integers(18, 90, N_ROWS),
        "monthly pay": random.lognormal(7, 1, N_ROWS),
        "debt": np.where(random.random(N_ROWS) < 0.2, np.nan, random.gamma(2, 100, N_ROWS)),
        "member": random.random(N_ROWS) < 0.5,
        "city": random.choice(["Bonn", "Kiel", "Ulm"], N_ROWS),
    }
)
NUMBERS = ["age", "monthly pay", "debt", "member"]
VALUE = ROWS["age"] / 50 + (ROWS["city"] == "Ulm") - ROWS["debt"].fillna(9) / 99
TARGETS = {
    "two": (VALUE > 0).astype(int),
    "words": pd.Series(np.where(VALUE > 0, "Yes", "No")),
    "three": pd.cut(VALUE, 3, labels=False),
    "value": VALUE,
}

XGB: dict[str, Any] = {"n_estimators": 8}
LGB: dict[str, Any] = {"n_estimators": 8, "verbose": -1}
CAT: dict[str, Any] = {"n_estimators": 8, "verbose": 0, "allow_writing_files": False}


def mixed(booster: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    steps = make_column_transformer(
        (numbers, ["age", "monthly pay", "debt"]),
        (OneHotEncoder(), ["city"]),
        remainder="passthrough",
    )
    return make_pipeline(steps, booster)


# name: the model, its columns, its target, its exactness, its files.
ZOO: dict[str, tuple[Any, list[str], str, str, list[str]]] = {
    "xgboost": (XGBClassifier(**XGB), NUMBERS, "two", "bits", ["booster.ubj"]),
    "xgboost, missing": (
        XGBClassifier(**XGB, missing=20), NUMBERS, "three", "bits", ["booster.ubj"]
    ),
    "xgboost in a pipeline": (
        mixed(XGBRegressor(**XGB)), list(ROWS), "value", "bits", ["booster.ubj", "model.skops"]
    ),
    "lightgbm": (LGBMClassifier(**LGB), NUMBERS, "words", "close", ["booster.txt"]),
    "lightgbm, a value": (
        LGBMRegressor(**LGB, objective="mae"), NUMBERS, "value", "bits", ["booster.txt"]
    ),
    "lightgbm in a pipeline": (
        mixed(LGBMClassifier(**LGB)), list(ROWS), "three", "close", ["booster.txt", "model.skops"]
    ),
    "catboost": (CatBoostClassifier(**CAT), NUMBERS, "words", "close", ["booster.cbm"]),
    "catboost, a value": (CatBoostRegressor(**CAT), NUMBERS, "value", "bits", ["booster.cbm"]),
    "catboost in a pipeline": (
        mixed(CatBoostClassifier(**CAT)), list(ROWS), "three", "close",
        ["booster.cbm", "model.skops"],
    ),
}  # fmt: skip

# Whose categories are their own, by the engine that serves them.
CATEGORICAL: dict[str, tuple[Any, str]] = {
    "xgboost": (XGBRegressor(**XGB, enable_categorical=True), "onnx"),
    "xgboost, one by one": (
        XGBRegressor(**XGB, enable_categorical=True, max_cat_to_onehot=9), "onnx"
    ),
    "lightgbm": (LGBMRegressor(**LGB, min_child_samples=5), "onnx"),
    "catboost": (CatBoostRegressor(**CAT, cat_features=["city", "size"]), "native"),
}  # fmt: skip


NARROW = pd.DataFrame(
    {
        "rounded": random.normal(size=N_ROWS).astype(np.float32),
        "count": pd.array(random.integers(0, 9, N_ROWS), dtype="Int64"),
        "flag": pd.array(random.random(N_ROWS) < 0.5, dtype="boolean"),
        "small": random.integers(-9, 9, N_ROWS).astype("int8"),
    }
)
NARROW.loc[::7, ["count", "flag"]] = pd.NA


def columns_of(rows: pd.DataFrame) -> Columns:
    return {
        name: rows[name].to_numpy()
        if rows[name].dtype.kind in "ifb"
        else rows[name].astype(object).where(rows[name].notna(), None).to_numpy(object)
        for name in rows
    }


def assert_exact(found: Any, expected: Any, exactness: str) -> None:
    tolerance = 1e-12 if exactness == "close" else 0.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ZOO)
def test_either_engine_answers_what_the_original_does(kind: str, tmp_path: Path) -> None:
    model, names, target, exactness, files = ZOO[kind]
    rows, truth = ROWS[names], TARGETS[target]
    model.fit(rows, truth)
    for engine in ("native", None):
        folder = tabserve.pack(
            model, tmp_path, name=kind.replace(" ", "-").replace(",", ""),
            version=f"1-{engine}", data=rows, target=truth, engine=engine,
        )  # fmt: skip
        kept = {path.name for path in folder.iterdir()} - {"manifest.json", "manifest.json.sha256"}
        assert sorted(kept - {"golden.jsonl", "model.onnx"}) == sorted(files)
        loaded = loading.load(repository.find(folder))
        assert all(tried.equal for tried in loaded.manifest.parity.tried)
        assert loaded.manifest.parity.exactness == exactness
        for size in (1, 7, N_ROWS):
            found = in_batches(loaded.engine, columns_of(rows), size)
            if target == "value":
                assert_exact(found["value"], model.predict(rows), exactness)
            else:
                assert found["label"].tolist() == np.asarray(model.predict(rows)).ravel().tolist()
                assert_exact(found["proba"], model.predict_proba(rows), exactness)


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_categories_of_a_boosters_own_are_its_own(kind: str, tmp_path: Path) -> None:
    model, expected_engine = CATEGORICAL[kind]
    rows = ROWS[["age", "debt", "city"]].assign(size=random.choice([30, 10, 20], N_ROWS))
    if kind != "catboost":
        cities = pd.Categorical(
            rows["city"].where(rows["city"] != "Bonn"), categories=["Ulm", "Rome", "Kiel"]
        )
        rows = rows.assign(city=cities, size=pd.Categorical(rows["size"]))
    model.fit(rows, VALUE + rows["size"].astype(int) / 10)
    for engine in ("native", None):
        folder = tabserve.pack(
            model, tmp_path, name="m", version=f"1-{engine}", data=rows, engine=engine
        )
        loaded = loading.load(repository.find(folder))
        assert loaded.engine.name == (engine or expected_engine)
        for size in (1, N_ROWS):
            found = in_batches(loaded.engine, columns_of(rows), size)["value"]
            assert_exact(found, model.predict(rows), "bits")


@pytest.mark.parametrize("model", [XGBRegressor(**XGB), LGBMRegressor(**LGB)], ids=["xgb", "lgb"])
def test_narrow_and_nullable_columns_reach_a_booster_as_they_do_in_a_frame(
    model: Any, tmp_path: Path
) -> None:
    folder = tabserve.pack(model.fit(NARROW, VALUE), tmp_path, name="m", version="1", data=NARROW)
    loaded = loading.load(repository.find(folder))
    assert [(tried.equal, tried.why) for tried in loaded.manifest.parity.tried] == [
        (True, None)
    ] * 2
    found = loaded.engine.predict(
        loaded.manifest.signature.columns(
            {name: NARROW[name].astype(object).where(NARROW[name].notna(), None).tolist()
             for name in NARROW}
        )
    )  # fmt: skip
    assert_exact(found["value"], model.predict(NARROW), "bits")


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm in a pipeline", "catboost"])
def test_loading_a_booster_reads_no_pickle(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, names, target, _, _ = ZOO[kind]
    rows, truth = ROWS[names], TARGETS[target]
    folder = tabserve.pack(
        model.fit(rows, truth), tmp_path, name="m", version="1", data=rows, engine="native"
    )

    def refuse(*given: Any, **options: Any) -> Any:
        raise AssertionError("a pickle was read")

    for owner, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(joblib, "load", refuse)
    assert loading.load(repository.find(folder)).engine.name == "native"


def test_check_names_the_boosters_format_and_library(tmp_path: Path) -> None:
    model, names, target, _, _ = ZOO["xgboost"]
    rows, truth = ROWS[names], TARGETS[target]
    folder = tabserve.pack(
        model.fit(rows, truth), tmp_path, name="m", version="1", data=rows, engine="native"
    )
    report = checking.check(str(folder))
    console = Console(file=io.StringIO(), width=200)
    checking.show(report, console)
    found = {one.subject: one.text for one in report.findings}

    assert report.exit_code == 0, console.file.getvalue()  # type: ignore[attr-defined]
    assert found["trust"] == "ubj: data only"
    assert found["xgboost"].endswith("as packed")
    assert "sha256 as packed" in found["booster.ubj"]


def test_an_altered_booster_is_not_loaded(tmp_path: Path) -> None:
    model, names, target, _, _ = ZOO["lightgbm"]
    rows, truth = ROWS[names], TARGETS[target]
    folder = tabserve.pack(
        model.fit(rows, truth), tmp_path, name="m", version="1", data=rows, engine="native"
    )
    file = folder / "booster.txt"
    file.write_bytes(file.read_bytes().replace(b"leaf_value=", b"leaf_value=1", 1))
    with pytest.raises(tabserve.errors.ArtifactError, match="was changed after packing"):
        loading.load(repository.find(folder))


def test_what_was_trained_in_early_rounds_only_is_what_is_kept() -> None:
    rows, truth = ROWS[NUMBERS], TARGETS["two"]
    model = XGBClassifier(n_estimators=50, early_stopping_rounds=2)
    model.fit(rows, truth, eval_set=[(rows[::2], truth[::-2])], verbose=False)
    predictor = boosters.load(*boosters.dump(model), np.array([0, 1]))

    assert model.best_iteration < 40
    found = predictor.predict_proba(rows.to_numpy(float))
    np.testing.assert_array_equal(found, model.predict_proba(rows))


@pytest.mark.parametrize("loss", ["Poisson", "Tweedie:variance_power=1.5", "RMSEWithUncertainty"])
def test_catboosts_file_answers_as_the_model_did(loss: str) -> None:
    rows = ROWS[["age", "monthly pay", "debt"]]
    model = CatBoostRegressor(**CAT, loss_function=loss).fit(rows, ROWS["age"])
    format, content = boosters.dump(model)
    predictor, wrapped = boosters.load(format, content, None), boosters.read(".cbm", content)

    for found in (predictor.predict(predictor.prepared(rows)), wrapped.predict(rows)):
        np.testing.assert_array_equal(found, model.predict(rows))


def test_a_file_of_catboosts_focal_loss_is_a_classifier() -> None:
    rows, loss = ROWS[["age", "monthly pay", "debt"]], "Focal:focal_alpha=0.5;focal_gamma=2"
    model = CatBoostClassifier(**CAT, loss_function=loss).fit(rows, TARGETS["two"])

    found = boosters.read(".cbm", boosters.dump(model)[1])

    np.testing.assert_array_equal(found.predict_proba(rows), model.predict_proba(rows))


@pytest.mark.parametrize(("name", "format"), [("xgboost", "ubj"), ("catboost", "cbm")])
def test_a_library_that_is_not_installed_is_named(
    name: str, format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"tabserve.boosters.{name}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf'pip install "tabserve\[{name}\]"'):
        stored.load({format: b""}, (tabserve.output.Target(kind="number"),), allow_pickle=False)


def test_an_objective_of_ones_own_is_refused() -> None:
    def squares(truth: Any, predicted: Any) -> Any:
        return predicted - truth, np.ones_like(truth, dtype=float)

    model = XGBRegressor(**XGB, objective=squares).fit(ROWS[NUMBERS], VALUE)
    with pytest.raises(PackError, match="has an objective of one's own"):
        boosters.dump(model)


def test_a_class_of_the_users_is_no_booster() -> None:
    own = type("XGBRegressor", (XGBRegressor,), {"__module__": "mine"})()
    assert not boosters.is_booster(own)
    assert boosters.split(own) == (own, None)


def test_a_number_that_a_linear_booster_refuses_is_refused(tmp_path: Path) -> None:
    rows = ROWS[["age", "monthly pay"]]
    model = XGBRegressor(**XGB, booster="gblinear").fit(rows, VALUE)
    folder = tabserve.pack(model, tmp_path, name="m", version="1", data=rows)
    engine = loading.load(repository.find(folder)).engine
    with pytest.raises(InvalidInput):
        engine.predict({"age": np.array([1]), "monthly pay": np.array([1e39])})


@pytest.mark.parametrize("format", ["skops", "joblib"])
def test_workers_share_models_of_scikit_learn_and_of_nobody_who_begins_threads(format: Any) -> None:
    encoder = make_pipeline(SimpleImputer(), StandardScaler()).fit(ROWS[NUMBERS])
    inside = FunctionTransformer(boosters.versions).fit(ROWS[NUMBERS])
    assert stored.begins_no_threads(stored.dump(encoder, format))
    booster = XGBClassifier(**XGB).fit(ROWS[NUMBERS], TARGETS["two"])
    assert not stored.begins_no_threads(stored.dump(booster, format))
    if format == "joblib":
        assert not stored.begins_no_threads(stored.dump(inside, format))
