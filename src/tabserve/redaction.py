"""What must not be written to a log: API keys, and characters that make one line look like two."""

import logging
import re
import time

PREFIX = "ts_"  # of each key that `tabserve keys` makes
# One with a letter or three left out is a secret too. Of as many random letters some are large and
# some small (all of one size: 1 in 10^9), and those of a column such as `payments_...` are not.
# Further than these it does not look: `ts_ts_...` would be read to its end from each `ts_` of it.
_KEY = re.compile(r"ts_(?=[a-z0-9_-]{0,39}[A-Z])(?=[A-Z0-9_-]{0,39}[a-z])[A-Za-z0-9_-]{40,}")
_KEY_BYTES = re.compile(_KEY.pattern.encode())
_NO_KEY = "ts_***"

# Line breaks, terminals' commands and directions of writing, which JSON allows as they are.
_DECEPTIVE = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def redacted(lines: bytes) -> bytes:
    """Lines of JSON without keys, whoever wrote one into a path or a record, and that every reader
    takes for as many lines.
    """
    if b"ts_" in lines:
        lines = _KEY_BYTES.sub(_NO_KEY.encode(), lines)
    if not lines.isascii():
        lines = _DECEPTIVE.sub(_escaped, lines.decode()).encode()
    return lines


def without_keys(text: str) -> str:
    """Before it is cut: of a key, a part is told neither."""
    return _KEY.sub(_NO_KEY, text) if PREFIX in text else text


def redacted_text(text: str) -> str:
    """The same of a message, in which nothing is escaped yet."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return without_keys(shown)


def redacted_lines(text: str) -> str:
    """The same of what may have several lines, such as a traceback."""
    return "\n".join(map(redacted_text, text.split("\n")))


class RedactingFormatter(logging.Formatter):
    """For messages that may name what a client sent, such as the id of its request.

    Times are told as those of the log are, so that the two can be laid beside each other.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return redacted_lines(super().format(record))


def has_key(text: str) -> bool:
    return _KEY.search(text) is not None


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
