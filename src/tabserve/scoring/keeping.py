"""Fields of NDJSON that are kept, as they are: what type they have is known at the end."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from tabserve.errors import MissingExtra
from tabserve.feature import EXACT_INTEGER_LIMIT

try:
    import pyarrow as pa
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

_TYPES = {
    pa.bool_(): {"boolean"},
    pa.int64(): {"integer", "long integer"},
    pa.float64(): {"integer", "number"},
}


def kept(lines: Sequence[bytes], names: Sequence[str]) -> dict[str, Any]:
    """Of each record those fields, as JSON; null where there is none."""
    found: dict[str, list[bytes | None]] = {name: [] for name in names}
    if names:
        for line in lines:
            record = _record(line)
            for name, values in found.items():
                value = record.get(name)
                values.append(None if value is None else orjson.dumps(value))
    return {name: pa.array(values, pa.string()) for name, values in found.items()}


def as_text(column: Any) -> tuple[Any, set[str]]:
    """What is JSON with text as it is, and of what kinds the values are."""
    values = [None if text is None else orjson.loads(text) for text in column.to_pylist()]
    kinds = {_kind(value) for value in values if value is not None}
    texts = [
        value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
        for value in values
    ]
    return pa.array(texts, pa.string()), kinds


def type_of(kinds: Iterable[str]) -> Any:
    """That holds all of them as they are; where there is none, text."""
    found = set(kinds)
    for kind, admitted in _TYPES.items():
        if found and found <= admitted:
            return kind
    return pa.string()


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        is_long = abs(value) > EXACT_INTEGER_LIMIT  # and would lose digits as a float
        return "long integer" if is_long else "integer"
    return "number" if isinstance(value, float) else "text"
