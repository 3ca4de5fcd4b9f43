"""The number over HTTP is the notebook's: for any valid row, alone and in a batch, to the bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from pydantic import ValidationError
from sklearn.pipeline import Pipeline

import tabserve
from examples.churn import data, train
from examples.churn.request import ChurnRequest
from tests.conftest import CHURN_OUTPUT, NUMBERS, RECORD, TELCO
from tests.serving import FRAMEWORKS, PATIENCE_S, Client, client_of
from tests.serving import settings as service_settings

FEATURES = [*NUMBERS, "contract_type"]
CONTRACTS = ["Month-to-month", "One year", "Two year"]


class Api(NamedTuple):
    """The same model packed twice: as declared for churn, and undeclared, which rounds nothing."""

    rounded: Client
    exact: Client


@pytest.fixture(scope="module")
def services(
    pipeline: Pipeline, customers: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tabserve.Service]]:
    made = []
    for name, output in [("rounded", CHURN_OUTPUT), ("exact", None)]:
        folder = tabserve.pack(
            pipeline, tmp_path_factory.mktemp(name), name="churn", version="1.2.3",
            data=customers, target="churn", output=output,
        )  # fmt: skip
        made.append(service_of(folder))
    yield made
    for service in made:
        service.close()


def service_of(folder: Path) -> tabserve.Service:
    service = tabserve.Service(folder, request=ChurnRequest, settings=service_settings())
    service.wait(PATIENCE_S)
    assert service.model.manifest.parity.exactness == "bits"
    return service


@pytest.fixture(scope="module", params=FRAMEWORKS)
def api(request: pytest.FixtureRequest, services: list[tabserve.Service]) -> Api:
    return Api(*(client_of(service, request.param) for service in services))


def boundary_or(strategy: st.SearchStrategy[Any], *values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values) | strategy


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record that the churn API takes, its numbers written as JSON may write them."""
    tenure = draw(boundary_or(st.integers(0, 240), 0, 1, 240))
    monthly = draw(boundary_or(st.floats(0, 1000), 0.0, 1000.0, 5e-324, 29.85))
    if tenure == 0:
        known = boundary_or(st.floats(0, 1e30), 0.0, -0.0, 5e-324)
    else:
        middle = monthly * tenure
        known = boundary_or(st.floats(0.5 * middle, 1.5 * middle), middle, 0.5 * middle)
    total = draw(st.none() | known)
    record = {
        "tenure_months": draw(st.sampled_from([tenure, float(tenure)])),
        "monthly_charges": whole_or_not(draw, monthly),
        "total_charges": None if total is None else whole_or_not(draw, total),
        "contract_type": draw(st.sampled_from(CONTRACTS)),
    }
    if total is None and draw(st.booleans()):
        del record["total_charges"]
    assume(accepted(record))  # at the very edges it depends on the last digit
    shuffled = draw(st.permutations(list(record)))
    return {name: record[name] for name in shuffled}


def accepted(record: dict[str, Any]) -> bool:
    try:
        ChurnRequest.model_validate(record)
    except ValidationError:
        return False
    return True


def whole_or_not(draw: st.DrawFn, number: float) -> float | int:
    """2.0 is also sent as 2, where that is the same number."""
    may_be_whole = number.is_integer() and abs(number) < 2**53
    return int(number) if may_be_whole and draw(st.booleans()) else number


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """As the notebook holds them."""
    frame = pd.DataFrame([{name: row.get(name) for name in FEATURES} for row in rows])
    return frame.astype(dict.fromkeys(NUMBERS, "float64") | {"tenure_months": "int64"})


def predictions(client: Client, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = client("POST", "/predict/batch", orjson.dumps(rows))
    assert answer.status == 200, answer.body
    assert answer.json()["count"] == len(rows)
    return list(answer.json()["predictions"])


def prediction(client: Client, row: dict[str, Any]) -> dict[str, Any]:
    answer = client("POST", "/predict", orjson.dumps(row))
    assert answer.status == 200, answer.body
    return dict(answer.json())


def own(prediction: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one request to the next."""
    volatile = ("prediction_id", "prediction_timestamp", "model_version")
    return {name: value for name, value in prediction.items() if name not in volatile}


def assert_exact(pipeline: Pipeline, api: Api, rows: list[dict[str, Any]]) -> None:
    frame = frame_of(rows)
    together = pipeline.predict_proba(frame)
    alone = [pipeline.predict_proba(frame[i : i + 1])[0] for i in range(len(frame))]
    assert np.array_equal(together, alone)
    labels = pipeline.predict(frame)

    served = predictions(api.exact, rows)
    assert [own(row) for row in served] == [
        {"prediction": label, "probability": p[1], "probabilities": {"No": p[0], "Yes": p[1]}}
        for label, p in zip(labels, together.tolist(), strict=True)
    ]
    assert [own(prediction(api.exact, row)) for row in rows] == [own(row) for row in served]

    rounded = predictions(api.rounded, rows)
    assert [own(row) for row in rounded] == [
        {"churn_probability": round(p, 3), "risk_category": band(p)}
        for p in together[:, 1].tolist()
    ]
    assert own(prediction(api.rounded, rows[0])) == own(rounded[0])


def band(probability: float) -> str:
    return "Low" if probability < 0.3 else "Medium" if probability < 0.7 else "High"


SETTINGS = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@settings(SETTINGS, max_examples=60)
@given(rows=st.lists(records(), min_size=1, max_size=4))
@example(rows=[RECORD])
@example(rows=[RECORD | {"total_charges": None}, RECORD])
def test_any_valid_row_is_answered_as_predict_proba_does(
    pipeline: Pipeline, api: Api, rows: list[dict[str, Any]]
) -> None:
    assert_exact(pipeline, api, rows)


def test_a_band_is_that_of_the_unrounded_probability(
    pipeline: Pipeline, customers: pd.DataFrame, tmp_path: Path
) -> None:
    """With edges at served probabilities, rounding first would choose the other band."""
    sample = customers[customers.tenure_months > 0].head(50)
    probabilities = pipeline.predict_proba(sample[FEATURES])[:, 1]
    middle = float(np.sort(probabilities)[25])
    folder = tabserve.pack(
        pipeline, tmp_path, name="churn", version="1", data=customers, target="churn",
        output=tabserve.Output(
            name="p", positive="Yes", round=0,
            bands=tabserve.Bands.parse(f"band: below < {middle!r} <= above"),
        ),
    )  # fmt: skip
    service = tabserve.Service(folder, settings=service_settings())
    service.wait(PATIENCE_S)

    rows = orjson.loads(sample[FEATURES].to_json(orient="records", double_precision=15))
    served = predictions(client_of(service, "fastapi"), rows)

    assert [(row["p"], row["band"]) for row in served] == [
        (round(p, 0), "above" if p >= middle else "below") for p in probabilities.tolist()
    ]
    service.close()


# --- The real file.


class Telco(NamedTuple):
    """What the churn example makes of the file: its two services and, row by row, predict_proba."""

    services: list[tabserve.Service]
    rows: list[dict[str, Any]]
    expected: list[float]


@pytest.fixture(scope="module")
def telco(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telco]:
    folder = tmp_path_factory.mktemp("telco")
    fitted: list[Pipeline] = []
    pack = tabserve.pack

    def pack_both(model: Pipeline, out: Path, **options: Any) -> Path:
        """As the example packs it, and once more without its declared output."""
        fitted.append(model)
        pack(model, folder / "exact", **(options | {"output": None}))
        return pack(model, out, **options)

    frame = data.load(TELCO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabserve, "pack", pack_both, raising=False)
        train.train_and_pack(frame, folder / "rounded", "1.2.3", TELCO.name)
    features, _ = data.features_and_target(frame)
    rows = [
        {name: None if value != value else value for name, value in row.items()}
        for row in features.to_dict("records")
    ]
    expected = fitted[0].predict_proba(features)[:, 1].tolist()
    services = [service_of(folder / name) for name in ("rounded", "exact")]
    yield Telco(services, rows, expected)
    for service in services:
        service.close()


@pytest.mark.slow
@pytest.mark.skipif(not TELCO.exists(), reason=f"the real data are not at {TELCO}")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_customer_of_the_real_file_is_answered_as_predict_proba_does(
    telco: Telco, framework: str
) -> None:
    rounded, exact = (client_of(service, framework) for service in telco.services)
    both = list(zip(telco.rows, telco.expected, strict=True))
    good = [(row, p) for row, p in both if accepted(row)]
    bad = [row for row in telco.rows if not accepted(row)]
    assert len(good) + len(bad) == 7043

    for start in range(0, len(good), 1000):
        rows, expected = zip(*good[start : start + 1000], strict=True)
        served = predictions(exact, list(rows))
        assert [row["probability"] for row in served] == list(expected)
        served = predictions(rounded, list(rows))
        assert [(row["churn_probability"], row["risk_category"]) for row in served] == [
            (round(p, 3), band(p)) for p in expected
        ]
    for row, p in good[::200]:
        assert prediction(exact, row)["probability"] == p
    for row in bad:
        assert exact("POST", "/predict", orjson.dumps(row)).status == 422
