"""What pydantic-core lets pass and JSON does not allow: a key twice, NaN, Infinity.

It is looked for after validation, and in full only where the bytes can hold it: parsing twice would
cost as much again as the whole validation.
"""

from collections.abc import Sequence
from typing import Any

import jiter
from pydantic import BaseModel

from tabserve.errors import InvalidInput
from tabserve.refusal import refusal, shortened
from tabserve.request_class import input_names, may_add_keys, may_set_fields

# Of one record. Each key that no field has is a problem of its own, and costs 5 µs.
MAX_KEYS = 10_000

# With more keys to count, parsing twice costs less.
_MAX_COUNTED = 16


class LaxJSON:
    """Tells by counting whether the bytes of records can hold what JSON does not allow.

    A name in quotes that a colon follows is a key. Where each colon is that of another known key,
    none is there twice.
    """

    def __init__(self, request_class: type[BaseModel]) -> None:
        fields = request_class.model_fields
        self._fields_tell = not may_set_fields(request_class)
        self._keys = [b'"%s":' % input_names(request_class, name)[0].encode() for name in fields]
        self._required = [
            key
            for key, field in zip(self._keys, fields.values(), strict=True)
            if field.is_required()
        ]
        if may_add_keys(request_class):
            self._required = []

    def is_possible_in_one(self, body: bytes, record: BaseModel) -> bool:
        if self._fields_tell:
            n_keys = len(record.model_fields_set)
        elif len(self._keys) <= _MAX_COUNTED:
            n_keys = sum([key in body for key in self._keys])
        else:
            return True
        return may_be_lax(body, n_keys)

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
    if body.count(b":") <= MAX_KEYS:
        return
    parsed = strictly_parsed(body)
    for record in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(record, dict) and len(record) > MAX_KEYS:
            message = f"Input should have at most {MAX_KEYS} keys"
            raise InvalidInput([{"loc": ("body",), "msg": message, "type": "too_many_keys"}])


def strictly_parsed(body: bytes) -> Any:
    """Raises InvalidJSON."""
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        message = shortened(f"Invalid JSON: {error}")
        raise refusal([{"loc": ("body",), "msg": message, "type": "json_invalid"}]) from None
