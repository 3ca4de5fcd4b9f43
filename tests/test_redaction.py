import json
import logging

import orjson
import pytest

from tabserve.redaction import RedactingFormatter, has_key, redacted, redacted_text

KEY = "ts_" + "aB3-_" * 8 + "xyz"


def test_a_key_is_taken_out_wherever_it_stands_and_the_line_stays_json() -> None:
    line = {"path": f"/predict/{KEY}", "features": {KEY: [KEY, 1]}, "id": KEY + KEY}

    found = redacted(orjson.dumps(line))

    assert KEY.encode() not in found
    assert json.loads(found)["path"] == "/predict/ts_***"
    assert has_key(f"x{KEY}y")


def test_a_key_that_lacks_its_last_letters_is_one_too() -> None:
    assert redacted(KEY[:-2].encode()) == b"ts_***"


def test_a_message_is_one_line_without_a_key() -> None:
    assert redacted_text(f"a\nb\x1b[2K{KEY} \u2028é") == "a\\u000ab\\u001b[2Kts_*** \\u2028é"


def test_what_the_server_says_of_itself_has_no_key_and_keeps_its_lines() -> None:
    args = (KEY, "ValueError\n  File \x1b[2K")
    record = logging.LogRecord("tabserve", logging.ERROR, "", 0, "%s failed: %s", args, None)

    found = RedactingFormatter("%(levelname)s %(message)s").format(record)

    assert found == "ERROR ts_*** failed: ValueError\n  File \\u001b[2K"


def test_what_the_server_says_of_itself_has_a_time_as_the_log_has() -> None:
    record = logging.LogRecord("tabserve", logging.INFO, "", 0, "ready", (), None)
    record.created, record.msecs = 1795813728.357, 357.0

    found = RedactingFormatter("%(asctime)s %(message)s").format(record)

    assert found == "2026-11-27T21:08:48.357Z ready"


LONG = "payments_of_the_last_30_days_average_amount_in_euro"


@pytest.mark.parametrize(
    "value", ["ts_short", "its_a_name", LONG, LONG.upper(), "Ünïcode 中文 😀", "a\tb"]
)
def test_what_is_no_key_stays_as_it_is(value: str) -> None:
    line = orjson.dumps({"path": value})

    assert redacted(line) == line
    assert not has_key(value)


@pytest.mark.parametrize(
    "value",
    ["a\nb", "a\r\nb", "\x1b[2K\x1b[1A", "\x9b2K", "a\u2028b", "a\u2029b", "a\x85b", "\u202eb"],
)
def test_a_line_is_one_line_to_every_reader_and_says_the_same(value: str) -> None:
    line = redacted(orjson.dumps({"path": value + "é"}))

    assert len(line.decode().splitlines()) == 1
    assert all(char.isprintable() for char in line.decode())
    assert json.loads(line) == {"path": value + "é"}


def test_beginnings_of_keys_without_end_are_read_once() -> None:
    line = b"ts_" * 50_000  # from each of them to the end it would take a minute

    assert redacted(line) == line
