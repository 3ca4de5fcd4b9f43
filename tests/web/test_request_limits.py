"""Each limit of a request, in both frameworks: at the limit it is taken, one above refused."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ConfigDict

from tabserve import Service
from tests.conftest import RECORD
from tests.serving import BODY, FRAMEWORKS, PATIENCE_S, Answer, Client, client_of, error, settings

MAX_BODY, MAX_ROWS, MAX_DEPTH = 4000, 5, 6


class Customer(BaseModel):
    """Takes anything as its note, and leaves out what it does not know."""

    model_config = ConfigDict(extra="ignore")

    tenure_months: int
    monthly_charges: float
    total_charges: float | None
    contract_type: str
    note: Any = None


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[Service]:
    made = Service(
        repository,
        request=Customer,
        settings=settings(
            max_body=MAX_BODY, max_rows=MAX_ROWS, max_depth=MAX_DEPTH, max_ratio=1,
            allowed_hosts="api.example.org",
        ),
    )  # fmt: skip
    made.wait(PATIENCE_S)
    yield made
    made.close()


@pytest.fixture(params=FRAMEWORKS)
def client(service: Service, request: pytest.FixtureRequest) -> Client:
    return client_of(service, request.param)


def post(client: Client, path: str, body: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return client("POST", path, content, {"host": "api.example.org"} | named)


def columns(n_rows: int) -> dict[str, Any]:
    return {"columns": {name: [value] * n_rows for name, value in RECORD.items()}}


def test_a_body_has_a_size(client: Client) -> None:
    assert post(client, "/predict", BODY.ljust(MAX_BODY)).status == 200
    answer = post(client, "/predict", BODY.ljust(MAX_BODY + 1))
    assert error(answer) == (413, "too_large")
    assert str(MAX_BODY) in answer.json()["detail"]


@pytest.mark.parametrize("query", ["", "?on_error=report"])
@pytest.mark.parametrize("form", ["records", "columns"])
def test_a_batch_has_a_number_of_rows(client: Client, form: str, query: str) -> None:
    def sent(n_rows: int) -> Answer:
        body = [RECORD] * n_rows if form == "records" else columns(n_rows)
        return post(client, "/predict/batch" + query, body)

    assert sent(MAX_ROWS).json()["count"] == MAX_ROWS
    assert error(sent(MAX_ROWS + 1)) == (413, "too_large")
    assert f"at most {MAX_ROWS} records" in sent(MAX_ROWS + 1).json()["detail"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("key", ["note", "unknown"])
@pytest.mark.parametrize("form", ["record", "records", "columns", "report"])
def test_json_has_a_depth(client: Client, form: str, key: str) -> None:
    def sent(depth: int) -> Answer:
        if form == "record":
            return post(client, "/predict", RECORD | {key: nested(depth - 1)})
        if form == "columns":
            body = columns(1)
            body["columns"][key] = nested(depth - 2)
            return post(client, "/predict/batch", body)
        query = "?on_error=report" if form == "report" else ""
        rows = [RECORD] * 4 + [RECORD | {key: nested(depth - 2)}]
        return post(client, "/predict/batch" + query, rows)

    assert sent(MAX_DEPTH).status == 200
    answer = sent(MAX_DEPTH + 1)
    assert error(answer) == (422, "invalid_input")
    assert [found["type"] for found in answer.json()["detail"]] == ["too_deep"]


def test_brackets_in_text_are_no_depth(client: Client) -> None:
    text = '[{"\\' * 20
    assert post(client, "/predict", RECORD | {"note": [text]}).status == 200
    answer = post(client, "/predict", RECORD | {"note": [']}"\\' * 20, nested(MAX_DEPTH)]})
    assert error(answer) == (422, "invalid_input")


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("given", ["text/plain", "application/xml", "application/jsonp", "x"])
def test_only_json_is_taken(client: Client, path: str, given: str) -> None:
    assert error(post(client, path, BODY, content_type=given)) == (415, "unsupported_media_type")


@pytest.mark.parametrize("given", ["application/json", "Application/JSON; charset=utf-8", ""])
def test_json_may_be_named_as_it_is_named(client: Client, given: str) -> None:
    assert post(client, "/predict", BODY, content_type=given).status == 200


def test_a_body_may_come_as_gzip(client: Client) -> None:
    answer = post(client, "/predict", gzip.compress(BODY), content_encoding="gzip")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (gzip.compress(BODY.ljust(MAX_BODY + 1)), "gzip", 413),
        (gzip.compress(BODY)[:-1], "gzip", 400),
        (gzip.compress(b"{"), "gzip", 422),
        (BODY, "br", 415),
    ],
    ids=["large", "cut", "no JSON", "another"],
)
def test_a_coding_that_cannot_be_read_is_refused(
    client: Client, body: bytes, coding: str, status: int
) -> None:
    answer = post(client, "/predict", body, content_encoding=coding)
    assert error(answer)[0] == status
    assert answer.headers.get("accept-encoding") == ("gzip, identity" if status == 415 else None)


@pytest.mark.parametrize(
    ("host", "status"),
    [("API.example.org:80", 200), ("evil.example", 421), ("", 400), ("a b", 400), ("a,b", 400)],
)
def test_a_request_names_the_host(client: Client, host: str, status: int) -> None:
    answer = post(client, "/predict", BODY, host=host)
    assert (answer.status if status == 200 else error(answer)[0]) == status


def test_probes_may_be_sent_to_an_address(client: Client) -> None:
    probes = [client.get(path, {"host": "10.1.2.3:8000"}) for path in ("/health", "/ready")]
    assert [probe.status for probe in probes] == [200, 200]
    assert client.get("/metadata", {"host": "10.1.2.3:8000"}).status == 421


HOSTILE = {
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "1e400": b"1e400",
    "-1e400": b"-1E+400",
    "400 digits": b"9" * 400 + b".0",
    "lone surrogate": b'"\\ud800"',
    "no UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\x80"',
    "duplicate key": b'{"a":1,"a":2}',
}
# Where a float would lose digits, and nowhere else: other fields are no numbers to us.
BEYOND_64_BITS = [b"%d" % 2**64, b"%d" % (2**53 + 1)]


@pytest.mark.parametrize(
    ("key", "written"),
    [
        *(
            pytest.param(key, written, id=f"{key}: {name}")
            for key in ("total_charges", "note", "unknown")
            for name, written in HOSTILE.items()
        ),
        *(("total_charges", written) for written in BEYOND_64_BITS),
    ],
)
def test_what_json_or_a_double_cannot_say_is_refused_on_every_route(
    client: Client, key: str, written: bytes
) -> None:
    others = {name: number for name, number in RECORD.items() if name != key}
    record = orjson.dumps(others)[:-1] + b',"%s":%s}' % (key.encode(), written)
    column = orjson.dumps({name: [number] for name, number in others.items()})
    by_column = b'{"columns":%s,"%s":[%s]}}' % (column[:-1], key.encode(), written)

    for path, body in [
        ("/predict", record),
        ("/predict/batch", b"[%s]" % record),
        ("/predict/batch", by_column),
    ]:
        assert error(post(client, path, body))[0] == 422, (path, body)


def test_a_key_twice_is_refused_on_every_route(client: Client) -> None:
    twice = BODY[:-1] + b',"tenure_months":12}'
    columns_twice = orjson.dumps(columns(1))[:-2] + b',"tenure_months":[12]}}'
    for path, body in [
        ("/predict", twice),
        ("/predict/batch", b"[%s]" % twice),
        ("/predict/batch", columns_twice),
    ]:
        assert error(post(client, path, body)) == (422, "invalid_json")
