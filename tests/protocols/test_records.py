from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from pydantic import BaseModel
from sklearn.pipeline import Pipeline

from examples.churn.request import ChurnRequest
from tabserve import Service
from tests.conftest import RECORD
from tests.serving import BODY, FRAMEWORKS, PATIENCE_S, Client, client_of, error, settings


@pytest.fixture(scope="module")
def probability(pipeline: Pipeline) -> float:
    """What the notebook says of RECORD."""
    return float(pipeline.predict_proba(pd.DataFrame([RECORD]))[0, 1])


def test_a_prediction_is_what_the_notebook_says_rounded_as_declared(
    client: Client, probability: float
) -> None:
    answer = client.predict()
    body = answer.json()
    moment = datetime.fromisoformat(body.pop("prediction_timestamp"))

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert abs(datetime.now(UTC) - moment) < timedelta(seconds=PATIENCE_S)
    assert len(bytes.fromhex(body.pop("prediction_id"))) == 16
    assert body == {
        "churn_probability": round(probability, 3),
        "risk_category": "Low" if probability < 0.3 else "Medium" if probability < 0.7 else "High",
        "model_version": "1.2.3",
    }


def test_a_batch_is_answered_row_by_row_as_its_rows_alone(
    client: Client, customers: pd.DataFrame
) -> None:
    rows = orjson.loads(customers.drop(columns="churn").head(20).to_json(orient="records"))
    rows = [row if row["tenure_months"] else row | {"total_charges": None} for row in rows]

    batch = client("POST", "/predict/batch", orjson.dumps(rows)).json()
    alone = [client("POST", "/predict", orjson.dumps(row)).json() for row in rows]

    assert (list(batch), batch["count"]) == (["predictions", "count"], 20)
    ours = ("churn_probability", "risk_category", "model_version")
    assert [[row[name] for name in ours] for row in batch["predictions"]] == [
        [row[name] for name in ours] for row in alone
    ]
    assert len({row["prediction_id"] for row in batch["predictions"]}) == 20


def test_the_order_of_the_fields_does_not_matter(client: Client) -> None:
    turned = orjson.dumps(dict(reversed(RECORD.items())))

    answers = [client("POST", "/predict", body).json() for body in (BODY, turned)]

    assert answers[0]["churn_probability"] == answers[1]["churn_probability"]


def test_a_field_that_is_no_feature_is_echoed_and_one_that_is_left_out_is_not(
    client: Client,
) -> None:
    body = orjson.dumps([RECORD | {"customer_id": 'a"\n'}, RECORD, RECORD | {"customer_id": None}])

    predictions = client("POST", "/predict/batch", body).json()["predictions"]

    assert [row.get("customer_id", "left out") for row in predictions] == ['a"\n', "left out", None]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"tenure_months": 241},
            (["tenure_months"], "Input should be less than or equal to 240", "less_than_equal"),
        ),
        (
            {"contract_type": "Weekly"},
            (
                ["contract_type"],
                "Input should be 'Month-to-month', 'One year' or 'Two year'",
                "literal_error",
            ),
        ),
        (
            {"total_charges": 9000.5},
            (
                [],
                "Value error, total_charges is further than 50 % from "
                "monthly_charges * tenure_months",
                "value_error",
            ),
        ),
        ({"colour": 1}, (["colour"], "Extra inputs are not permitted", "extra_forbidden")),
        (
            {"monthly_charges": None},
            (["monthly_charges"], "Input should be a valid number", "float_type"),
        ),
    ],
)
def test_a_bad_field_is_named_and_the_row_is_not_echoed(
    client: Client, changes: dict[str, Any], problem: tuple[list[str], str, str]
) -> None:
    body = orjson.dumps([RECORD, RECORD | changes])
    answer = client("POST", "/predict/batch", body, {"X-Request-ID": "the-id"})
    loc, message, kind = problem

    assert error(answer) == (422, "invalid_input")
    assert answer.json()["detail"] == [{"loc": ["body", 1, *loc], "msg": message, "type": kind}]
    assert [
        text for text in (b"786", b"65.5", b"9000.5", b"241", b"Weekly") if text in answer.body
    ] == []


def test_every_bad_field_is_named(client: Client) -> None:
    answer = client("POST", "/predict", b'{"tenure_months":-1,"x":1}')

    assert [problem["loc"] for problem in answer.json()["detail"]] == [
        ["body", "tenure_months"],
        ["body", "monthly_charges"],
        ["body", "contract_type"],
        ["body", "x"],
    ]


class Numbered(ChurnRequest):
    number: int | None = None
    anything: Any = None


@pytest.fixture(scope="module", params=FRAMEWORKS)
def numbered(repository: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Service(repository, request=Numbered, settings=settings())
    made.wait(PATIENCE_S)
    yield client_of(made, request.param)
    made.close()


@pytest.mark.parametrize(
    "echo",
    [
        {"number": 2**63},
        {"anything": {"a": [1, None, "é\u2028"], "b": {"c": 0.1}}},
        {"anything": -(2**63)},
        {"anything": True},
    ],
)
def test_what_is_echoed_is_what_was_sent(numbered: Client, echo: dict[str, Any]) -> None:
    answer = numbered("POST", "/predict", orjson.dumps(RECORD | echo))

    assert answer.status == 200
    assert {name: answer.json()[name] for name in echo} == echo


@pytest.mark.parametrize("number", [b"9" * 30, b"[" + b"9" * 30 + b"]", b"1e400", b"NaN"])
@pytest.mark.parametrize("field", [b"number", b"anything"])
def test_what_cannot_be_echoed_is_refused(numbered: Client, field: bytes, number: bytes) -> None:
    answer = numbered("POST", "/predict", BODY[:-1] + b',"' + field + b'":' + number + b"}")

    assert answer.status == 422


class Unfit(BaseModel):
    tenure_months: int
    monthly_charges: Any
    total_charges: Any
    contract_type: Any


@pytest.fixture(scope="module")
def unfit(repository: Path) -> Iterator[Client]:
    made = Service(repository, request=Unfit, settings=settings())
    made.wait(PATIENCE_S)
    yield client_of(made, "fastapi")
    made.close()


@pytest.mark.parametrize("value", [b"[1]", b'{"a":1}', b'"x"', b"true", b"9" * 30])
def test_a_class_that_lets_anything_pass_is_no_way_to_a_500(unfit: Client, value: bytes) -> None:
    answer = unfit("POST", "/predict", BODY.replace(b"786.0", value))

    assert answer.status in (200, 422)


def test_a_number_too_large_for_the_model_is_named(client: Client) -> None:
    large = RECORD | {"tenure_months": 0, "total_charges": 1e300}
    problem = {"msg": "Input is too large for the model", "type": "out_of_range"}

    one = client("POST", "/predict", orjson.dumps(large)).json()
    many = client("POST", "/predict/batch", orjson.dumps([RECORD, large])).json()

    assert one["detail"] == [{"loc": ["body", "total_charges"], **problem}]
    assert many["detail"] == [{"loc": ["body", 1, "total_charges"], **problem}]
