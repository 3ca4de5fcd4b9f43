"""A model that is not packed, served at once from its file."""

import logging
import sys
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import orjson
import pandas as pd
import pytest
import skops.io
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tabserve import Service, checking, packing, server, telling, unpacked
from tabserve.artifact import Artifact
from tabserve.errors import InvalidSettings, OperatorError, PackError
from tests.functions import doubled
from tests.serving import Client, client_of, settings

random = np.random.default_rng(0)
ROWS = pd.DataFrame({"age": random.integers(18, 90, 60), "pay": random.lognormal(7, 1, 60)})
TARGET = (ROWS["age"] > 50).astype(int)
CITY = ROWS.assign(city=random.choice(["Kiel", "Ulm"], 60))


def served(spec: Any, out: Path, **options: Any) -> tuple[Client, Service]:
    told = {"data": None, "target": None, "allow_pickle": False} | options
    folder = packing.pack_at_once(str(spec), out, **told)
    service = Service(folder, settings=settings(allow_pickle=told["allow_pickle"]))
    service.wait(60)
    return client_of(service, "fastapi"), service


def features(client: Client) -> dict[str, tuple[str, bool]]:
    told = client.get("/metadata").json()["features"]
    return {feature["name"]: (feature["type"], feature["nullable"]) for feature in told}


def boosted(path: Path) -> Any:
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(ROWS, TARGET), 3)
    booster.save_model(path)
    return booster.predict(xgboost.DMatrix(ROWS[:3]))


def test_a_booster_is_served_by_the_names_in_its_file_and_says_that_it_is_unproven(
    tmp_path: Path,
) -> None:
    expected = boosted(tmp_path / "m.ubj")
    client, service = served(tmp_path / "m.ubj", tmp_path)
    assert features(client) == {"age": ("number", True), "pay": ("number", True)}
    parity = client.get("/metadata").json()["parity"]
    assert (parity["unproven"], parity["n_rows"]) == (True, 0)
    body = orjson.dumps(ROWS[:3].to_dict("records"))
    answers = client("POST", "/predict/batch", body).json()["predictions"]
    assert [answer["probability"] for answer in answers] == expected.astype(float).tolist()
    assert client.get("/openapi.json").status == 200
    service.close()


def test_a_pipeline_is_served_by_what_its_steps_know(tmp_path: Path) -> None:
    columns = make_column_transformer(
        (OneHotEncoder(), ["city"]), (SimpleImputer(), ["pay"]), remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(CITY, TARGET)
    skops.io.dump(model, tmp_path / "m.skops")
    client, service = served(tmp_path / "m.skops", tmp_path)
    assert features(client) == {
        "age": ("number", False), "pay": ("number", True), "city": ("string", False)
    }  # fmt: skip
    record = {"age": 40, "pay": None, "city": "Ulm"}
    answer = client("POST", "/predict", orjson.dumps(record)).json()
    row = pd.DataFrame([record | {"pay": np.nan}])[list(CITY)]
    assert answer["probability"] == pytest.approx(model.predict_proba(row)[0, 1], abs=1e-12)
    service.close()


def test_with_sample_rows_it_is_packed_in_full(tmp_path: Path) -> None:
    joblib.dump(HistGradientBoostingRegressor(max_iter=2).fit(ROWS, TARGET), tmp_path / "m.joblib")
    ROWS.assign(y=TARGET).to_csv(tmp_path / "rows.csv", index=False)
    client, service = served(
        tmp_path / "m.joblib", tmp_path, data=tmp_path / "rows.csv", target="y", allow_pickle=True
    )
    told = client.get("/metadata").json()
    assert not told["parity"]["unproven"]
    assert told["metrics"][0]["data"] == "rows.csv"
    assert told["features"][0]["type"] == "integer"
    service.close()


@pytest.mark.parametrize("is_table", [True, False])
def test_a_folder_of_mlflows_is_proven_on_its_example(is_table: bool, tmp_path: Path) -> None:
    folder = tmp_path / "logged"
    folder.mkdir()
    boosted(folder / "model.ubj")
    table = {"columns": list(ROWS), "data": ROWS[:5].to_numpy().tolist()}
    (folder / "example.json").write_bytes(orjson.dumps(table if is_table else {"inputs": [1]}))
    (folder / "MLmodel").write_text(
        "flavors:\n  xgboost:\n    data: model.ubj\n"
        "saved_input_example_info:\n  type: dataframe\n  artifact_path: example.json\n"
    )
    options: Any = {"data": None, "target": None, "allow_pickle": False}
    parity = Artifact(packing.pack_at_once(str(folder), tmp_path, **options)).manifest.parity
    assert (parity.unproven, parity.n_rows > 4) == (not is_table, is_table)
    assert [tried.equal for tried in parity.tried] == [True, True] if is_table else [False]


def test_check_warns_of_an_unproven_model(tmp_path: Path) -> None:
    boosted(tmp_path / "m.json")
    options: Any = {"data": None, "target": None, "allow_pickle": False}
    folder = packing.pack_at_once(str(tmp_path / "m.json"), tmp_path, **options)
    report = checking.check(str(folder))
    assert report.exit_code == 1
    told = {f.subject: f.text for f in report.findings}
    assert "without sample rows" in told["golden rows"]
    assert told["memory"].endswith("each further worker takes as much")
    assert {"load", "one row", "batch"} <= told.keys()
    assert told["onnx engine"].startswith("Not tried: without sample rows")


@pytest.mark.parametrize("name", ["m.txt", "m.ubj"])
def test_a_booster_is_served_with_the_categories_in_its_file(name: str, tmp_path: Path) -> None:
    sized = ROWS.assign(size=pd.Categorical(["S", "M", "L"] * 20))
    if name == "m.ubj":
        booster: Any = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True)
        booster.fit(sized, TARGET).save_model(tmp_path / name)
    else:
        booster = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(sized, TARGET)
        booster.booster_.save_model(tmp_path / name)
    client, service = served(tmp_path / name, tmp_path)
    rows = sized[:3].astype({"size": str}).to_dict("records")
    answers = client("POST", "/predict/batch", orjson.dumps(rows)).json()["predictions"]
    found = [list(answer["probabilities"].values()) for answer in answers]
    assert found == booster.predict_proba(sized[:3]).astype(float).tolist()
    refused = client("POST", "/predict", orjson.dumps(rows[0] | {"size": "XL"}))
    assert refused.json()["detail"][0]["loc"] == ["body", "size"]
    service.close()


def test_what_a_model_does_not_say_is_asked_for(tmp_path: Path) -> None:
    sized = ROWS.assign(size=["S", "M"] * 30)
    booster = catboost.CatBoostClassifier(iterations=1, verbose=0, allow_writing_files=False)
    booster.fit(sized, TARGET, cat_features=["size"]).save_model(tmp_path / "m.cbm")
    for spec in (tmp_path / "m.cbm", "tests.functions:doubled"):
        with pytest.raises(PackError, match="give sample rows with --data"):
            served(spec, tmp_path)


def flags_of(monkeypatch: pytest.MonkeyPatch, **flags: Any) -> dict[str, Any]:
    """What the server is told, while the folder is there."""
    told: dict[str, Any] = {}

    def serve(given: Any) -> int:
        told.update(given, was_there=Path(given["path"], "manifest.json").exists())
        return 0

    monkeypatch.setattr(server, "serve", serve)
    assert unpacked.serve(flags) == 0
    return told


def test_the_folder_goes_with_the_server_and_each_step_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boosted(tmp_path / "m.json")
    told = flags_of(monkeypatch, path=str(tmp_path / "m.json"), port="0")
    assert told["was_there"]
    assert not Path(told["path"]).exists()
    assert "allow_code" not in told
    assert capsys.readouterr().err.splitlines() == [
        f"Packing {tmp_path / 'm.json'} in order to serve it",
        f"Reading {tmp_path / 'm.json'}",
        "Asking XGBClassifier what it takes, without sample rows",
        "Serving it",
    ]


def test_a_terminal_shows_one_line_that_is_renewed_and_keeps_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logger = logging.getLogger("tabserve")
    with telling.steps_told(also_in_lines=False):
        logger.info("Proving")
        logger.warning("Left out: keys.json")
    logger.info("not told any more")
    shown = capsys.readouterr().err
    assert "Left out: keys.json\n" in shown
    assert "told" not in shown


def test_a_function_that_is_named_to_serve_may_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ROWS.rename(columns={"pay": "income"}).to_csv(tmp_path / "rows.csv", index=False)
    told = flags_of(
        monkeypatch, path=f"tests.functions:{doubled.__name__}", data=str(tmp_path / "rows.csv")
    )
    assert told["allow_code"] is True


@pytest.mark.parametrize(("flags", "message"), [
    ({"path": "absent.ubj"}, "Cannot read the model absent.ubj"),
    ({"path": "absent.ubj", "reload": True}, "--reload needs a packed model"),
    ({"path": "models", "data": "rows.csv"}, "a model that is not packed"),
    ({"path": "models", "target": "churn"}, "--target names the target of a model that is not"),
])  # fmt: skip
def test_what_cannot_be_served_at_once_is_told(flags: Any, message: str) -> None:
    with pytest.raises((InvalidSettings, OperatorError), match=message):
        unpacked.serve(flags)
