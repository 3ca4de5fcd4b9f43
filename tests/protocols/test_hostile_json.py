"""Bodies that are no JSON, or JSON that no record is: a 4xx, which never holds the input."""

import orjson
import pytest

from tests.conftest import RECORD, TELCO
from tests.serving import Client, error

SUITE = TELCO.parent / "jsontestsuite" / "test_parsing"
ROUTES = ("/predict", "/predict/batch")
JSON = {"content-type": "application/json"}

# As the value of a field, in place of a number, of text and of what is echoed.
FIELDS = ("total_charges", "customer_id", "another")


def bodies(content: bytes) -> list[bytes]:
    record = [f'"{name}":{orjson.dumps(value).decode()}'.encode() for name, value in RECORD.items()]
    inside = [
        b"{" + b",".join([*(x for x in record if not x.startswith(key)), key + content]) + b"}"
        for key in [b'"%s":' % name.encode() for name in FIELDS]
    ]
    return [content, b"[" + content + b"]", *inside]


@pytest.mark.skipif(not SUITE.is_dir(), reason="JSONTestSuite is not beside this checkout")
def test_nothing_of_the_json_test_suite_is_the_servers_fault(client: Client) -> None:
    files = sorted(SUITE.glob("*.json"))
    assert len(files) > 300
    for path in files:
        for body in bodies(path.read_bytes()):
            for route in ROUTES:
                answer = client("POST", route, body, JSON)
                told = (path.name, route, body[:300], answer)
                least = 400 if path.name.startswith("n_") else 200
                assert least <= answer.status < 500, told
                assert answer.status < 400 or error(answer), told
                assert len(answer.body) <= 4096, told


def test_an_error_is_never_larger_than_4_kib(client: Client) -> None:
    names = ["\N{ROCKET}" * 1000, "\x01" * 1000, *(f"field {i}" for i in range(500))]
    for content in (dict.fromkeys(names, 1), [{name: 1} for name in names] * 3):
        for route in ROUTES:
            answer = client("POST", route, orjson.dumps(content), JSON)
            assert error(answer)[0] == 422
            assert 0 < len(answer.body) <= 4096
