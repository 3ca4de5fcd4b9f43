"""Bodies in a coding, whole and broken, at their limits and beyond."""

import gzip
import random
import zlib

import pytest

from tabserve.errors import BadRequest, ClientError, TooLarge, UnsupportedCoding
from tabserve.receiving import Bounds

BOUNDS = Bounds(max_body=200_000, max_ratio=10)
NOISE = random.Random(0).randbytes(200_000)


@pytest.mark.parametrize("content", [b"", b"{}", b"a" * 65_536, NOISE])
@pytest.mark.parametrize("coding", ["gzip", "GZIP ", "x-gzip"])
def test_a_gzip_is_read(content: bytes, coding: str) -> None:
    assert BOUNDS.decoded(gzip.compress(content), coding) == content


def test_identity_is_no_coding() -> None:
    assert BOUNDS.decoded(b"{}", "identity") == b"{}"


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip,identity", ""])
def test_other_codings_are_refused(coding: str) -> None:
    with pytest.raises(UnsupportedCoding):
        BOUNDS.decoded(gzip.compress(b"{}"), coding)


WHOLE = gzip.compress(b'{"x":1}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"x":1}',
        zlib.compress(b"{}"),
        WHOLE[:-1],
        WHOLE[:5],
        WHOLE + b"\0",
        WHOLE + WHOLE,
        WHOLE[:-8] + b"\0" * 8,
    ],
    ids=["nothing", "plain", "zlib", "cut", "head", "behind it", "two members", "wrong checksum"],
)
def test_what_is_not_one_whole_gzip_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        BOUNDS.decoded(body, "gzip")


@pytest.mark.parametrize(
    ("content", "what"), [(NOISE + b"!", "200000 bytes"), (b"a" * 65_537, "10 times")]
)
def test_one_that_grows_too_large_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(TooLarge, match=what):
        BOUNDS.decoded(gzip.compress(content), "gzip")


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 2**28)
    with pytest.raises(ClientError):
        Bounds(max_ratio=10**6).decoded(bomb, "gzip")
