"""Heads that are known again: the same request as the parser would read, or none."""

import pytest

from tabserve.heads import KnownHeads
from tabserve.types import Request

HEAD = b"POST /predict?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def read(body: bytes = b"first", **headers: str) -> Request:
    """What the parser makes of HEAD and the body."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    given = {"host": "x", "content-length": str(len(body))} | named
    return Request("POST", "/predict", given, body, "10.0.0.1", query="a=1")


def test_another_body_behind_the_same_head_is_the_same_request_of_another_client() -> None:
    heads = KnownHeads()
    heads.keep(HEAD + b"first", read())

    request = heads.request(HEAD + b"\r\n\r\n.", "10.0.0.2")

    headers = {"host": "x", "content-length": "5"}
    assert request == Request("POST", "/predict", headers, b"\r\n\r\n.", "10.0.0.2", query="a=1")


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"four", HEAD + b"longer", HEAD + b"first" + HEAD + b"other", HEAD, HEAD[:-1], b"",
        HEAD.replace(b": x", b": y") + b"first", b"\r\n" + HEAD + b"first",
    ],
)  # fmt: skip
def test_what_is_not_the_head_and_one_whole_body_is_not_known(data: bytes) -> None:
    heads = KnownHeads()
    heads.keep(HEAD + b"first", read())

    assert heads.request(data, "") is None


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (HEAD + b"first" + HEAD + b"other", read()),
        (HEAD + b"firs", read()),
        (HEAD + b"first", read(transfer_encoding="chunked")),
        (HEAD + b"first", read(expect="100-continue")),
        (HEAD + b"first", read(upgrade="h2c")),
        (HEAD + b"first", read(content_length="05")),
        (HEAD.replace(b": x", b": " + b"x" * 2048) + b"first", read()),
        (b"", read()),
    ],
)
def test_only_a_plain_head_that_came_with_its_body_and_no_more_is_kept(
    data: bytes, request_: Request
) -> None:
    heads = KnownHeads()

    heads.keep(data, request_)

    assert heads.request(data, "") is None
    assert heads.request(HEAD + b"first", "") is None


def test_so_many_heads_are_kept_and_not_more() -> None:
    heads = KnownHeads()
    sent = [HEAD.replace(b": x", b": %d" % n) + b"first" for n in range(1000)]

    for data in sent:
        heads.keep(data, read())

    assert 0 < sum(heads.request(data, "") is not None for data in sent) <= 256
