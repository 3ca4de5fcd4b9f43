"""A service as its user makes it: of a path or a class, pickled, forked, and refused."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest

from examples.churn.request import ChurnRequest
from tabserve import Service
from tabserve.errors import ArtifactError, CannotImport, InvalidSettings, RequestClassError
from tabserve.service import resolve
from tests.conftest import RECORD
from tests.serving import BODY, PATIENCE_S, client_of, settings


def test_making_a_service_and_its_apps_starts_nothing(repository: Path, tmp_path: Path) -> None:
    before, log = set(threading.enumerate()), tmp_path / "log"

    service = Service(repository, request=ChurnRequest, settings=settings(log=str(log)))
    service.fastapi()
    service.flask()
    service.close()

    assert (set(threading.enumerate()) - before, log.exists()) == (set(), False)


@pytest.mark.parametrize("started", [False, True])
def test_a_service_pickles_as_what_it_was_made_of(
    repository: Path, framework: str, started: bool
) -> None:
    service = Service(repository, request=ChurnRequest, settings=settings(max_rows=7))
    if started:
        service.wait(PATIENCE_S)

    pickled = pickle.dumps(service)
    again = pickle.loads(pickled)

    assert (len(pickled) < 5000, again.path, again.settings) == (True, repository, service.settings)
    again.wait(PATIENCE_S)
    body = orjson.dumps(RECORD | {"customer_id": "7"})
    answer = client_of(again, framework)("POST", "/predict", body)
    assert (answer.status, answer.json()["customer_id"]) == (200, "7")
    service.close()
    again.close()


# Without the ML libraries, which take seconds to import.
_FORK = """
import os, sys
import numpy as np
from tabserve import Service, Settings, loading
from tabserve.loading import LoadedModel

class Engine:
    name, reentrant = "half", False
    def predict(self, columns):
        return {"proba": np.array([0.5])}

loading.load = lambda artifact, **_: LoadedModel(artifact.manifest, Engine(), 0.0)
service = Service(sys.argv[1], settings=Settings(log="off"))
client = service.flask().test_client()
pid = os.fork()
service.wait(60)
status = client.post("/predict", data=sys.argv[2], content_type="application/json").status_code
if pid == 0:
    os._exit(0 if status == 200 else 1)
_, code = os.waitpid(pid, 0)
print(status, os.waitstatus_to_exitcode(code))
"""


def _python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": "."}
    root = Path(__file__).parents[1]
    return subprocess.check_output(command, timeout=60, text=True, env=environment, cwd=root)


def test_a_service_made_before_a_fork_works_on_both_sides(repository: Path) -> None:
    assert _python(_FORK, str(repository), BODY.decode()) == "200 0\n"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        (
            "import tabserve; tabserve.Settings; tabserve.TabserveError",
            "fastapi starlette flask uvicorn gunicorn sklearn scipy pandas joblib skops",
        ),
        ("import tabserve; tabserve.Service", "fastapi flask uvicorn sklearn pandas joblib skops"),
        ("import tabserve", "numpy pydantic prometheus_client"),
    ],
)
def test_what_is_not_needed_is_not_imported(statement: str, unwanted: str) -> None:
    loaded = _python(f"{statement}; import sys; print(*sys.modules)").split()

    assert set(unwanted.split()) & set(loaded) == set()


def test_a_request_class_is_found_by_its_name(repository: Path) -> None:
    told = settings(request="examples.churn.request:ChurnRequest")

    assert Service(repository, settings=told).model.decoder.request_class is ChurnRequest


@pytest.mark.parametrize(
    ("request_class", "kind", "sentence"),
    [
        ("examples.churn.request", CannotImport, "expected module:name"),
        ("examples.nowhere:Class", CannotImport, "Cannot import examples.nowhere:Class"),
        ("examples.churn.request:Nothing", CannotImport, "has no attribute 'Nothing'"),
        ("examples.churn.request:Self", RequestClassError, "Expected a pydantic class at"),
    ],
)
def test_a_request_class_that_is_none_is_refused(
    repository: Path, request_class: str, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        Service(repository, settings=settings(request=request_class))


def test_a_service_of_the_users_code_is_found_with_the_settings_of_the_command(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_service.py").write_text(
        "import tabserve\n"
        f"service = tabserve.Service({str(repository)!r}, settings=tabserve.Settings(\n"
        "    max_rows=7, rate_limit='5/hour', log='off'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    found = resolve(settings(path="my_service:service", max_rows=9))

    assert (found.settings.max_rows, found.settings.rate_limit) == (9, "5/hour")
    with pytest.raises(InvalidSettings, match=r"Expected a tabserve.Service .*, found module"):
        resolve(settings(path="my_service:tabserve"))


def test_a_service_is_refused_at_once_where_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Expected a packed model"):
        Service(tmp_path, settings=settings())


def test_a_service_is_refused_at_once_where_its_keys_cannot_be_read(repository: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"Cannot read the keys in nowhere.json"):
        Service(repository, settings=settings(keys="nowhere.json"))
