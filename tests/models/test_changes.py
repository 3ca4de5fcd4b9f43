"""The change from one version to the next, while a server answers."""

import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tabserve import Service, heap
from tabserve.errors import ArtifactError
from tabserve.repository import LIVE
from tabserve.settings import PROVEN
from tests.end_to_end.conftest import poll
from tests.forging import edit_manifest
from tests.models.conftest import (
    Start,
    altered_graph,
    another_golden_output,
    ask,
    live,
    look,
    put,
    said,
    seen,
)
from tests.serving import PATIENCE_S, Answer, Client, client_of, error, settings


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
    folder: Path, start: Start, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    service, client = start(folder)

    (folder / "line" / LIVE).write_bytes(content)
    look(service)

    assert said(ask(client)) == ("1.0.0", 3.0)
    assert client.get("/models/line").json()["refused"]["reason"].startswith(reason)
    (told,) = [text for text in caplog.messages if "stays as it is" in text]
    assert told.startswith("line stays as it is: ")
    with pytest.raises(ArtifactError):
        Service(folder, settings=settings())


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
