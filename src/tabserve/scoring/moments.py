"""Dates of a file as the signature has them: in UTC, to the microsecond."""

from contextlib import suppress
from typing import Any

import numpy as np

from tabserve.errors import MissingExtra
from tabserve.moments import MOMENTS, moment_of
from tabserve.types import Array

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

# What Arrow reads just as the server does, but for days that no month has.
_PLAIN = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?"
_WITHOUT_ZONE, _WITH_ZONE = f"{_PLAIN}$", f"{_PLAIN}(Z|[+-]\\d{{2}}:?\\d{{2}})$"


def moments(array: Any) -> Array | None:
    """NaT where it is null, and where text is no date. None for a type that holds no dates.

    array: text, as the server reads it, or dates, of which those without a zone are in UTC.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        found = moments(array.dictionary)
        return (
            None if found is None else np.append(found, np.datetime64("NaT")).take(_places(array))
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        encoded = pc.dictionary_encode(array)
        texts = _read(encoded.dictionary)
        return np.append(texts, np.datetime64("NaT")).take(_places(encoded))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        with suppress(pa.ArrowInvalid):  # nanoseconds
            if pa.types.is_timestamp(kind) and kind.tz is not None:
                array = array.cast(pa.timestamp(kind.unit, "UTC"))
            return _held(array.cast(pa.timestamp("us", getattr(array.type, "tz", None))))
    return None


def _places(encoded: Any) -> Array:
    """The last place, one after the values, for what is missing."""
    indices = encoded.indices.fill_null(len(encoded.dictionary))
    found: Array = indices.to_numpy(zero_copy_only=False).astype(np.intp, copy=False)
    return found


def _read(texts: Any) -> Array:
    """texts: all different."""
    found = np.full(len(texts), "NaT", dtype=MOMENTS)
    for pattern, zone in ((_WITHOUT_ZONE, None), (_WITH_ZONE, "UTC")):
        rows = np.flatnonzero(
            pc.match_substring_regex(texts, pattern).fill_null(False).to_numpy(zero_copy_only=False)
        )
        with suppress(pa.ArrowInvalid):  # such as a 30th of February: they are read one by one
            found[rows] = _held(texts.take(pa.array(rows)).cast(pa.timestamp("us", zone)))
    for row in np.flatnonzero(np.isnat(found)).tolist():
        with suppress(TypeError):
            found[row] = moment_of(texts[row].as_py())
    return found


def _held(moments: Any) -> Array:
    found: Array = moments.to_numpy(zero_copy_only=False).astype(MOMENTS)
    return found
