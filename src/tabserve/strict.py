"""What pydantic-core lets pass and we do not: a key twice, NaN, Infinity, 1e400, deep nesting.

It is looked for after validation, and in full only where the bytes can hold it: parsing twice would
cost as much again as the whole validation.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jiter
import numpy as np
from pydantic import BaseModel

from tabserve.errors import InvalidInput
from tabserve.refusal import refusal, shortened
from tabserve.request_class import input_names, may_add_keys, may_set_fields

# Of one record. Each key that no field has is a problem of its own, and costs 5 µs.
MAX_KEYS = 10_000

# With more keys to count, parsing twice costs less.
_MAX_COUNTED = 16

# What a number has that is none as a double, where each digit is written as 0 and each E as e: an
# exponent of three digits, or so many digits that one of two would do.
_SHAPE = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE = (b"e000", b"e+000", b"0" * 200)

# Of nesting: +1 where a bracket opens, -1 where it closes.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))

# Of pydantic's schemas, those of values without parts.
_PLAIN = {
    "int", "float", "str", "bool", "none", "literal", "enum", "date", "datetime", "time", "decimal",
    "uuid", "timedelta",
}  # fmt: skip
_AROUND_PLAIN = {"nullable", "default", "union", "model-field", "function-after"}


class LaxJSON:
    """Tells by counting whether the bytes of records can hold what JSON does not allow.

    A name in quotes that a colon follows is a key. Where each colon is that of another known key,
    none is there twice.
    """

    def __init__(self, request_class: type[BaseModel]) -> None:
        fields = request_class.model_fields
        self._known = {key for name in fields for key in input_names(request_class, name)}
        self._fields_tell = not may_set_fields(request_class)
        self._required = [
            b'"%s":' % input_names(request_class, name)[0].encode()
            for name, field in fields.items()
            if field.is_required()
        ]
        if may_add_keys(request_class):
            self._required = []

    def is_possible_in_one(self, body: bytes) -> bool:
        """Not in plain JSON with known keys: to parse one record takes less time than to count."""
        try:
            parsed = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
        except ValueError:
            return True
        return not isinstance(parsed, dict) or not self._known.issuperset(parsed)

    def is_possible_in(self, body: bytes, records: Sequence[BaseModel]) -> bool:
        if self._fields_tell:
            n_keys = sum([len(record.model_fields_set) for record in records])
        elif 0 < len(self._required) <= _MAX_COUNTED:
            # A valid record has them all, so that one which has a key twice shows in the sum.
            if any(body.count(key) != len(records) for key in self._required):
                return True
            n_keys = len(records) * len(self._required)
        else:
            return True
        return may_be_lax(body, n_keys)


def may_be_lax(body: bytes, n_keys: int) -> bool:
    """n_keys: different ones that are known to be there."""
    return body.count(b":") != n_keys or b"NaN" in body or b"Infinity" in body


def refuse_too_many_keys(body: bytes) -> None:
    if len(body) <= MAX_KEYS or body.count(b":") <= MAX_KEYS:
        return
    parsed = strictly_parsed(body)
    for record in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(record, dict) and len(record) > MAX_KEYS:
            message = f"Input should have at most {MAX_KEYS} keys"
            raise InvalidInput([{"loc": ("body",), "msg": message, "type": "too_many_keys"}])


def refuse_too_deep(body: bytes, max_depth: int, n_records: int = 1) -> None:
    """n_records: that are known to be in it, none within another.

    Raises InvalidInput. pydantic-core itself refuses what is deeper than 200.
    """
    if body.count(b"[") + body.count(b"{") < max_depth + n_records:
        return
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(body.split(b'"')[::2])
    steps = np.frombuffer(outside_strings.translate(_STEPS, _NO_BRACKETS), np.int8)
    if steps.cumsum(dtype=np.int32).max(initial=0) > max_depth:
        message = f"Input should be nested at most {max_depth} deep"
        raise InvalidInput([{"loc": ("body",), "msg": message, "type": "too_deep"}])


def may_nest(request_class: type[BaseModel]) -> bool:
    """Whether a field takes more than a plain value, by pydantic's own schema."""
    schema: Any = request_class.__pydantic_core_schema__
    while schema["type"] == "function-after":
        schema = schema["schema"]
    if schema["type"] != "model" or schema["schema"]["type"] != "model-fields":
        return True
    return not all(map(_is_plain, schema["schema"]["fields"].values()))


def _is_plain(schema: Any) -> bool:
    if isinstance(schema, tuple):  # one of a union, with its label
        return _is_plain(schema[0])
    if not isinstance(schema, Mapping):
        return False
    if schema["type"] in _AROUND_PLAIN:
        return all(map(_is_plain, schema.get("choices") or [schema.get("schema")]))
    return schema["type"] in _PLAIN


def strictly_parsed(body: bytes) -> Any:
    """Raises InvalidJSON."""
    try:
        parsed = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
        if _may_be_huge(body):
            json.loads(body, parse_float=_finite)
        return parsed
    except ValueError as error:
        message = shortened(f"Invalid JSON: {error}")
        raise refusal([{"loc": ("body",), "msg": message, "type": "json_invalid"}]) from None


def _may_be_huge(body: bytes) -> bool:
    # Not a pattern: its search takes as long as five times the parsing.
    shape = body.translate(_SHAPE)
    return any(part in shape for part in _HUGE)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number
