from typing import Any

import pytest

from tabserve.bench.openapi import Field, examples, record_fields
from tabserve.errors import BenchError


def document(media: dict[str, Any], **components: Any) -> dict[str, Any]:
    operation = {"requestBody": {"content": {"application/json": media}}}
    return {"paths": {"/predict": {"post": operation}}, "components": components}


ROW = {"age": 3}


@pytest.mark.parametrize(
    ("media", "components"),
    [
        ({"example": ROW}, {}),
        ({"examples": {"young": {"value": ROW}}}, {}),
        (
            {"examples": {"y": {"$ref": "#/components/examples/a~1b"}}},
            {"examples": {"a/b": {"value": ROW}}},
        ),
        ({"schema": {"examples": [ROW]}}, {}),
        ({"schema": {"example": ROW}}, {}),
        ({"schema": {"$ref": "#/components/schemas/R"}}, {"schemas": {"R": {"examples": [ROW]}}}),
    ],
)
def test_an_example_is_found_wherever_openapi_allows_it(
    media: dict[str, Any], components: dict[str, Any]
) -> None:
    assert examples(document(media, **components)) == [ROW]


def test_the_media_types_examples_go_before_those_of_the_schema() -> None:
    media = {
        "examples": {"a": {"value": {"x": 1}}, "b": {"value": {"x": 2}}},
        "schema": {"example": ROW},
    }
    assert examples(document(media)) == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize("found", [None, [], {"paths": 7}, document({}), document({"example": 7})])
def test_a_document_without_example_is_an_error_that_names_the_way_out(found: Any) -> None:
    with pytest.raises(BenchError, match="give records with --data FILE"):
        examples(found)


def test_a_circle_of_references_is_an_error() -> None:
    circle = document(
        {"schema": {"$ref": "#/components/schemas/R"}},
        schemas={"R": {"$ref": "#/components/schemas/R"}},
    )
    with pytest.raises(BenchError, match="found a circle"):
        examples(circle)


def test_each_field_has_the_types_that_its_schema_accepts() -> None:
    plans = {"Plan": {"enum": ["basic", "pro"]}}
    properties = {
        "age": {"type": "integer"},
        "income": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "city": {"type": ["string", "null"]},
        "plan": {"$ref": "#/components/schemas/Plan"},
        "member": {"type": "boolean", "nullable": True},
    }
    schema = {"properties": properties, "required": ["age", "plan"]}
    assert record_fields(document({"schema": schema}, schemas=plans)) == {
        "age": Field(frozenset({"integer"}), required=True),
        "income": Field(frozenset({"number", "null"}), required=False),
        "city": Field(frozenset({"string", "null"}), required=False),
        "plan": Field(frozenset({"string"}), required=True),
        "member": Field(frozenset({"boolean", "null"}), required=False),
    }


def test_a_schema_without_fields_is_an_error() -> None:
    with pytest.raises(BenchError, match="give the records as NDJSON"):
        record_fields(document({"schema": {"type": "object"}}))
