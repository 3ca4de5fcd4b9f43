from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tabserve.moments import moment_of
from tabserve.scoring.moments import moments

TEXTS = [
    "2026-03-29", "2026-03-29T13:45", "2026-03-29 13:45:07", "2026-03-29T13:45:00Z",
    "2026-03-29t13:45:00z", "2026-03-29T13:45:00.123456+02:00", "2026-03-29T13:45:00-0230",
    "2026-03-29T13:45:00.123456789", "2024-02-29", "2026-02-29", "2026-13-01", "2026-03-29T24:00",
    "2026-03-29T23:59:60", "2026-03-29T13:45:00+2:00", "0001-01-01", "9999-12-31T23:59:59",
    "0001-01-01T00:00:00+05:00", " 2026-03-29", "29.03.2026", "2026-3-9", "today", "", "1774791900",
]  # fmt: skip


def as_the_server(text: str) -> Any:
    try:
        return moment_of(text)
    except TypeError:
        return None


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("chosen", [TEXTS, [t for t in TEXTS if as_the_server(t)], ["2026-03-29"]])
def test_text_is_read_as_the_server_does(chosen: list[str], coded: bool):
    array = pa.array([*chosen, None, chosen[0]])
    found = moments(array.dictionary_encode() if coded else array)
    assert found is not None
    # What is before the year 1 in UTC is refused by its feature's ends.
    found[found < np.datetime64("0001-01-01")] = np.datetime64("NaT")
    assert found.tolist() == [*map(as_the_server, chosen), None, as_the_server(chosen[0])]


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin"), pa.date32()],
)
def test_dates_of_any_type_are_in_utc(kind: Any):
    seconds = 86_400 * np.arange(20_000, 20_003)
    array = pa.array(seconds.astype("datetime64[s]")).cast(pa.timestamp("s", "UTC"))
    array = array.cast(kind) if kind != pa.date32() else array.cast(pa.timestamp("s")).cast(kind)
    found = moments(pa.concat_arrays([array, pa.nulls(1, kind)]))
    assert found is not None
    assert found[:-1].tolist() == seconds.astype("datetime64[s]").tolist()
    assert np.isnat(found[-1])


def test_nanoseconds_and_other_types_are_left_to_the_server():
    assert moments(pa.array([1], pa.timestamp("ns"))) is None
    assert moments(pa.array([1.5])) is None
