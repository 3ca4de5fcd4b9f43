"""Artefacts made to do harm: each is refused with a sentence, and nothing of it is executed.

Their seals and hashes agree, as one who can write every file could make them.
"""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tabserve import Service
from tabserve.artifact import MANIFEST, Artifact
from tabserve.cli import main
from tabserve.errors import OperatorError
from tabserve.loading import load
from tabserve.repository import find
from tests import serving
from tests.forging import edit_manifest, forge, forge_manifest


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    return shutil.copytree(repository / "churn" / "1.2.3", tmp_path / "churn" / "1.2.3")


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(OperatorError) as caught:
        load(find(folder), **options)
    return str(caught.value)


class Writes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_pickle_that_writes_is_not_loaded(folder: Path, allow_pickle: bool) -> None:
    written = folder.parent / "written"
    forge(folder, "model.joblib", pickle.dumps(Writes(written)))
    edit_manifest(folder, lambda manifest: manifest.update(
        engine="native", lowered=None, model_files={"model.joblib": "joblib"}))  # fmt: skip
    assert "pickle" in refusal(folder, allow_pickle=allow_pickle)
    run = CliRunner().invoke(main, ["check", str(folder), "--allow-pickle"])
    assert (run.exit_code, "posix.mkdir" in run.output.replace("\n", "")) == (2, True)
    assert not written.exists()


@pytest.mark.parametrize("name", ["model.skops", "model.onnx", "golden.jsonl", "manifest.json"])
def test_a_file_cut_short_anywhere_is_refused_by_its_hash(folder: Path, name: str) -> None:
    artifact, content = Artifact(folder), (folder / name).read_bytes()
    for length in np.linspace(0, len(content) - 1, 200).astype(int):
        (folder / name).write_bytes(content[:length])
        with pytest.raises(OperatorError, match="was changed after packing"):
            artifact.read(name) if name != MANIFEST else Artifact(folder)


@pytest.mark.parametrize("name", ["model.onnx", "golden.jsonl", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_refused(folder: Path, name: str, kind: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    if kind == "link":
        (folder / name).symlink_to(folder.parent / "elsewhere")
    else:
        os.mkfifo(folder / name)
    assert ("is a link" if kind == "link" else "no ordinary file") in refusal(folder)


def many(count: int) -> Callable[[dict[str, Any]], Any]:
    def change(manifest: dict[str, Any]) -> None:
        feature = {"name": "x", "type": "number", "dtype": "float64"}
        manifest["signature"]["features"] = [feature | {"name": f"x{i}"} for i in range(count)]

    return change


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "many features": many(20_000),
    "many categories": lambda manifest: manifest["signature"]["features"][3].update(
        categories=[str(i) for i in range(200_000)]
    ),
    "two of one name": lambda manifest: manifest["signature"]["features"].append(
        manifest["signature"]["features"][0]
    ),
    "a path outside": lambda manifest: manifest["files"].update({"../secret": "0"}),
    "a path from the root": lambda manifest: manifest["files"].update({"/etc/passwd": "0"}),
    "carried from outside": lambda manifest: manifest["files"].update({"code/../x.py": "0"}),
    "a year that is none": lambda manifest: manifest.update(created="0001-01-01T00:00:00+23:00"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_asks_too_much_is_refused(folder: Path, kind: str) -> None:
    edit_manifest(folder, MANIFESTS[kind])
    assert len(refusal(folder)) < 1500


def test_a_manifest_of_a_million_features_is_refused_unread(folder: Path) -> None:
    before, features, after = (folder / MANIFEST).read_bytes().partition(b'"features": [')
    million = b'{"name":"x","type":"number","dtype":"float64"},' * 1_000_000
    forge_manifest(folder, before + features + million + after)
    assert "bytes; expected at most" in refusal(folder)


def test_deep_json_is_refused(folder: Path) -> None:
    forge_manifest(folder, b'{"name":' + b"[" * 200_000)
    assert "is no manifest" in refusal(folder)


def altered_trees(name: str, change: Callable[[list[int]], Any]) -> Callable[[Any], None]:
    def alter(graph: Any) -> None:
        trees = next(node for node in graph.node if node.op_type == "TreeEnsemble")
        (numbers,) = (attribute for attribute in trees.attribute if attribute.name == name)
        values = list(numbers.ints)
        change(values)
        del numbers.ints[:]
        numbers.ints.extend(values)

    return alter


def custom(graph: Any) -> None:
    graph.node[0].op_type, graph.node[0].domain = "Run", "mine"


def elsewhere(graph: Any) -> None:
    tensor = graph.initializer.add(name="x", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")


def cycle(graph: Any) -> None:
    """The first node that leads to another leads to itself."""
    for trees in (node for node in graph.node if node.op_type == "TreeEnsemble"):
        ints = {attribute.name: attribute.ints for attribute in trees.attribute}
        inner = [i for i, is_leaf in enumerate(ints["nodes_trueleafs"]) if not is_leaf]
        if inner:
            ints["nodes_truenodeids"][inner[0]] = inner[0]
            return
    raise AssertionError("no tree has two levels")


GRAPHS: dict[str, Callable[[Any], None]] = {
    "a custom operator": custom,
    "data elsewhere": elsewhere,
    "a node out of range": altered_trees("nodes_truenodeids", lambda ids: ids.__setitem__(0, 9**9)),
    "a node before the first": altered_trees(
        "nodes_falsenodeids", lambda ids: ids.__setitem__(0, -5)
    ),
    "a cycle": cycle,
    "a feature out of range": altered_trees(
        "nodes_featureids", lambda ids: ids.__setitem__(slice(None), [9**9] * len(ids))
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_that_leads_astray_is_refused(folder: Path, kind: str) -> None:
    model = onnx.load(folder / "model.onnx")
    GRAPHS[kind](model.graph)
    forge(folder, "model.onnx", model.SerializeToString())
    told = refusal(folder)
    assert told.startswith("model.onnx ")
    assert (told[-1], "/" in told, "\n" in told, len(told) < 400) == (".", False, False, True)


def test_a_graph_of_the_users_own_that_fails_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    GRAPHS["a feature out of range"](model.graph)
    forge(folder, "model.onnx", model.SerializeToString())
    edit_manifest(folder, lambda manifest: manifest.update(
        lowered=None, model_files={"model.onnx": "onnx"}))  # fmt: skip
    assert refusal(folder).startswith("model.onnx is no graph that onnxruntime can compute: ")


@pytest.mark.parametrize(
    "content", [b"", b"cos\nsystem\n(S'true'\ntR.", b"PK\x03\x04", b"\x80\x04"]
)
@pytest.mark.parametrize("name", ["model.onnx", "model.skops"])
def test_another_format_behind_a_name_is_refused(folder: Path, name: str, content: bytes) -> None:
    forge(folder, name, content)
    if name == "model.skops":
        edit_manifest(folder, lambda manifest: manifest.update(engine="native", lowered=None))
    assert "no skops file" in (told := refusal(folder)) or "no ONNX file" in told


def spoiled(kind: str, folder: Path) -> None:
    """A version that somebody put there: a graph of those above, or another model's file."""
    if kind in GRAPHS:
        model = onnx.load(folder / "model.onnx")
        GRAPHS[kind](model.graph)
        forge(folder, "model.onnx", model.SerializeToString())
    elif kind == "link":
        (folder / "golden.jsonl").rename(folder.parents[1] / "elsewhere")
        (folder / "golden.jsonl").symlink_to(folder.parents[1] / "elsewhere")
    elif kind == "bomb":
        bomb = BytesIO()
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("schema.json", "{}")
            archive.writestr("zeros.npy", bytes(2**27))
        forge(folder, "model.skops", bomb.getvalue())
        edit_manifest(folder, lambda manifest: manifest.update(engine="native", lowered=None))
    else:
        forge(folder, "model.joblib", pickle.dumps(Writes(folder.parents[1] / "written")))
        edit_manifest(folder, lambda manifest: manifest.update(
            engine="native", lowered=None, model_files={"model.joblib": "joblib"}))  # fmt: skip


def test_while_each_is_refused_with_a_sentence_the_old_version_answers(
    lines: Path, tmp_path: Path
) -> None:
    shutil.copytree(lines / "line" / "1.0.0", tmp_path / "line" / "1.0.0")
    service = Service(tmp_path, settings=serving.settings(allow_pickle=True))
    service.changes.is_watched = False
    service.wait(serving.PATIENCE_S)
    client = serving.client_of(service, "fastapi")
    for i, kind in enumerate([*GRAPHS, "link", "bomb", "pickle"]):
        version = f"2.0.{i}"
        made = shutil.copytree(lines / "line" / "2.0.0", tmp_path / "line" / version)
        edit_manifest(made, lambda manifest, version=version: manifest.update(version=version))
        spoiled(kind, made)

        service.changes.do(service.changes.refresh).result(serving.PATIENCE_S)

        answer = client("POST", "/predict", b'{"x":3.0}').json()
        assert (answer["model_version"], answer["prediction"]) == ("1.0.0", 3.0), kind
        refused = client.get("/models/line").json()["refused"]
        assert (refused["version"], refused["reason"][-1]) == (version, "."), (kind, refused)
        assert str(tmp_path) not in refused["reason"]
    assert not (tmp_path / "written").exists()
    service.close()


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.data())
def test_a_manifest_with_any_value_anywhere_is_taken_or_refused(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "1.2.3"
    shutil.copytree(repository / "churn" / "1.2.3", folder)

    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        while True:
            key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict)
                            else st.integers(0, len(place) - 1))  # fmt: skip
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(
                st.booleans()
            ):  # fmt: skip
                place[key] = data.draw(json)
                return
            place = place[key]

    edit_manifest(folder, change)
    try:
        Artifact(folder).golden()
    except OperatorError as error:
        assert str(error).endswith(".")
    shutil.rmtree(folder.parent)


@settings(max_examples=60)
@given(st.binary(max_size=60) | json.map(repr).map(str.encode))
def test_golden_rows_of_any_bytes_are_read_or_refused(
    repository: Path, line: bytes
) -> None:  # fmt: skip
    from tabserve.artifact import GoldenRows

    for text in (line, b'{"row":{},"outputs":{"value":' + line + b"}}"):
        try:
            GoldenRows.from_bytes(text)
        except (ValueError, LookupError, TypeError, OverflowError):
            continue
