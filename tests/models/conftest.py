"""A repository of a test's own, and a server that looks at it when it is told to."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import Service
from tabserve.repository import LIVE
from tests.forging import edit_manifest, forge
from tests.serving import PATIENCE_S, Answer, Client, client_of, settings

BODY = orjson.dumps({"x": 3.0})


@pytest.fixture
def folder(lines: Path, tmp_path: Path) -> Path:
    """A repository of the test's own, with line 1.0.0 in it."""
    shutil.copytree(lines / "line" / "1.0.0", tmp_path / "models" / "line" / "1.0.0")
    return tmp_path / "models"


Start = Callable[..., tuple[Service, Client]]


@pytest.fixture
def start() -> Iterator[Start]:
    """A ready service that looks at its folder when it is told to."""
    services: list[Service] = []

    def make(path: Path, **told: Any) -> tuple[Service, Client]:
        service = Service(path, settings=settings(**told))
        services.append(service)
        service.changes.is_watched = False
        service.wait(PATIENCE_S)
        return service, client_of(service, "fastapi")

    yield make
    for service in services:
        service.close()


def look(service: Service, *, again: bool = False) -> None:
    """As the server does when its folder has changed."""
    service.changes.do(lambda: service.changes.refresh(again=again)).result(PATIENCE_S)


def put(source: Path, folder: Path, version: str, change: Any = lambda manifest: None) -> Path:
    """A version that computes as `source` does."""
    made = Path(shutil.copytree(source, folder / version))
    edit_manifest(
        made,
        lambda manifest: (manifest.update(name=folder.name, version=version), change(manifest)),
    )
    return made


def live(folder: Path, version: str, **more: Any) -> None:
    (folder / LIVE).write_bytes(orjson.dumps({"version": version, **more}))


def said(answer: Answer) -> tuple[str, float]:
    """The version that answered, and its number."""
    assert answer.status == 200, answer.body
    return answer.json()["model_version"], answer.json()["prediction"]


def ask(client: Client, below: str = "") -> Answer:
    return client("POST", f"{below}/predict", BODY)


def altered_graph(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"\x00")


def another_golden_output(version: Path) -> None:
    lines = (version / "golden.jsonl").read_bytes().splitlines()
    row = orjson.loads(lines[0])
    row["outputs"]["value"] += 1e-9
    forge(version, "golden.jsonl", b"\n".join([orjson.dumps(row), *lines[1:]]))


def seen(service: Service) -> None:
    """As where the folder has not changed any more for a second."""
    for _ in range(2):
        service.changes.do(service.changes._poll).result(PATIENCE_S)
