"""Both frameworks answer the same bytes with the same status, type and body."""

import asyncio
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from werkzeug.test import run_wsgi_app

from tabserve import Service
from tests.conftest import RECORD
from tests.serving import (
    BODY,
    FRAMEWORKS,
    PATIENCE_S,
    Client,
    client_of,
    error,
    masked,
    settings,
)


class Case(NamedTuple):
    """`code` is None where the answer is no error."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    status: int
    code: str | None = None


def _post(body: bytes, status: int, code: str | None = None, **headers: str) -> Case:
    return Case("POST", "/predict", body, headers, status, code)


def _record(**changes: Any) -> bytes:
    return orjson.dumps(RECORD | changes)


_TYPE = "content-type"

CASES = {
    "a record": _post(BODY, 200),
    "a record with white space": _post(b" \r\n\t" + BODY + b"\n ", 200),
    "a null where the model imputes": _post(_record(total_charges=None), 200),
    "a batch": Case("POST", "/predict/batch", orjson.dumps([RECORD] * 3), {}, 200),
    "the longest batch": Case("POST", "/predict/batch", orjson.dumps([RECORD] * 20), {}, 200),
    "a batch that is too long": Case(
        "POST", "/predict/batch", orjson.dumps([RECORD] * 21), {}, 413, "too_large"
    ),
    "an empty batch": Case("POST", "/predict/batch", b"[]", {}, 422, "invalid_input"),
    "a record for a batch": Case("POST", "/predict/batch", BODY, {}, 422, "invalid_input"),
    "a bad row of a batch": Case(
        "POST", "/predict/batch", orjson.dumps([RECORD, {}]), {}, 422, "invalid_input"
    ),
    "a batch for a record": _post(orjson.dumps([RECORD]), 422, "invalid_input"),
    "no body": _post(b"", 422, "invalid_json"),
    "half a body": _post(BODY[:-1], 422, "invalid_json"),
    "no UTF-8": _post(BODY.replace(b"Month", b"\xff\xfe"), 422, "invalid_json"),
    "UTF-16": _post(BODY.decode().encode("utf-16"), 422, "invalid_json"),
    "NaN": _post(BODY.replace(b"65.5", b"NaN"), 422, "invalid_input"),
    "a key twice": _post(b'{"tenure_months":1,' + BODY[1:], 422, "invalid_json"),
    "half a surrogate": _post(BODY.replace(b"Month-", b"\\ud800"), 422, "invalid_json"),
    "a NUL": _post(BODY.replace(b"Month-", b"\\u0000"), 422, "invalid_input"),
    "deep nesting": _post(b"[" * 100_000, 422, "invalid_json"),
    "a missing field": _post(b"{}", 422, "invalid_input"),
    "an extra field": _post(_record(colour="red"), 422, "invalid_input"),
    "text for a number": _post(_record(monthly_charges="65.5"), 422, "invalid_input"),
    "a boolean for a number": _post(_record(tenure_months=True), 422, "invalid_input"),
    "a huge integer": _post(BODY.replace(b"12", b"9" * 400), 422, "invalid_input"),
    "an unknown category": _post(_record(contract_type="Weekly"), 422, "invalid_input"),
    "5 MiB": _post(b" " * (5 * 2**20), 413, "too_large"),
    "a type with a charset": _post(BODY, 200, **{_TYPE: "application/json; charset=utf-8"}),
    "a type in capitals": _post(BODY, 200, **{_TYPE: "Application/JSON;charset=UTF-8"}),
    "an empty type": _post(BODY, 200, **{_TYPE: ""}),
    "form data": _post(
        BODY, 415, "unsupported_media_type", **{_TYPE: "application/x-www-form-urlencoded"}
    ),
    "multipart": _post(BODY, 415, "unsupported_media_type", **{_TYPE: "multipart/form-data"}),
    "text": _post(BODY, 415, "unsupported_media_type", **{_TYPE: "text/plain"}),
    "no type at all": _post(BODY, 415, "unsupported_media_type", **{_TYPE: "/"}),
    "a query": Case("POST", "/predict?a=1&b=%zz", BODY, {}, 200),
    "GET of a prediction": Case("GET", "/predict", b"", {}, 405, "method_not_allowed"),
    "HEAD of a prediction": Case("HEAD", "/predict", b"", {}, 405),
    "OPTIONS": Case("OPTIONS", "/predict", b"", {}, 405, "method_not_allowed"),
    "PUT": Case("PUT", "/predict", BODY, {}, 405, "method_not_allowed"),
    "TRACE": Case("TRACE", "/predict", b"", {}, 405, "method_not_allowed"),
    "a method of WebDAV": Case("PROPFIND", "/predict", b"", {}, 405, "method_not_allowed"),
    "POST to a probe": Case("POST", "/health", BODY, {}, 405, "method_not_allowed"),
    "OPTIONS *": Case("OPTIONS", "/*", b"", {}, 404, "not_found"),
    "a method of WebDAV nowhere": Case("PROPFIND", "/nowhere", b"", {}, 404, "not_found"),
    "the root": Case("GET", "/", b"", {}, 404, "not_found"),
    "no path": Case("GET", "?a=b", b"", {}, 404, "not_found"),
    "nowhere": Case("GET", "/nowhere", b"", {}, 404, "not_found"),
    "two slashes": Case("POST", "//predict", BODY, {}, 404, "not_found"),
    "two slashes inside": Case("POST", "/predict//batch", BODY, {}, 404, "not_found"),
    "a slash at the end": Case("POST", "/predict/", BODY, {}, 404, "not_found"),
    "capitals": Case("POST", "/Predict", BODY, {}, 404, "not_found"),
    "a dot": Case("POST", "/./predict", BODY, {}, 404, "not_found"),
    "a line break in the path": Case("GET", "/a%0d%0ab", b"", {}, 404, "not_found"),
    "no UTF-8 in the path": Case("GET", "/%ff%fe", b"", {}, 404, "not_found"),
    "an escape in the path": Case("GET", "/he%61lth", b"", {}, 200),
    "a file of the server": Case("GET", "/docs/../../etc/passwd", b"", {}, 404, "not_found"),
    "health": Case("GET", "/health", b"", {}, 200),
    "HEAD of health": Case("HEAD", "/health", b"", {}, 200),
    "a body where none belongs": Case("GET", "/health", BODY, {}, 200),
    "ready": Case("GET", "/ready", b"", {}, 200),
    "metadata": Case("GET", "/metadata", b"", {}, 200),
    "openapi": Case("GET", "/openapi.json", b"", {}, 200),
    "docs": Case("GET", "/docs", b"", {}, 200),
    "HEAD of docs": Case("HEAD", "/docs", b"", {}, 200),
    "redoc": Case("GET", "/redoc", b"", {}, 200),
    "a script of the docs": Case("GET", "/docs/swagger-ui-bundle.js", b"", {}, 200),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[Service]:
    made = Service(repository, settings=settings(max_rows=20))
    made.wait(PATIENCE_S)
    yield made
    made.close()


@pytest.fixture(scope="module")
def clients(service: Service) -> dict[str, Client]:
    return {framework: client_of(service, framework) for framework in FRAMEWORKS}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client(framework: str, clients: dict[str, Client]) -> Client:
    return clients[framework]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_both_frameworks_answer_the_same_bytes_alike(
    case: Case, clients: dict[str, Client]
) -> None:
    headers = case.headers | {"X-Request-ID": "the-same"}
    fastapi, flask = (
        clients[framework](case.method, case.path, case.body, headers) for framework in FRAMEWORKS
    )

    assert (fastapi.status, fastapi.headers, masked(fastapi.body)) == (
        flask.status, flask.headers, masked(flask.body),
    )  # fmt: skip
    assert (fastapi.status, fastapi.headers["x-request-id"]) == (case.status, "the-same")
    if case.code is not None:
        assert error(fastapi) == (case.status, case.code)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/predict", "POST"),
        ("/predict/batch", "POST"),
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/metadata", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/redoc", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: Client, path: str, allowed: str) -> None:
    answer = client("DELETE", path)

    assert error(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_head_has_the_headers_of_get_and_no_body(client: Client) -> None:
    get, head = (
        client(method, "/docs", headers={"X-Request-ID": "x"}) for method in ("GET", "HEAD")
    )

    assert head.headers == get.headers
    assert (get.headers["content-length"], head.body) == (str(len(get.body)), b"")


@pytest.mark.parametrize(
    "given", ["", "a b", "a\tb", "é", "x" * 129, '{"a":1} "', "\x7f", "a\r\nSet-Cookie: b"]
)
def test_a_hostile_request_id_is_replaced(client: Client, given: str) -> None:
    made = client.get("/health", {"X-Request-ID": given}).headers["x-request-id"]

    assert re.fullmatch("[0-9a-f]{32}", made)


def test_a_request_id_is_made_anew_for_each_request(client: Client) -> None:
    assert len({client.get("/health").headers["x-request-id"] for _ in range(5)}) == 5


def test_a_request_id_of_the_client_is_taken_over(client: Client) -> None:
    given = "Root=1-67891233-abcdef;~" + "x" * 104

    assert client.predict({"X-Request-ID": given}).headers["x-request-id"] == given


def test_a_body_of_just_the_limit_is_read(repository: Path, framework: str) -> None:
    service = Service(repository, settings=settings(max_body=len(BODY)))
    service.wait(PATIENCE_S)
    client = client_of(service, framework)

    assert client.predict().status == 200
    assert error(client("POST", "/predict", BODY + b" ")) == (413, "too_large")
    service.close()


def told_in_parts(service: Service, parts: list[dict[str, Any]]) -> tuple[list[Any], int]:
    """What an ASGI server would be sent for a request in these parts, and how many were read."""
    waiting, sent = list(parts), []

    async def receive() -> Any:
        # After the last one, as a server: nothing until the client leaves.
        return waiting.pop(0) if waiting else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
    asyncio.run(service.fastapi()(scope, receive, send))
    return sent, len(parts) - len(waiting)


def _part(body: bytes, more_body: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


def test_a_body_may_come_in_parts(service: Service) -> None:
    sent, n_read = told_in_parts(service, [_part(BODY[:7]), _part(BODY[7:]), _part(b"", False)])

    assert (sent[0]["status"], n_read) == (200, 3)


def test_a_body_that_is_too_long_is_not_read_to_its_end(service: Service) -> None:
    sent, n_read = told_in_parts(service, [_part(b" " * 2**20)] * 100)

    assert sent[0]["status"] == 413
    assert n_read <= 6


def test_a_client_that_leaves_amid_its_body_is_answered_nothing(service: Service) -> None:
    assert told_in_parts(service, [_part(BODY), {"type": "http.disconnect"}]) == ([], 2)


def test_a_wsgi_body_that_is_too_long_is_not_read_to_its_end(service: Service) -> None:
    body = BytesIO(b" " * 2**23)
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/predict", "SERVER_NAME": "test",
        "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": body,
        "CONTENT_LENGTH": str(2**23),
    }  # fmt: skip

    _, status, _ = run_wsgi_app(service.flask(), environ, buffered=True)

    assert (status.split()[0], body.tell()) == ("413", 4 * 2**20 + 1)


def test_a_body_that_breaks_off_is_a_400_in_json(service: Service) -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("Invalid chunk size: b'zz'")  # as gunicorn says it

        readinto = read1 = read

    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/predict", "SCRIPT_NAME": "", "QUERY_STRING": "",
        "SERVER_NAME": "test", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http", "wsgi.input": Broken(), "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr, "wsgi.version": (1, 0), "HTTP_TRANSFER_ENCODING": "chunked",
    }  # fmt: skip

    content, status, _ = run_wsgi_app(service.flask(), environ, buffered=True)

    body = orjson.loads(b"".join(content))
    assert (status[:3], body["error"]) == ("400", "bad_request")
