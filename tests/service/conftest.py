"""A service whose engine a test holds, under each framework."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tabserve import Service
from tests.serving import FRAMEWORKS, Client, client_of, service_with


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def serve(
    repository: Path, framework: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Client]]:
    """Makes a client of a service that computes with the engine."""
    services: list[Service] = []

    def make(engine: Any, **told: Any) -> Client:
        service, depth = service_with(engine, repository, monkeypatch, **told)
        services.append(service)
        client = client_of(service, framework)
        client.depth, client.service = depth, service
        return client

    yield make
    for service in services:
        service.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made
