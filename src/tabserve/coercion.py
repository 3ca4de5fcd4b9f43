"""Values of any type as one array of the feature's: of Python's types, or of another dtype."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from tabserve.feature import EXACT_INTEGER_LIMIT, PYTHON_TYPES, Feature
from tabserve.moments import MOMENTS, moment_of
from tabserve.types import Array

_NOT_EXACT = "Input is an integer beyond 2**53, which a float cannot hold exactly"


# A row whose value cannot be made one of the feature's type, its kind of problem and the message.
Refused = tuple[int, str, str]


class Coerced(NamedTuple):
    """values: int64, float64, bool, datetime64 or object, with a stand-in where missing or refused.
    missing: boolean.
    """

    values: Array
    missing: Array
    refused: Sequence[Refused] = ()


def coerced(feature: Feature, values: Sequence[Any] | Array) -> Coerced:
    if isinstance(values, np.ndarray):
        masked = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        array = np.asarray(values)
        found = _of_array(feature, array, masked)
        if found is not None:
            return found
        values = _python_values(array, masked)
    if set(map(type, values)) <= {PYTHON_TYPES.get(feature.type), type(None)}:
        with suppress(OverflowError):  # more than int64 holds
            return _of_one_type(feature, values)
    return _one_by_one(feature, values)


def _of_array(feature: Feature, array: Array, masked: Array | None) -> Coerced | None:
    """None where its values have to be looked at one by one."""
    kind = array.dtype.kind
    missing = np.zeros(len(array), dtype=bool) if masked is None else masked
    if kind == "f":
        missing = missing | np.isnan(array)
    elif kind == "M":
        missing = missing | np.isnat(array)
    if feature.type == "number" and kind in "iuf":
        values = array.astype(np.float64)
        if kind == "f":
            return Coerced(values, missing)
        large = array > EXACT_INTEGER_LIMIT
        if kind == "i":
            large |= array < -EXACT_INTEGER_LIMIT
        return Coerced(values, missing, _refused(large & ~missing, "number_type", _NOT_EXACT))
    if feature.type == "integer" and kind in "iuf":
        return _integers(feature, array, missing)
    if feature.type == "boolean" and kind == "b":
        return Coerced(array, missing)
    if feature.type == "datetime" and kind == "M":
        return Coerced(array.astype(MOMENTS), missing)
    if feature.type == "string" and kind == "U":
        return Coerced(array.astype(object), missing)
    if feature.type in ("integer", "number") and kind == "b":  # JSON's true is no number either
        message = f"Input should be a valid {feature.type}"
        refused = _refused(~missing, f"{feature.type}_type", message)
        return Coerced(np.zeros(len(array), _DTYPES[feature.type]), missing, refused)
    return None


def _integers(feature: Feature, array: Array, missing: Array) -> Coerced:
    # The first double and unsigned integer that no int64 holds is 2**63.
    if array.dtype.kind == "i":
        return Coerced(array.astype(np.int64), missing)
    whole = np.ones(len(array), dtype=bool)
    large = array >= 2**63
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(array) & (np.floor(array) == array)
            large = (np.abs(array) >= 2.0**63) & (array != -(2.0**63)) & whole
    held = whole & ~large & ~missing
    refused = [
        *_refused(~whole & ~missing, "integer_type", "Input should be a valid integer"),
        *_refused(large & ~missing, "out_of_range", _beyond(feature)),
    ]
    return Coerced(np.where(held, array, 0).astype(np.int64), missing, refused)


def _refused(where: Array, kind: str, message: str) -> list[Refused]:
    return [(row, kind, message) for row in np.flatnonzero(where).tolist()]


def _beyond(feature: Feature) -> str:
    least, largest = feature.bounds
    return f"Input should be from {least} to {largest}"


def _python_values(array: Array, masked: Array | None) -> list[Any]:
    listed = array.astype(MOMENTS).tolist() if array.dtype.kind == "M" else array.tolist()
    if masked is not None:
        return [None if hidden else x for x, hidden in zip(listed, masked.tolist(), strict=True)]
    return [None if value is None or value != value else value for value in listed]


def _of_one_type(feature: Feature, values: Sequence[Any]) -> Coerced:
    """values: of the type that stands for the feature's, or None."""
    missing = np.array([value is None for value in values], dtype=bool)
    array = np.empty(len(values), dtype=_DTYPES[feature.type])
    array[:] = (
        [_STAND_INS[feature.type] if value is None else value for value in values]
        if missing.any()
        else values
    )
    return Coerced(array, missing)


def _one_by_one(feature: Feature, values: Sequence[Any]) -> Coerced:
    """pydantic may have made of JSON, and a user's class of that, anything."""
    typed: list[Any] = []
    refused: list[Refused] = []
    to_type, stand_in = _TYPED[feature.type], _STAND_INS[feature.type]
    kind = "iso_date" if feature.type == "datetime" else f"{feature.type}_type"
    for row, value in enumerate(values):
        try:
            typed.append(stand_in if value is None else to_type(plain(value)))
        except (TypeError, ValueError, OverflowError) as error:
            refused.append((row, kind, str(error)))
            typed.append(stand_in)
    if feature.type == "integer":
        for row, value in enumerate(typed):
            if not -(2**63) <= value < 2**63:  # more than the array can hold
                refused.append((row, "out_of_range", _beyond(feature)))
                typed[row] = stand_in
    array = np.empty(len(typed), dtype=_DTYPES[feature.type])
    array[:] = typed
    missing = np.array([value is None for value in values], dtype=bool)
    return Coerced(array, missing, refused)


def plain(value: Any) -> Any:
    """An enum's member as its value; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def inexact_as_float(value: Any) -> bool:
    """Whether an integer of the JSON text would lose digits in a float feature."""
    return type(value) is int and abs(value) > EXACT_INTEGER_LIMIT


def _integer(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    raise TypeError("Input should be a valid integer")


def _number(value: Any) -> float:
    if inexact_as_float(value):
        raise ValueError(_NOT_EXACT)
    if isinstance(value, int | float | Decimal):
        return float(value)
    raise TypeError("Input should be a valid number")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("Input should be a valid boolean")


def _string(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise TypeError("Input should be a valid string")


_TYPED: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "datetime": moment_of,
}
_DTYPES: dict[str, Any] = {
    "integer": np.int64,
    "number": np.float64,
    "boolean": np.bool_,
    "string": object,
    "datetime": MOMENTS,
}
_STAND_INS: dict[str, Any] = {
    "integer": 0,
    "number": 0.0,
    "boolean": False,
    "string": "",
    "datetime": np.datetime64(0, "us"),
}
