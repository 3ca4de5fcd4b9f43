"""Many versions and names in one server, and the change from one to the next."""

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve import Service, heap
from tabserve.errors import ArtifactError, ModelNotReady, OperatorError
from tabserve.repository import LIVE
from tabserve.settings import PROVEN
from tests.conftest import RECORD
from tests.end_to_end.conftest import poll
from tests.forging import edit_manifest, forge
from tests.serving import (
    PATIENCE_S,
    Answer,
    Client,
    HeldEngine,
    client_of,
    error,
    service_with,
    settings,
)

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


def test_a_new_version_goes_live_and_each_answer_names_the_version_of_its_number(
    folder: Path, lines: Path, start: Start
) -> None:
    service, client = start(folder)
    assert said(ask(client)) == ("1.0.0", 3.0)

    shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0")
    look(service)

    assert said(ask(client)) == said(ask(client, "/models/line")) == ("2.0.0", 6.0)
    assert client.get("/ready").json()["model_version"] == "2.0.0"
    assert client.get("/metadata").json()["model_version"] == "2.0.0"


def test_a_version_that_is_not_live_is_loaded_when_it_is_asked_for(
    lines: Path, start: Start
) -> None:
    service, client = start(lines)
    below = "/models/line/versions/1.0.0"
    assert client.get(below).json()["model_version"] == "1.0.0"
    assert error(client.get(f"{below}/ready")) == (503, "model_not_ready")

    first = ask(client, below)
    service.changes.do(lambda: None).result(PATIENCE_S)

    assert error(first) == (503, "model_not_ready")
    assert first.headers["retry-after"] == "1"
    assert said(ask(client, below)) == ("1.0.0", 3.0)
    assert said(ask(client)) == said(ask(client, "/models/line/versions/2.0.0")) == ("2.0.0", 6.0)
    assert client.get(f"{below}/ready").status == client.get(f"{below}/metadata").status == 200


def test_what_is_served_is_listed(lines: Path, start: Start) -> None:
    _, client = start(lines)

    assert client.get("/models").json() == {
        "models": [
            {
                "name": "line",
                "live": "2.0.0",
                "ready": True,
                "versions": ["2.0.0", "1.0.0"],
                "predict": "/models/line/predict",
            }
        ]
    }
    told = client.get("/models/line").json()
    assert told["refused"] is None
    assert [(each["version"], each["live"], each["loaded"]) for each in told["versions"]] == [
        ("2.0.0", True, True),
        ("1.0.0", False, False),
    ]
    assert error(client.get("/models/line/versions/3.0.0")) == (404, "not_found")


def test_the_file_says_which_version_is_live(lines: Path, folder: Path, start: Start) -> None:
    shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0")
    live(folder / "line", "1.0.0")
    service, client = start(folder / "line")
    assert said(ask(client)) == ("1.0.0", 3.0)

    live(folder / "line", "2.0.0")
    look(service)

    assert said(ask(client)) == ("2.0.0", 6.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "line/live.json does not say which version is live"),
        (b'{"version":"7"}', "line/live.json says that 7 is live, which is not there"),
    ],
)
def test_a_file_that_names_no_version_changes_nothing(
    folder: Path, start: Start, content: bytes, reason: str
) -> None:
    service, client = start(folder)

    (folder / "line" / LIVE).write_bytes(content)
    look(service)

    assert said(ask(client)) == ("1.0.0", 3.0)
    assert client.get("/models/line").json()["refused"]["reason"].startswith(reason)
    with pytest.raises(ArtifactError):
        Service(folder, settings=settings())


def altered_graph(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"\x00")


def another_golden_output(version: Path) -> None:
    lines = (version / "golden.jsonl").read_bytes().splitlines()
    row = orjson.loads(lines[0])
    row["outputs"]["value"] += 1e-9
    forge(version, "golden.jsonl", b"\n".join([orjson.dumps(row), *lines[1:]]))


def another_name(version: Path) -> None:
    edit_manifest(version, lambda manifest: manifest.update(name="circle"))


def no_manifest(version: Path) -> None:
    (version / "manifest.json").write_bytes(b"{}")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (altered_graph, "line/2.0.0/model.onnx was changed after packing"),
        (another_golden_output, "row 1 of golden.jsonl"),
        (another_name, "Expected line 2.0.0 in line/2.0.0, found circle 2.0.0"),
        (no_manifest, "line/2.0.0/manifest.json was changed after packing"),
    ],
)
def test_a_version_that_is_refused_leaves_the_old_one_live_and_the_reason_is_told(
    folder: Path,
    lines: Path,
    start: Start,
    spoil: Callable[[Path], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, client = start(folder)
    spoil(Path(shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0")))

    look(service)
    look(service)

    assert said(ask(client)) == ("1.0.0", 3.0)
    refused = client.get("/models/line").json()["refused"]
    assert (refused["version"], reason in refused["reason"]) == ("2.0.0", True), refused
    assert str(folder) not in refused["reason"]
    assert client.get("/ready").status == 200
    (told,) = [text for text in caplog.messages if "is not made live" in text]
    assert told.startswith("line 2.0.0 is not made live:")


def test_a_version_that_was_mended_goes_live(folder: Path, lines: Path, start: Start) -> None:
    service, client = start(folder)
    version = Path(shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0"))
    altered_graph(version)
    look(service)

    shutil.copy(lines / "line" / "2.0.0" / "model.onnx", version / "model.onnx")
    look(service)

    assert said(ask(client)) == ("2.0.0", 6.0)
    assert client.get("/models/line").json()["refused"] is None


@pytest.fixture
def pinned(folder: Path, lines: Path) -> Path:
    """The folder of 2.0.0, beside 1.0.0 which is live."""
    live(folder / "line", "1.0.0")
    return Path(shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0"))


def seen(service: Service) -> None:
    """As where the folder has not changed any more for a second."""
    for _ in range(2):
        service.changes.do(service.changes._poll).result(PATIENCE_S)


def opened(service: Service, client: Client) -> Answer:
    """The answer of 2.0.0 once it was loaded for the one who asked."""
    ask(client, "/models/line/versions/2.0.0")
    service.changes.do(lambda: None).result(PATIENCE_S)
    return ask(client, "/models/line/versions/2.0.0")


def test_a_version_that_was_asked_for_before_it_was_whole_is_tried_again(
    folder: Path, lines: Path, pinned: Path, start: Start
) -> None:
    service, client = start(folder)
    altered_graph(pinned)
    seen(service)
    assert "was changed after packing" in opened(service, client).json()["detail"]
    seen(service)
    assert "was changed after packing" in opened(service, client).json()["detail"]

    shutil.copy(lines / "line" / "2.0.0" / "model.onnx", pinned / "model.onnx")
    seen(service)

    assert said(opened(service, client)) == ("2.0.0", 6.0)


def test_a_version_that_was_packed_again_is_not_answered_from_memory(
    folder: Path, pinned: Path, start: Start
) -> None:
    service, client = start(folder)
    seen(service)
    assert said(opened(service, client)) == ("2.0.0", 6.0)

    shutil.rmtree(pinned)
    put(folder / "line" / "1.0.0", folder / "line", "2.0.0")
    seen(service)

    assert said(ask(client, "/models/line/versions/2.0.0")) == ("2.0.0", 3.0)


def test_what_is_promoted_is_what_was_packed_last(folder: Path, pinned: Path, start: Start) -> None:
    service, client = start(folder)
    assert said(opened(service, client)) == ("2.0.0", 6.0)

    shutil.rmtree(pinned)
    put(folder / "line" / "1.0.0", folder / "line", "2.0.0")
    live(folder / "line", "2.0.0")
    look(service)

    assert said(ask(client)) == ("2.0.0", 3.0)


def test_a_version_that_is_packed_again_and_refused_goes_on_from_memory(
    folder: Path, pinned: Path, start: Start
) -> None:
    service, client = start(folder)
    assert said(opened(service, client)) == ("2.0.0", 6.0)
    altered_graph(pinned)
    seen(service)
    assert said(ask(client, "/models/line/versions/2.0.0")) == ("2.0.0", 6.0)


def rename_feature(manifest: dict[str, Any]) -> None:
    manifest["output"] = {"name": "y"}


@pytest.mark.parametrize("way", ["setting", "file"])
def test_a_version_that_breaks_clients_goes_live_only_where_that_is_allowed(
    folder: Path, lines: Path, start: Start, way: str
) -> None:
    put(lines / "line" / "2.0.0", folder / "line", "2.0.0", rename_feature)
    live(folder / "line", "1.0.0")
    service, client = start(folder)
    live(folder / "line", "2.0.0")
    look(service)
    assert said(ask(client)) == ("1.0.0", 3.0)
    refused = client.get("/models/line").json()["refused"]["reason"]
    assert refused.startswith("line 2.0.0 would break the clients of 1.0.0 (output.prediction:")

    if way == "file":
        live(folder / "line", "2.0.0", allow_breaking=True)
        look(service)
        assert ask(client).json()["y"] == 6.0
    else:
        live(folder / "line", "1.0.0")
        allowing, client = start(folder, allow_breaking=True)
        live(folder / "line", "2.0.0")
        look(allowing)
        assert ask(client).json()["y"] == 6.0


def test_of_several_models_each_has_its_routes_and_none_is_meant_without_a_name(
    folder: Path, lines: Path, start: Start
) -> None:
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    _, client = start(folder)

    assert said(ask(client, "/models/line")) == ("1.0.0", 3.0)
    assert said(ask(client, "/models/double")) == ("1.0.0", 6.0)
    batch = client("POST", "/models/double/versions/1.0.0/predict/batch", b'[{"x":1},{"x":2}]')
    assert [each["prediction"] for each in batch.json()["predictions"]] == [2.0, 4.0]
    for answer in (ask(client), client.get("/metadata")):
        assert error(answer) == (404, "not_found")
        assert "/models" in answer.json()["detail"]
    assert client.get("/ready").json() == {
        "status": "ready",
        "models": {"double": "1.0.0", "line": "1.0.0"},
    }
    assert client.get("/models/double/ready").json()["model_version"] == "1.0.0"


def test_the_default_model_is_the_one_that_was_chosen(
    folder: Path, lines: Path, start: Start
) -> None:
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    _, client = start(folder, default_model="double")

    assert said(ask(client)) == ("1.0.0", 6.0)
    with pytest.raises(ArtifactError, match=r"to be circle, .* there are double, line\."):
        Service(folder, settings=settings(default_model="circle"))


def test_a_new_name_is_served_and_one_that_is_gone_goes_on(
    folder: Path, lines: Path, start: Start
) -> None:
    service, client = start(folder)
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    look(service)
    assert said(ask(client, "/models/double")) == ("1.0.0", 6.0)

    shutil.rmtree(folder / "double")
    look(service)

    assert said(ask(client, "/models/double")) == ("1.0.0", 6.0)


def test_that_a_second_name_takes_predict_from_the_first_is_told(
    folder: Path, lines: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service, client = start(folder)
    for name in ("double", "third"):
        put(lines / "line" / "2.0.0", folder / name, "1.0.0")
        look(service)
    assert error(ask(client)) == (404, "not_found")
    assert [text for text in caplog.messages if "say --default-model" in text] == [
        "Several models are served now, and /predict is none of them: say --default-model"
    ]


def test_a_version_that_is_put_beside_the_names_changes_nothing_and_is_told_once(
    folder: Path, lines: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service, client = start(folder)
    seen(service)
    shutil.copytree(lines / "line" / "2.0.0", folder / "2.0.0")
    seen(service)
    seen(service)
    assert said(ask(client)) == ("1.0.0", 3.0)
    (told,) = [text for text in caplog.messages if "No change is looked for" in text]
    assert "Move each into the folder of its name" in told

    (folder / "2.0.0").rename(folder / "line" / "2.0.0")
    seen(service)
    assert said(ask(client)) == ("2.0.0", 6.0)


def test_a_model_that_was_replaced_is_let_go_as_soon_as_its_last_request_is_answered(
    folder: Path, lines: Path, start: Start
) -> None:
    service, client = start(folder)
    begun = service.dispatcher()._routes["/predict"]["POST"]
    model = weakref.ref(service.model)
    batcher = service.model._batcher
    assert batcher is not None
    shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0")
    gc.disable()
    try:
        look(service)
        assert said(ask(client)) == ("2.0.0", 6.0)
        assert model() is not None
        assert batcher._thread.is_alive()

        del begun
        assert model() is None
        batcher._thread.join(PATIENCE_S)
        assert not batcher._thread.is_alive()
    finally:
        gc.enable()


def test_of_several_models_the_one_that_is_stuck_is_not_ready(
    folder: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(lines / "line" / "1.0.0", folder / "double", "1.0.0")
    engine = HeldEngine()
    service, _ = service_with(engine, folder, monkeypatch, deadline=0.05)
    client = client_of(service, "fastapi")
    assert error(ask(client, "/models/double")) == (504, "deadline")

    poll("it is known to be stuck", lambda: service.models.is_stuck)
    probed = [
        client.get(f"{below}/ready").status for below in ("", "/models/double", "/models/line")
    ]

    engine.release.set()
    service.close()
    assert probed == [503, 503, 200]


def test_several_models_that_never_return_are_waited_for_together(
    folder: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["line", *(f"m{i}" for i in range(7))]
    for name in names[1:]:
        put(lines / "line" / "1.0.0", folder / name, "1.0.0")
    engine = HeldEngine()
    service, _ = service_with(engine, folder, monkeypatch)
    for named in service.models.named.values():
        named.live.answers(named.live.decoder.one(BODY), inf)
    timeout_s = 0.5

    began = time.monotonic()
    service.changes.close(timeout_s)
    took_s = time.monotonic() - began

    engine.release.set()  # for their threads
    assert timeout_s <= took_s < len(names) * timeout_s / 2


def test_the_memory_of_a_model_that_was_replaced_is_given_back(
    folder: Path, lines: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = start(folder)
    model, given_back = weakref.ref(service.model), threading.Event()
    shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0")
    look(service)
    monkeypatch.setattr(heap, "give_back", given_back.set)

    assert given_back.wait(PATIENCE_S)
    assert model() is None


def test_latencies_are_counted_by_the_routes_of_all_models_together(
    folder: Path, lines: Path, start: Start
) -> None:
    put(lines / "line" / "2.0.0", folder / "double", "1.0.0")
    service, client = start(folder)
    for below in ("/models/line", "/models/double", "/models/double/versions/1.0.0"):
        said(ask(client, below))

    text = client.get("/metrics").body.decode()

    counted = "tabserve_request_duration_seconds_count"
    assert f'{counted}{{route="/models/{{name}}/predict"}} 2.0' in text
    assert f'{counted}{{route="/models/{{name}}/versions/{{version}}/predict"}} 1.0' in text
    assert 'tabserve_predictions_total{model="double",version="1.0.0"} 2.0' in text
    assert service.metrics.summary()["predictions_total"] == 3.0


def test_a_change_is_acted_on_once_it_was_seen_twice(
    folder: Path, lines: Path, start: Start
) -> None:
    service, client = start(folder)
    poll = lambda: service.changes.do(service.changes._poll).result(PATIENCE_S)  # noqa: E731
    poll(), poll()
    version = Path(shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0"))
    (version / "model.onnx").unlink()

    poll()  # it is being copied
    shutil.copy(lines / "line" / "2.0.0" / "model.onnx", version / "model.onnx")
    poll()
    assert said(ask(client)) == ("1.0.0", 3.0)
    poll()

    assert said(ask(client)) == ("2.0.0", 6.0)
    assert client.get("/models/line").json()["refused"] is None


def test_the_folder_is_watched(folder: Path, lines: Path) -> None:
    service, changed = Service(folder, settings=settings()), threading.Event()
    publish = service.models.on_change

    def published() -> None:
        publish()
        if service.models.named["line"].version == "2.0.0":
            changed.set()

    service.models.on_change = published
    service.wait(PATIENCE_S)
    client = client_of(service, "flask")
    shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0")

    assert changed.wait(PATIENCE_S)
    assert said(ask(client)) == ("2.0.0", 6.0)
    service.close()


def test_a_worker_that_starts_anew_serves_what_the_others_do(
    folder: Path, lines: Path, tmp_path: Path, start: Start
) -> None:
    start(folder, run_dir=tmp_path)
    poll("what it proved is noted", (tmp_path / PROVEN / "line").exists)
    another_golden_output(
        Path(shutil.copytree(lines / "line" / "2.0.0", folder / "line" / "2.0.0"))
    )

    service, client = start(folder, run_dir=tmp_path)
    look(service)

    assert said(ask(client)) == ("1.0.0", 3.0)
    with pytest.raises(ArtifactError):
        start(folder)


def test_the_folder_of_a_name_may_be_called_anything(
    folder: Path, lines: Path, tmp_path: Path, start: Start
) -> None:
    mounted = (folder / "line").rename(tmp_path / "mounted")
    service, client = start(mounted)
    shutil.copytree(lines / "line" / "2.0.0", mounted / "2.0.0")
    look(service)

    assert said(ask(client, "/models/line")) == ("2.0.0", 6.0)


def test_a_version_alone_is_served_under_its_name(lines: Path, start: Start) -> None:
    service, client = start(lines / "line" / "1.0.0")

    assert said(ask(client, "/models/line/versions/1.0.0")) == ("1.0.0", 3.0)
    assert client.get("/models").json()["models"][0]["versions"] == ["1.0.0"]
    with pytest.raises(ModelNotReady):
        service.close()
        service.models.wait(0)


def test_each_of_several_models_has_a_request_class_of_its_own(
    folder: Path, repository: Path, start: Start
) -> None:
    shutil.copytree(repository / "churn", folder / "churn")
    told = "line=tests.functions:Line, churn=examples.churn.request:ChurnRequest"
    _, client = start(folder, request=told)

    noted = client("POST", "/models/line/predict", orjson.dumps({"x": 3.0, "note": "n"}))
    assert (noted.status, noted.json()["note"]) == (200, "n")
    customer = orjson.dumps(RECORD | {"customer_id": "7"})
    assert client("POST", "/models/churn/predict", customer).json()["customer_id"] == "7"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("lime=tests.functions:Line", "given for lime, and the models here are line"),
        ("line=tests.functions:Line,line=tests.functions:Line", "for each model once"),
        ("line=", "Cannot import"),
    ],
)
def test_a_request_class_of_no_model_is_refused(
    folder: Path, told: str, message: str
) -> None:  # fmt: skip
    with pytest.raises(OperatorError, match=message):
        Service(folder, settings=settings(request=told))
