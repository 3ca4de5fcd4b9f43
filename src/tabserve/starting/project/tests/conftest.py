from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import tabserve
from delivery_request import DeliveryRequest
from train import train


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that was trained for the tests."""
    return train(tmp_path_factory.mktemp("models"), n_rows=600)


@pytest.fixture(scope="session")
def client(folder: Path) -> Iterator[TestClient]:
    settings = tabserve.Settings(log="off")
    service = tabserve.Service(folder, request=DeliveryRequest, settings=settings)
    service.wait()
    with TestClient(service.fastapi()) as client:
        yield client
