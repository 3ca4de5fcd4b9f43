import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tabserve import Service
from tests.serving import FRAMEWORKS, Client, client_of, settings


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[Service]:
    made = Service(repository, settings=settings())
    yield made
    made.close()


@pytest.fixture(scope="module", params=FRAMEWORKS)
def client(service: Service, request: pytest.FixtureRequest) -> Client:
    return client_of(service, request.param)


class Addresses(HTMLParser):
    """Every address that a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href")]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_all_that_a_page_needs_is_served_here(client: Client, page: str) -> None:
    answer = client.get(page)
    addresses = Addresses(answer.body.decode()).found

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert len(addresses) >= 3
    for address in addresses:
        assert not re.match("[a-z]+:|/", address), "not relative, so lost where the app is mounted"
        assert client.get(urljoin(page, address)).status == 200


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_and_its_own_script_name_no_other_host(client: Client, page: str) -> None:
    content = client.get(page).body + client.get(f"/docs/{_START[page]}").body

    assert re.findall(rb"//[a-z0-9]", content) == []
    assert b'"openapi.json"' in content


_START = {"/docs": "swagger-start.js", "/redoc": "redoc-start.js"}


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_browser_is_told_to_fetch_nothing_from_elsewhere(client: Client, page: str) -> None:
    policy = client.get(page).headers["content-security-policy"]

    assert policy.split("; ")[0] == "default-src 'self'"
    assert re.search(r"https?:|\*|'unsafe-eval'|script-src", policy) is None


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_cannot_be_framed_and_tells_others_nothing(client: Client, page: str) -> None:
    headers = client.get(page).headers

    policy = set(headers["content-security-policy"].split("; "))
    assert policy >= {
        "object-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    }  # fmt: skip
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"


def test_every_page_and_file_keeps_to_its_type(client: Client, service: Service) -> None:
    paths = [route.path for route in service.dispatcher().routes]
    pages = [path for path in paths if path.startswith(("/docs", "/redoc"))]

    assert len(pages) == 8
    for path in pages:
        assert client.get(path).headers["x-content-type-options"] == "nosniff"
    html = [path for path in paths if "html" in client.get(path).headers["content-type"]]
    assert html == ["/docs", "/redoc"]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("swagger-ui-bundle.js", "text/javascript"),
        ("redoc.standalone.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
        ("favicon.png", "image/png"),
        ("swagger-start.js", "text/javascript; charset=utf-8"),
        ("redoc-start.js", "text/javascript; charset=utf-8"),
    ],
)
def test_a_file_has_its_type_and_is_not_empty(client: Client, name: str, content_type: str) -> None:
    answer = client.get(f"/docs/{name}")

    assert (answer.status, answer.headers["content-type"]) == (200, content_type)
    assert len(answer.body) > 50


def test_no_other_file_is_served(client: Client) -> None:
    for name in ("", "..", "../../__init__.py", "%2e%2e/%2e%2e/__init__.py", "swagger-ui"):
        assert client.get(f"/docs/{name}").status == 404
