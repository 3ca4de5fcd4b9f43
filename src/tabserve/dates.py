"""The sample's columns of dates, as requests can have them: in UTC, to the microsecond."""

from typing import Any

from tabserve.errors import MissingExtra, PackError
from tabserve.moments import MOMENTS, texts_of_moments

try:
    from pandas.api.types import pandas_dtype
except ImportError:
    raise MissingExtra("pandas", "sklearn") from None


def texts_of_dates(column: Any) -> list[Any]:
    """As JSON has them, None where missing."""
    return texts_of_moments(without_zone(column).to_numpy())


def without_zone(column: Any) -> Any:
    """In UTC, without saying so."""
    has_zone = getattr(column.dtype, "tz", None) is not None
    utc = column.dt.tz_convert("UTC").dt.tz_localize(None) if has_zone else column
    return utc.astype(MOMENTS)


def refuse_inexact_dates(column: Any) -> None:
    """Raises PackError where the model was fitted on dates that no request can have."""
    if (column.dropna().dt.nanosecond != 0).any():
        raise PackError(
            f"The column {column.name} has dates with nanoseconds, and a request has microseconds "
            'at most. Fit the model on the dates rounded by .dt.floor("us").'
        )
    if not _is_known_by_name(column.dtype):
        raise PackError(
            f"The column {column.name} has dates in a time zone that a server cannot find by its "
            'name. Convert them before fitting, by .dt.tz_convert("UTC") or to a zone such as '
            '"Europe/Berlin".'
        )


def _is_known_by_name(dtype: Any) -> bool:
    try:
        return bool(pandas_dtype(str(dtype)) == dtype)
    except TypeError:
        return False
