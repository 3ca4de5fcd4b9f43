"""A version that is tried beside the live one: who answers, and what is told of both."""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from tabserve import Output, Service, releases, rollout
from tabserve.output import Target
from tabserve.releases import Plan
from tabserve.repository import LIVE, find
from tabserve.rollout import Agreement, Comparison, common_labels, common_numbers
from tests.forging import edit_manifest
from tests.serving import FRAMEWORKS, PATIENCE_S, Client, client_of, settings

ROWS = [{"x": x, "who": f"customer-{i}"} for i, x in enumerate([1.0, 2.0, 3.0])]


@pytest.fixture
def line(lines: Path, tmp_path: Path) -> Path:
    """The folder of a name in which 1.0.0 is live, and 2.0.0 answers twice as much."""
    folder = Path(shutil.copytree(lines / "line", tmp_path / "models" / "line"))
    (folder / LIVE).write_bytes(b'{"version":"1.0.0"}')
    return folder


class Tried:
    """A ready service with a rollout, which can be waited for."""

    def __init__(self, line: Path, framework: str = "fastapi", **plan: Any) -> None:
        releases.begin(line, Plan(version="2.0.0", **plan))
        self.service = Service(line, settings=settings())
        self.service.changes.is_watched = False
        self.service.wait(PATIENCE_S)
        self.look()
        self.client = client_of(self.service, framework)
        self._rows, self._changed = 0, threading.Condition()
        trial = self.service.models.named["line"].trial
        if trial is not None:
            counted = trial._aside._counted
            self._compared = counted.compared
            counted.compared = self._note  # type: ignore[method-assign]

    def look(self) -> None:
        self.service.changes.do(self.service.changes.refresh).result(PATIENCE_S)

    def predict(self, row: dict[str, Any], **headers: str) -> str:
        body = orjson.dumps({"x": row["x"]})
        answer = self.client("POST", "/predict", body, headers).json()
        factor = {"1.0.0": 1, "2.0.0": 2}[answer["model_version"]]
        assert answer["prediction"] == factor * min(row["x"], 7.0)  # the largest it has seen
        return str(answer["model_version"])

    def told(self, after_rows: int = 0) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: self._rows >= after_rows, PATIENCE_S)
        return self.client.get("/models/line/rollout").json()

    def _note(self, found: Agreement) -> None:
        self._compared(found)
        with self._changed:
            self._rows += found.n_rows
            self._changed.notify_all()


@pytest.fixture
def tried(line: Path) -> Iterator[Callable[..., Tried]]:
    made: list[Tried] = []

    def start(framework: str = "fastapi", **plan: Any) -> Tried:
        made.append(Tried(line, framework, **plan))
        return made[-1]

    yield start
    for one in made:
        one.service.close()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_shadow_answers_nobody_and_its_differences_are_told(tried: Any, framework: str) -> None:
    found = tried(framework, kind="shadow")

    assert {found.predict(row) for row in ROWS} == {"1.0.0"}

    told = found.told(after_rows=3)
    assert told.pop("latency_ms").keys() == {"1.0.0", "2.0.0"}
    assert told == {
        "rollout": {"kind": "shadow", "version": "2.0.0", "share": 1.0, "sticky": None},
        "live": "1.0.0",
        "rows": 3,
        "equal_labels": None,
        "mean_difference": 2.0,
        "largest_difference": 3.0,
        "dropped_rows": 0,
        "failed_rows": 0,
        "refused": None,
    }
    metrics = found.client.get("/metrics").body.decode()
    assert 'tabserve_rollout_rows_total{live="1.0.0",model="line",tried="2.0.0"} 3.0' in metrics


def test_a_canary_answers_its_share_and_is_compared_too(tried: Any) -> None:
    found = tried(kind="canary", share=0.5)

    answered = Counter(found.predict(ROWS[0]) for _ in range(200))

    assert 60 <= answered["2.0.0"] <= 140
    told = found.told(after_rows=answered["2.0.0"])
    assert (told["rows"], told["mean_difference"]) == (answered["2.0.0"], 1.0)


@pytest.mark.parametrize(("share", "version"), [(0.0, "1.0.0"), (1.0, "2.0.0")])
def test_a_share_may_be_none_or_all(tried: Any, share: float, version: str) -> None:
    found = tried(kind="canary", share=share)

    assert {found.predict(row) for row in ROWS for _ in range(5)} == {version}


def test_who_is_asked_sticks_to_the_value_of_a_field_in_any_form_of_request(tried: Any) -> None:
    found = tried(kind="canary", share=0.5, sticky="x")
    rows = [{"x": float(x)} for x in range(40)]

    first = [found.predict(row) for row in rows]

    assert [found.predict(row) for row in rows] == first
    assert set(first) == {"1.0.0", "2.0.0"}
    for row, version in zip(rows, first, strict=True):
        for body in ([row], {"columns": {"x": [row["x"]]}}):
            answer = found.client("POST", "/predict/batch", orjson.dumps(body)).json()
            assert answer["predictions"][0]["model_version"] == version


def test_who_is_asked_sticks_to_the_key(tried: Any) -> None:
    found = tried(kind="canary", share=0.5, sticky="api-key")
    keys = [f"key-{i}" for i in range(40)]

    first = [found.predict(ROWS[0], **{"x-api-key": key}) for key in keys]

    assert [found.predict(ROWS[0], **{"x-api-key": key}) for key in keys] == first
    assert set(first) == {"1.0.0", "2.0.0"}
    assert found.predict(ROWS[0]) == "1.0.0"


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b"7", b'{"columns":{"x":[]}}', b'{"y":1}'])
def test_a_request_without_the_field_is_answered_by_the_live_version(
    tried: Any, body: bytes
) -> None:
    found = tried(kind="canary", share=1.0, sticky="x")

    assert found.client("POST", "/predict", body).status == 422


def test_a_shadow_that_fails_harms_nobody_and_is_counted(tried: Any) -> None:
    found = tried(kind="shadow")
    trial, failed = found.service.models.named["line"].trial, threading.Event()

    def fail(values: Any) -> Any:
        failed.set()
        raise ValueError("no")

    trial.tried.predictor._predict = fail
    assert found.predict(ROWS[0]) == "1.0.0"
    assert failed.wait(PATIENCE_S)
    trial.close()
    trial._aside._thread.join(PATIENCE_S)

    told = found.told()
    assert (told["rows"], told["failed_rows"], told["mean_difference"]) == (0, 1, None)


def test_the_latency_of_the_other_version_is_its_models_alone(
    tried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tried(kind="shadow")
    trial, now = found.service.models.named["line"].trial, [0.0]
    trial.close()
    trial._aside._thread.join(PATIENCE_S)

    def lasting(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def lasted(*args: Any) -> Any:
            now[0] += seconds
            return call(*args)

        return lasted

    # A thread of another test's trial may still be ending.
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr(rollout, "time", clock)
    monkeypatch.setattr(Comparison, "agreement", lasting(8.0, Comparison.agreement))
    trial.tried.predictor._predict = lasting(1.0, trial.tried.predictor._predict)
    answered = rollout._Answered({"x": np.ones(1)}, {"value": np.ones(1)}, 1, 0.5)
    trial._aside._compare([answered])

    assert found.told()["latency_ms"] == {"1.0.0": 500.0, "2.0.0": 1000.0}


def test_past_the_bound_rows_are_dropped_and_counted(tried: Any) -> None:
    found = tried(kind="shadow")
    trial = found.service.models.named["line"].trial
    trial._aside.close()
    trial._aside._thread.join(PATIENCE_S)
    many = orjson.dumps([{"x": 1.0}] * 5000)

    answers = [found.client("POST", "/predict/batch", many) for _ in range(3)]

    assert [answer.json()["count"] for answer in answers] == [5000] * 3
    assert found.told()["dropped_rows"] == 10_000


def test_when_it_is_stopped_the_live_version_is_alone(tried: Any, line: Path) -> None:
    found = tried(kind="canary", share=1.0)
    assert found.predict(ROWS[0]) == "2.0.0"

    releases.stop(line)
    found.look()

    assert found.predict(ROWS[0]) == "1.0.0"
    assert found.told() == {"rollout": None, "refused": None}


def test_a_plan_that_cannot_be_read_ends_the_trial_until_it_is_mended(
    tried: Any, line: Path
) -> None:
    found = tried(kind="canary", share=1.0)
    trial, plan = found.service.models.named["line"].trial, (line / releases.ROLLOUT).read_bytes()

    (line / releases.ROLLOUT).write_bytes(b"{")
    found.look()

    assert found.predict(ROWS[0]) == "1.0.0"
    assert found.told()["refused"]["reason"].startswith("rollout.json is no rollout")
    trial._aside._thread.join(PATIENCE_S)
    assert not trial._aside._thread.is_alive()

    (line / releases.ROLLOUT).write_bytes(plan)
    found.look()

    assert found.predict(ROWS[0]) == "2.0.0"


def test_a_canary_that_is_promoted_answers_all(tried: Any, line: Path) -> None:
    found = tried(kind="canary", share=0.0)

    releases.promote(line, "2.0.0")
    found.look()

    assert {found.predict(row) for row in ROWS} == {"2.0.0"}
    assert found.told()["refused"]["reason"] == "2.0.0 of line is live already."


def test_a_version_that_was_packed_again_is_tried_as_it_is(tried: Any, line: Path) -> None:
    one = tried(kind="canary", share=1.0)
    assert one.predict(ROWS[0]) == "2.0.0"
    shutil.rmtree(line / "2.0.0")
    shutil.copytree(line / "1.0.0", line / "2.0.0")
    edit_manifest(line / "2.0.0", lambda manifest: manifest.update(version="2.0.0"))
    one.look()
    answer = one.client("POST", "/predict", orjson.dumps({"x": 3.0})).json()
    assert (answer["model_version"], answer["prediction"]) == ("2.0.0", 3.0)


def test_a_version_that_cannot_be_loaded_is_not_tried(line: Path, tried: Any) -> None:
    (line / "2.0.0" / "golden.jsonl").write_bytes(b"")
    plan = Plan(kind="canary", version="2.0.0")
    (line / releases.ROLLOUT).write_text(plan.model_dump_json())
    service = Service(line, settings=settings())
    service.wait(PATIENCE_S)
    service.changes.do(service.changes.refresh).result(PATIENCE_S)
    client: Client = client_of(service, "fastapi")

    assert client("POST", "/predict", b'{"x":1.0}').json()["model_version"] == "1.0.0"
    told = client.get("/models/line/rollout").json()
    assert told["refused"]["reason"].startswith("2.0.0/golden.jsonl was changed after packing")
    service.close()


def test_labels_are_those_of_the_bands_where_the_answer_is_a_number(repository: Path) -> None:
    manifest = find(repository).manifest  # Low < 0.3 <= Medium < 0.7 <= High
    one = {"proba": np.array([0.1, 0.5, 0.9, 0.29])}
    other = {"proba": np.array([0.2, 0.5, 0.6, 0.31])}

    found = Comparison(manifest, manifest).agreement(one, other)

    assert (found.n_rows, found.n_equal) == (4, 2)
    assert found.sum_of_differences == pytest.approx(0.42)
    assert found.largest_difference == pytest.approx(0.3)


def test_labels_of_classes_are_compared(repository: Path) -> None:
    manifest = find(repository).manifest.model_copy(update={"output": None})
    one = {"label": np.array(["Yes", "No"], dtype=object), "proba": np.array([[0, 1], [1, 0]])}
    other = {"label": np.array(["Yes", "Yes"], dtype=object), "proba": np.array([[0, 1], [0.5, 0]])}

    assert Comparison(manifest, manifest).agreement(one, other) == Agreement(2, 1, 0.5, 0.5)


def test_what_says_something_else_in_the_other_version_is_not_compared(repository: Path) -> None:
    churn = find(repository).manifest
    plain = churn.model_copy(update={"output": None})
    three = churn.targets[0].model_copy(update={"classes": ("Maybe", "No", "Yes")})
    of_three = plain.model_copy(update={"targets": (three,)})
    number = plain.model_copy(update={"targets": (Target(kind="number"),)})

    assert (common_labels(plain, plain), common_numbers(plain, plain)) == (["label"], ["proba"])
    assert (common_labels(churn, churn), common_numbers(churn, churn)) == ([""], ["proba"])
    assert (common_labels(plain, of_three), common_numbers(plain, of_three)) == (["label"], [])
    assert (common_labels(churn, plain), common_numbers(churn, plain)) == ([], [])
    assert (common_labels(plain, number), common_numbers(plain, number)) == ([], [])


def test_the_other_class_of_an_output_is_not_compared(repository: Path) -> None:
    churn = find(repository).manifest
    assert churn.output is not None
    yes, no = (
        churn.model_copy(update={"output": Output(name="p", positive=positive)})
        for positive in ("Yes", "No")
    )

    assert (common_labels(yes, yes), common_numbers(yes, yes)) == ([""], ["proba"])
    assert (common_labels(yes, no), common_numbers(yes, no)) == ([], [])


def test_what_is_not_compared_is_told_as_null(tried: Any) -> None:
    found = tried(kind="shadow")
    trial = found.service.models.named["line"].trial
    found.predict(ROWS[0])
    found.told(after_rows=1)
    classes = Target(kind="classes", classes=("No", "Yes"), has_proba=True)

    trial.tried.manifest.targets = (classes,)

    told = found.told()
    assert (told["rows"], told["mean_difference"], told["largest_difference"]) == (1, None, None)
