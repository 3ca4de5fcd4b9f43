"""Dates and times as they are held: in UTC, to the microsecond; and as JSON's text has them."""

import re
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from tabserve.types import Array

# As finely as JSON's text is read.
MOMENTS = np.dtype("datetime64[us]")

ISO_DATE = "Input should be a date or a date and time in ISO 8601, such as 2026-03-29T13:45:00Z"

# A pattern for pydantic-core as well. Which days a month has is seen later.
ISO_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
_ISO = re.compile(ISO_PATTERN)


def moment_of(value: Any) -> datetime:
    """In UTC, without saying so, as numpy has it; what names no offset is in UTC."""
    try:
        if isinstance(value, str) and _ISO.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime):
            return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day)
    except (ValueError, OverflowError):
        pass  # such as a 30th of February
    raise TypeError(ISO_DATE)


def texts_of_moments(moments: Array) -> list[str | None]:
    """Dates as JSON has them, in UTC; None where missing."""
    return [
        None if moment is None else f"{moment.isoformat()}Z"
        for moment in moments.astype(MOMENTS).tolist()
    ]
