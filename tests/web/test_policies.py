"""What a signature file declares, as clients meet it: defaults, ranges, warnings, dates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

import tabserve
from tabserve import Service
from tabserve.artifact import Artifact
from tabserve.packing import pack_from_files
from tests.serving import FRAMEWORKS, PATIENCE_S, Client, client_of, error, settings

SIGNATURE = """
[features.age]
range = "warn"

[features.income]
imputed = "warn"

[features.height]
default = 170.0
imputed = "warn"
range = "refuse"
maximum = 250

[features.plan]
unknown = "warn"

[features.since]
nullable = true
required = false
"""
RECORD = {"age": 40, "income": 2.0, "height": 180.0, "plan": "a", "since": "2024-05-01T08:00:00Z"}


def days(frame: Any) -> Any:
    return ((frame - pd.Timestamp("2020-01-01")) / pd.Timedelta(days=1)).to_numpy()


def people(n_rows: int = 60) -> Any:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.integers(18, 90, n_rows),
            "income": np.where(random.random(n_rows) < 0.2, np.nan, random.random(n_rows) * 9),
            "height": random.uniform(150, 200, n_rows).round(1),
            "plan": random.choice(["a", "b"], n_rows),
            "since": pd.Timestamp("2023-01-01")
            + pd.to_timedelta(random.integers(0, 900, n_rows), unit="D"),
        }
    )


def fitted(data: Any) -> Pipeline:
    encoding = make_column_transformer(
        (SimpleImputer(), ["age", "income", "height"]),
        (OneHotEncoder(handle_unknown="ignore"), ["plan"]),
        (make_pipeline(FunctionTransformer(days), SimpleImputer()), ["since"]),
    )
    target = data["age"] + data["since"].dt.day_of_year
    return make_pipeline(encoding, DecisionTreeRegressor(random_state=0)).fit(data, target)


@pytest.fixture(scope="module")
def model() -> Pipeline:
    return fitted(people())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: Pipeline) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("policies")
    file = folder / "signature.toml"
    file.write_text(SIGNATURE)
    tabserve.pack(
        model, folder, name="people", version="1", data=people(), signature=file, format="joblib"
    )
    made = Service(folder / "people", settings=settings(allow_pickle=True))
    made.wait(PATIENCE_S)
    yield made
    made.close()


@pytest.fixture(params=FRAMEWORKS)
def client(request: pytest.FixtureRequest, service: Service) -> Client:
    return client_of(service, request.param)


def predict(client: Client, **changes: Any) -> Any:
    record = {name: value for name, value in (RECORD | changes).items() if value != "absent"}
    return client("POST", "/predict", orjson.dumps(record)).json()


def told(found: list[dict[str, Any]]) -> list[tuple[Any, str]]:
    return [(warning["loc"], warning["type"]) for warning in found]


def test_a_usual_record_has_no_warnings(client: Client) -> None:
    assert "warnings" not in predict(client)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"age": 99}, ("age", "out_of_range")),
        ({"plan": "z"}, ("plan", "unknown_category")),
        ({"income": None}, ("income", "imputed")),
        ({"height": None}, ("height", "imputed")),
        ({"height": "absent"}, ("height", "imputed")),
    ],
)
def test_what_is_unusual_is_told_and_answered(
    client: Client, changes: dict[str, Any], warning: tuple[str, str]
) -> None:
    name, kind = warning
    answer = predict(client, **changes)

    assert told(answer["warnings"]) == [(["body", name], kind)]
    assert list(answer["warnings"][0]) == ["loc", "msg", "type"]
    assert not any(str(value) in str(answer["warnings"]) for value in changes.values() if value)


def test_the_default_stands_in_for_null_and_for_nothing(client: Client) -> None:
    default, null, absent = (
        predict(client, height=height)["prediction"] for height in (170.0, None, "absent")
    )
    assert null == absent == default


def test_a_range_may_refuse(client: Client) -> None:
    answer = client("POST", "/predict", orjson.dumps(RECORD | {"height": 251}))

    assert error(answer) == (422, "invalid_input")
    (problem,) = answer.json()["detail"]
    assert (problem["loc"], problem["type"]) == (["body", "height"], "out_of_range")
    assert problem["msg"].endswith(" to 250")


def test_a_batch_warns_by_row_and_columns_by_column(client: Client) -> None:
    rows = [RECORD, RECORD | {"age": 99}, RECORD | {"plan": "z"}]
    columns = {"columns": {name: [row[name] for row in rows] for name in RECORD}}

    by_row, by_column = (
        [
            told(row.get("warnings", []))
            for row in client("POST", "/predict/batch", orjson.dumps(body)).json()["predictions"]
        ]
        for body in (rows, columns)
    )

    assert by_row == [
        [], [(["body", 1, "age"], "out_of_range")], [(["body", 2, "plan"], "unknown_category")],
    ]  # fmt: skip
    assert by_column[1] == [(["body", "columns", "age", 1], "out_of_range")]


def test_warnings_of_a_reported_batch_keep_their_rows(client: Client) -> None:
    rows = [{}, RECORD | {"age": 99}]
    answer = client("POST", "/predict/batch?on_error=report", orjson.dumps(rows)).json()

    assert answer["predictions"][0]["error"] == "invalid_input"
    assert told(answer["predictions"][1]["warnings"]) == [(["body", 1, "age"], "out_of_range")]


def test_warnings_are_counted_by_type_and_described(client: Client) -> None:
    predict(client, age=99)

    assert 'type="out_of_range"' in client.get("/metrics").body.decode()
    document = client.get("/openapi.json").json()["components"]["schemas"]
    assert "warnings" in document["Prediction"]["properties"]
    assert "warnings" not in document["Prediction"]["required"]
    assert document["Record"]["required"] == ["age", "income", "plan"]
    height = document["Record"]["properties"]["height"]
    assert (height["default"], height["maximum"]) == (170.0, 250.0)


@pytest.mark.parametrize(
    "same", ["2024-05-01T08:00", "2024-05-01 08:00:00.000", "2024-05-01T10:00:00+02:00"]
)
def test_a_date_is_the_models_own_datetime64(client: Client, model: Pipeline, same: str) -> None:
    row = pd.DataFrame([RECORD]).assign(since=pd.to_datetime(["2024-05-01T08:00"]))
    assert predict(client, since=same)["prediction"] == model.predict(row)[0]


@pytest.mark.parametrize("since", [None, "absent"])
def test_a_date_may_be_null(client: Client, since: Any) -> None:
    assert isinstance(predict(client, since=since)["prediction"], float)


@pytest.mark.parametrize("since", [1714550400, "01.05.2024", "2024-02-30", "", True])
def test_what_is_no_date_is_refused(client: Client, since: Any) -> None:
    answer = predict(client, since=since)
    (problem,) = answer["detail"]
    assert (problem["loc"], problem["type"]) == (["body", "since"], "iso_date")
    assert "ISO 8601" in problem["msg"]


def test_a_date_is_described_exemplified_and_kept(client: Client, service: Service) -> None:
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["Record"]["properties"]["since"]
    assert schema["anyOf"][0] == {"type": "string", "format": "date-time"}
    media = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    examples = [example["value"] for example in media["examples"].values()]
    assert all(pd.Timestamp(example["since"]).tzinfo is not None for example in examples)
    records = service.model.decoder.one(orjson.dumps(RECORD))
    answer = dict.fromkeys(("prediction", "prediction_id"), 0)
    lines = service.model.log_lines(records, [answer])
    assert {name: column[0] for name, column in lines.features.items()} == RECORD


def test_a_csv_has_dates_where_the_signature_declares_them(tmp_path: Path, model: Pipeline) -> None:
    joblib.dump(model, tmp_path / "model.joblib")
    people().to_csv(tmp_path / "rows.csv", index=False)

    folder = pack_from_files(
        str(tmp_path / "model.joblib"), tmp_path / "rows.csv", target=None, allow_pickle=True,
        signature={"features": {"since": {"type": "datetime"}}}, format="joblib", out=tmp_path,
        name="people", version="1",
    )  # fmt: skip

    since = Artifact(folder).manifest.signature.features[-1]
    assert (since.type, since.dtype) == ("datetime", "datetime64[us]")


def clock(frame: Any) -> Any:
    since = frame["since"].dt
    return np.column_stack([since.hour, since.minute, since.day_of_year])


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "+05:30"])
def test_dates_of_a_time_zone_are_given_to_the_model_in_it(tmp_path: Path, zone: str) -> None:
    # Over the night in which Berlin has the hour from 2 to 3 twice.
    night = pd.date_range("2024-10-26T22:10:00.5", periods=12, freq="31min", tz="UTC")
    data = pd.DataFrame({"since": night.tz_convert(zone)})
    model = make_pipeline(FunctionTransformer(clock), DecisionTreeRegressor(random_state=0))
    model.fit(data, np.arange(12.0))
    tabserve.pack(model, tmp_path, name="night", version="1", data=data, format="joblib")
    service = Service(tmp_path, settings=settings(allow_pickle=True))
    service.wait(PATIENCE_S)

    sent = [{"since": moment.isoformat()} for moment in [*data["since"], *night]]
    answers = client_of(service, "fastapi")("POST", "/predict/batch", orjson.dumps(sent)).json()

    found = [row["prediction"] for row in answers["predictions"]]
    assert found == model.predict(data).tolist() * 2
    service.close()
