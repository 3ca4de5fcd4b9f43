"""What a server's openapi.json says of the record that POST /predict takes.

`Any` here is JSON as the server sent it: each step checks what it finds.
"""

from dataclasses import dataclass
from typing import Any

from tabserve.errors import BenchError

_MAX_REFS = 32  # references to references; more is taken for a circle

_KIND_OF_VALUE = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class Field:
    """kinds: JSON types that the field accepts, "null" among them when it is nullable."""

    kinds: frozenset[str]
    required: bool


def examples(document: Any) -> list[dict[str, Any]]:
    """Example records of POST /predict, from the media type or else from its schema.

    Raises BenchError if there is none.
    """
    media = _media_type(document)
    named = _follow(document, media, "examples")
    candidates = [_follow(document, media, "example")]
    if isinstance(named, dict):
        candidates += [_follow(document, example, "value") for example in named.values()]
    if not any(isinstance(candidate, dict) for candidate in candidates):
        schema = _follow(document, media, "schema")
        listed = _follow(document, schema, "examples")
        candidates = [*(listed if isinstance(listed, list) else [])]
        candidates.append(_follow(document, schema, "example"))
    records = [candidate for candidate in candidates if isinstance(candidate, dict)]
    if not records:
        raise BenchError(
            "Expected an example record for POST /predict in the server's openapi.json, found none"
            " - give records with --data FILE"
        )
    return records


def record_fields(document: Any) -> dict[str, Field]:
    """Fields of the record, by name. Raises BenchError if the schema lists none."""
    schema = _follow(document, _media_type(document), "schema")
    properties = _follow(document, schema, "properties")
    if not isinstance(properties, dict) or not properties:
        raise BenchError(
            "Expected the fields of POST /predict in the server's openapi.json, found none"
            " - give the records as NDJSON, whose values have their types"
        )
    required = _follow(document, schema, "required") or []
    return {
        name: Field(frozenset(_kinds(document, field)), name in required)
        for name, field in properties.items()
    }


def _media_type(document: Any) -> Any:
    return _follow(
        document,
        document,
        *("paths", "/predict", "post", "requestBody", "content", "application/json"),
    )


def _kinds(document: Any, schema: Any, depth: int = 0) -> set[str]:
    schema = _resolved(document, schema)
    if not isinstance(schema, dict) or depth > _MAX_REFS:
        return set()
    kinds: set[str] = set()
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        kinds |= _kinds(document, branch, depth + 1)
    declared = schema.get("type", [])
    kinds |= {declared} if isinstance(declared, str) else set(declared)
    if not kinds:
        values = schema.get("enum", [schema["const"]] if "const" in schema else [])
        kinds = {_KIND_OF_VALUE.get(type(value), "null") for value in values}
    return kinds | ({"null"} if schema.get("nullable") is True else set())  # OpenAPI 3.0


def _follow(document: Any, node: Any, *keys: str) -> Any:
    """The node below `node` under these keys, references followed; None where there is none."""
    node = _resolved(document, node)
    for key in keys:
        node = _resolved(document, node.get(key)) if isinstance(node, dict) else None
    return node


def _resolved(document: Any, node: Any) -> Any:
    for _ in range(_MAX_REFS):
        reference = node.get("$ref") if isinstance(node, dict) else None
        if not isinstance(reference, str):
            return node
        node = document
        for step in reference.removeprefix("#/").split("/"):
            # RFC 6901 section 4: ~1 stands for /, and ~0 for ~, in this order
            name = step.replace("~1", "/").replace("~0", "~")
            node = node.get(name) if isinstance(node, dict) else None
    raise BenchError("Expected a finite $ref in the server's openapi.json, found a circle")
