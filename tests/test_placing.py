"""Docs and metrics: with the predictions, on the admin port, or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import Service, Settings
from tabserve.errors import InvalidSettings
from tabserve.exchange import respond
from tabserve.http import Dispatcher
from tabserve.types import Request
from tests.serving import PATIENCE_S, settings

DOCS = ("/docs", "/redoc", "/openapi.json", "/docs/swagger-ui.css")


@contextmanager
def placed(repository: Path, **told: Any) -> Iterator[tuple[Dispatcher, Dispatcher]]:
    """What answers on the main and on the admin port."""
    service = Service(repository, settings=settings(admin_port=0, **told))
    service.wait(PATIENCE_S)
    yield service.dispatcher(), service.admin_dispatcher()
    service.close()


def status(core: Dispatcher, path: str) -> int:
    headers = {"host": "localhost:8001"}
    return respond(core, Request("GET", path, headers, b"", "127.0.0.1")).status


@pytest.mark.parametrize(
    ("place", "statuses"), [("main", (200, 404)), ("admin", (404, 200)), ("off", (404, 404))]
)
def test_docs_are_where_they_are_said_to_be(
    repository: Path, place: str, statuses: tuple[int, int]
) -> None:
    with placed(repository, docs=place) as ports:
        for path in DOCS:
            assert tuple(status(core, path) for core in ports) == statuses
        assert [status(core, "/metadata") for core in ports] == [200, 200]


@pytest.mark.parametrize(
    ("place", "statuses"), [("main", (200, 200)), ("admin", (404, 200)), ("off", (404, 404))]
)
def test_metrics_are_where_they_are_said_to_be_and_described_there(
    repository: Path, place: str, statuses: tuple[int, int]
) -> None:
    with placed(repository, metrics=place) as ports:
        assert tuple(status(core, "/metrics") for core in ports) == statuses
        document = respond(ports[0], Request("GET", "/openapi.json", {}, b"", "")).body
        assert ("/metrics" in orjson.loads(document)["paths"]) == (place == "main")


def test_who_finds_no_route_is_sent_to_docs_that_are_there(repository: Path) -> None:
    with placed(repository, docs="off") as (main, _):
        answer = respond(main, Request("GET", "/no-such", {}, b"", "127.0.0.1"))
        assert orjson.loads(answer.body)["detail"] == "There is no such route."


@pytest.mark.parametrize("name", ["docs", "metrics"])
def test_a_place_on_the_admin_port_needs_one(name: str) -> None:
    with pytest.raises(InvalidSettings, match=f"--{name} admin needs --admin-port"):
        Settings.load(**{name: "admin"})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("rate_limit_counts", "rows", "--rate-limit-counts rows"),
        ("rate_limit_store", "redis://:secret@a/", "--rate-limit-store"),
    ],
)
def test_what_a_limit_is_like_needs_one(name: str, value: str, told: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{told} needs --rate-limit.$"):
        Settings.load(**{name: value})


@pytest.mark.parametrize(
    "origin", ["app.example.org", "https://a.org/", "https://A.org", "null", "ftp://a", "*.a.org"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(InvalidSettings, match="Expected origins as a browser sends them"):
        Settings.load(cors_origins=f"https://b.org,{origin}")


@pytest.mark.parametrize("store", ["localhost:6379", "http://:secret@a/"])
def test_a_store_that_is_none_is_refused_and_not_repeated(store: str) -> None:
    with pytest.raises(InvalidSettings, match="Expected the address of a store") as refused:
        Settings.load(rate_limit_store=store)
    assert store not in str(refused.value)
