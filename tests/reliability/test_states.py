"""Whatever is done in whatever order, the live version answers, and only whom a key lets in:
hypothesis draws the steps, and a few lines here say what must come of them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.tree import DecisionTreeRegressor

import tabserve
from tabserve import Service, auth, repository
from tabserve.exchange import respond
from tabserve.types import Request
from tests.forging import edit_manifest
from tests.serving import PATIENCE_S
from tests.serving import settings as service_settings

X = 3.0
# Version -> what it answers for X; of BROKEN a file was changed.
NUMBERS = {"1.0.0": 3.0, "2.0.0": 6.0, "3.0.0": 9.0}
BROKEN = "0.9.0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the versions, from which those that are served are copied."""
    out, rows = tmp_path_factory.mktemp("store"), pd.DataFrame({"x": np.arange(8.0)})
    for version, number in NUMBERS.items():
        model = DecisionTreeRegressor(random_state=0).fit(rows, number / X * rows["x"])
        tabserve.pack(model, out, name="line", version=version, data=rows)
    folder = shutil.copytree(out / "line" / "1.0.0", out / "line" / BROKEN)
    edit_manifest(folder, lambda manifest: manifest.update(version=BROKEN))
    (folder / "golden.jsonl").write_bytes(b"")
    return out / "line"


class Server(RuleBasedStateMachine):
    """One name, of which 1.0.0 and 2.0.0 are there at the beginning."""

    store: Path
    keys = Bundle("keys")
    revoked = Bundle("revoked")

    @initialize(target=keys)
    def begin(self) -> Any:
        self.folder = TemporaryDirectory(prefix="states-")
        self.line = Path(self.folder.name) / "models" / "line"
        self.key_file = Path(self.folder.name) / "keys.json"
        self.n_keys = 0
        self.there = {"1.0.0", "2.0.0"}
        self.live = "2.0.0"
        self.previous: list[str] | None = None  # None until a command said what is live
        for version in self.there:
            shutil.copytree(self.store / version, self.line / version)
        self.admin_key = auth.add_key(self.key_file, "operator", "admin")
        self.service = Service(self.line.parent, settings=service_settings(keys=str(self.key_file)))
        self.service.changes.is_watched = False  # each look at the folder is a step here
        self.service.wait(PATIENCE_S)
        return multiple()

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.service.close()
            self.folder.cleanup()

    # What an operator does.

    @rule(version=st.sampled_from([*NUMBERS, BROKEN]))
    def copy_a_version(self, version: str) -> None:
        if version not in self.there:
            shutil.copytree(self.store / version, self.line / version)
            self.there.add(version)
            self._look()

    @precondition(lambda self: len(self.there) > 1)
    @rule(data=st.data())
    def delete_a_version_that_is_not_live(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.there - {self.live})))
        shutil.rmtree(self.line / version)
        self.there.remove(version)
        self._look()

    @rule(version=st.sampled_from([*NUMBERS, BROKEN]))
    def promote(self, version: str) -> None:
        status = self._admin("/promote", version=version)

        if version not in self.there:
            assert status == 404
        elif version == BROKEN:
            assert status == 409
        else:
            assert status == 200
            before = [] if version == self.live else [self.live]
            self.previous = [*before, *(self.previous or [])]
            self.live = version

    @rule()
    def rollback(self) -> None:
        known = self.previous
        if known is None:
            known = sorted(self.there, reverse=True)[1:]

        status = self._admin("/rollback")

        if not known or known[0] not in self.there or known[0] == BROKEN:
            assert status == 409
        else:
            assert status == 200
            self.live, *self.previous = known

    @rule(target=keys)
    def give_a_key(self) -> tuple[str, str]:
        self.n_keys += 1
        name = f"client-{self.n_keys}"
        return name, auth.add_key(self.key_file, name)

    @rule(target=revoked, key=consumes(keys))
    def revoke(self, key: tuple[str, str]) -> tuple[str, str]:
        auth.revoke_key(self.key_file, key[0])
        return key

    # What clients do.

    @rule(key=keys)
    def predict(self, key: tuple[str, str]) -> None:
        assert self._predict("/predict", key[1]) == (200, self.live, NUMBERS[self.live])

    @rule(key=revoked)
    def predict_with_a_revoked_key(self, key: tuple[str, str]) -> None:
        assert self._predict("/predict", key[1])[0] == 403

    @rule(version=st.sampled_from([*NUMBERS, BROKEN]))
    def predict_with_any_version(self, version: str) -> None:
        path = f"/models/line/versions/{version}/predict"
        self._predict(path, self.admin_key)
        self.service.changes.do(lambda: None).result(PATIENCE_S)  # what was asked for is loaded

        status, *answer = self._predict(path, self.admin_key)

        if version in self.there and version != BROKEN:
            assert (status, *answer) == (200, version, NUMBERS[version])
        else:
            assert status == (503 if version in self.there else 404)

    @invariant()
    def the_live_version_answers_and_the_files_say_so(self) -> None:
        if not hasattr(self, "service"):
            return
        answer = self._predict("/models/line/predict", self.admin_key)
        assert answer == (200, self.live, NUMBERS[self.live])
        written = repository.read_live(self.line)
        assert (written is None) == (self.previous is None)
        if written is not None:
            assert (written.version, list(written.previous)) == (self.live, self.previous)

    def _look(self) -> None:
        """As the server does twice a second."""
        self.service.changes.do(self.service.changes.refresh).result(PATIENCE_S)
        if self.previous is None:
            self.live = max(self.there)

    def _admin(self, path: str, **body: Any) -> int:
        headers = {"x-api-key": self.admin_key}
        request = Request("POST", f"/models/line{path}", headers, orjson.dumps(body), "127.0.0.1")
        return respond(self.service.admin_dispatcher(), request).status

    def _predict(self, path: str, key: str) -> tuple[int, str | None, float | None]:
        request = Request("POST", path, {"x-api-key": key}, orjson.dumps({"x": X}), "127.0.0.1")
        answer = respond(self.service.dispatcher(), request)
        found = orjson.loads(answer.body)
        return answer.status, found.get("model_version"), found.get("prediction")


@pytest.fixture
def machine(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setattr(auth, "_LOOK_S", 0.0)  # no step waits until the keys are read again
    Server.store = store
    yield Server


@pytest.mark.slow
def test_200_runs_of_any_steps_end_as_they_must(machine: type[Server]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200, stateful_step_count=25, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
