"""Columns in place of records: the same rows, the same answers, and refusals with their place."""

import json
from typing import Any, Self

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tabserve.decoding import RecordDecoder
from tabserve.errors import InvalidInput, InvalidJSON, TooLarge
from tabserve.records import Records
from tabserve.signature import Feature, Signature

SIGNATURE = Signature(
    features=(
        Feature(name="age", type="integer", dtype="int64"),
        Feature(name="income", type="number", dtype="float64", nullable=True),
        Feature(name="plan", type="string", dtype="object", categories=("a", "b")),
    )
)
COLUMNS: dict[str, list[Any]] = {"age": [31, 45], "income": [1.5, None], "plan": ["a", "b"]}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    customer: str | None = None
    age: int = Field(ge=0, alias="years")
    income: float | None = None
    plan: str


class Checked(Person):
    """With a validator of a whole record."""

    @model_validator(mode="after")
    def adults_earn(self) -> Self:
        if self.age > 40 and self.income == 0:
            raise ValueError("adults earn")
        return self


class CheckedField(Person):
    @field_validator("plan")
    @classmethod
    def known(cls, plan: str) -> str:
        return plan.lower()


def body(columns: dict[str, Any]) -> bytes:
    return json.dumps({"columns": columns}).encode()


def transposed(columns: dict[str, list[Any]]) -> bytes:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json.dumps(rows).encode()


def told(records: Records) -> Any:
    columns = SIGNATURE.arrays(records.values)
    return {name: column.tolist() for name, column in columns.items()}, records.echoes


def problems(decoder: RecordDecoder, text: bytes) -> list[tuple[Any, str]]:
    with pytest.raises(InvalidInput) as caught:
        decoder.batch(text)
    return [(found["loc"], found["type"]) for found in caught.value.problems]


@pytest.mark.parametrize("request_class", [None, Person, Checked, CheckedField])
def test_columns_are_the_rows_that_they_stand_for(request_class: Any) -> None:
    decoder = RecordDecoder(SIGNATURE, request_class)
    columns = dict(COLUMNS)
    if request_class is not None:
        columns = {"years": columns.pop("age"), **columns, "customer": ["x", None]}
    assert str(told(decoder.batch(body(columns)))) == str(told(decoder.batch(transposed(columns))))


def test_a_column_that_may_be_left_out_has_its_default() -> None:
    for request_class in (Person, Checked):
        found = RecordDecoder(SIGNATURE, request_class).batch(
            body({"years": [31, 45], "plan": ["a", "b"]})
        )
        assert np.isnan(SIGNATURE.arrays(found.values)["income"]).all()
        assert (found.n_rows, found.echoes) == (2, [{}, {}])


@pytest.mark.parametrize("request_class", [Person, Checked])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"years": [31, -1]}, [(("years", 1), "greater_than_equal")]),
        ({"plan": ["a", 7]}, [(("plan", 1), "string_type")]),
        ({"plan": ["a", "z"]}, [(("plan", 1), "unknown_category")]),
        ({"years": [31]}, [(("years",), "column_length")]),
        ({"income": [2.0, 2**53 + 1]}, [(("income", 1), "int_inexact")]),
    ],
)
def test_a_refusal_names_column_and_row(
    request_class: Any, changes: dict[str, Any], expected: list[tuple[Any, str]]
) -> None:
    columns = {"years": [31, 45], "income": [1.5, None], "plan": ["a", "b"]} | changes
    found = problems(RecordDecoder(SIGNATURE, request_class), body(columns))
    assert found == [(("body", "columns", *loc), kind) for loc, kind in expected]


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"columns": []}',
        b'{"columns": {}}',
        b'{"columns": {"age": 3}}',
        b'{"columns": {"age": [], "income": [], "plan": []}}',
        body(COLUMNS | {"more": [1, 2]}),
        body({"age": [31]}),
        body(COLUMNS)[:-1] + b', "rows": []}',
    ],
)
@pytest.mark.parametrize("request_class", [None, Checked])
def test_what_is_no_set_of_columns_is_refused(text: bytes, request_class: Any) -> None:
    decoder = RecordDecoder(SIGNATURE, request_class)
    assert all(loc[0] == "body" for loc, _ in problems(decoder, text))


@pytest.mark.parametrize(
    "text",
    [
        body(COLUMNS).replace(b"1.5", b"NaN"),
        body(COLUMNS).replace(b"1.5", b"1e400"),
        body(COLUMNS)[:-2] + b', "age": [1, 2]}}',
        body(COLUMNS) + b"x",
    ],
)
@pytest.mark.parametrize("request_class", [None, Checked])
def test_json_is_as_strict_as_for_records(text: bytes, request_class: Any) -> None:
    with pytest.raises((InvalidJSON, InvalidInput)):
        RecordDecoder(SIGNATURE, request_class).batch(text)


@pytest.mark.parametrize("request_class", [Person, Checked])
def test_rows_are_bounded(request_class: Any) -> None:
    columns = {"years": [1] * 11, "plan": ["a"] * 11}
    with pytest.raises(TooLarge):
        RecordDecoder(SIGNATURE, request_class, max_rows=10).batch(body(columns))


def test_a_whole_record_is_validated_where_the_class_does() -> None:
    columns = {"years": [31, 45], "income": [0.0, 0.0], "plan": ["a", "b"]}
    assert problems(RecordDecoder(SIGNATURE, Checked), body(columns)) == [
        (("body", "columns", 1), "value_error")
    ]


def test_a_record_where_a_batch_is_expected_is_told_what_a_batch_is() -> None:
    record = json.dumps({"years": 31, "plan": "a"}).encode()

    assert problems(RecordDecoder(SIGNATURE, Checked), record) == [(("body",), "batch_type")]
