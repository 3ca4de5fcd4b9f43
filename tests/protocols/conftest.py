from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.churn.request import ChurnRequest
from tabserve import Service
from tests.serving import FRAMEWORKS, PATIENCE_S, Client, client_of, settings


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[Service]:
    made = Service(repository, request=ChurnRequest, settings=settings())
    made.wait(PATIENCE_S)
    yield made
    made.close()


@pytest.fixture(scope="module", params=FRAMEWORKS)
def client(service: Service, request: pytest.FixtureRequest) -> Client:
    return client_of(service, request.param)
