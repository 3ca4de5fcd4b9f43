"""The artefact's files: written whole, read only when they are what was written."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabserve.artifact import MANIFEST, SEAL, Artifact, GoldenRows, Manifest, plain_name, write
from tabserve.errors import ArtifactError, PackError
from tests.forging import edit_manifest, forge_manifest


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """A version that the test may change."""
    return shutil.copytree(repository / "churn" / "1.2.3", tmp_path / "churn" / "1.2.3")


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return Artifact(folder).manifest


def test_the_manifest_holds_what_the_design_says(manifest: Manifest, folder: Path) -> None:
    assert (manifest.name, manifest.version, manifest.format_version) == ("churn", "1.2.3", 1)
    assert (manifest.engine, manifest.model_files) == ("onnx", {"model.skops": "skops"})
    libraries = {"joblib", "numpy", "onnxruntime", "pandas", "sklearn", "skops"}
    assert manifest.libraries.keys() == libraries
    assert manifest.files == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.skops", "model.onnx", "refused.onnx", "golden.jsonl")
    }
    assert {path.name for path in folder.iterdir()} == {*manifest.files, MANIFEST, SEAL}


def test_no_time_zone_of_pydantics_outlives_the_interpreter(manifest: Manifest) -> None:
    # One that is alive at its end crashes it: pydantic/pydantic#12867.
    assert manifest.created.tzinfo is manifest.training_date.tzinfo is UTC


@pytest.mark.parametrize("name", ["model.skops", "model.onnx", "golden.jsonl"])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_altered_byte_is_refused(folder: Path, name: str, place: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"was changed after packing: expected sha256"):
        Artifact(folder).read(name)


def test_one_altered_word_of_the_manifest_is_refused(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"positive": "Yes"', '"positive": "No"'))
    with pytest.raises(ArtifactError, match=r"manifest.json was changed after packing"):
        Artifact(folder)


@pytest.mark.parametrize("name", ["model.skops", "golden.jsonl", MANIFEST, SEAL])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Artifact(folder).read(name)


@pytest.mark.parametrize("name", ["manifest.json", "../1.2.3/model.skops", "/etc/passwd", "x"])
def test_only_files_that_the_manifest_names_are_read(folder: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="names no file"):
        Artifact(folder).read(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(surprise=1),
        lambda content: content["parity"].update(surprise=1),
        lambda content: content["parity"].update(exactness="tolerance"),
        lambda content: content["parity"].update(tolerance=1e-4),
        lambda content: content["parity"].update(exactness="tolerance", tolerance=0.2),
        lambda content: content["signature"]["features"][0].update(surprise=1),
        lambda content: content.update(format_version=2),
        lambda content: content.update(model_files={"model.pkl": "pickle"}),
        lambda content: content.update(model_files={"../model.skops": "skops"}),
        lambda content: content["files"].update({"../../etc/passwd": "0"}),
        lambda content: content.update(name="../churn"),
        lambda content: content.update(targets=[]),
        lambda content: content.pop("parity"),
    ],
)
def test_a_manifest_with_other_keys_or_paths_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    edit_manifest(folder, change)
    with pytest.raises(ArtifactError, match=r"is no manifest of format 1: .*Pack the model again"):
        Artifact(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
def test_a_file_that_is_no_manifest_is_refused(folder: Path, text: bytes) -> None:
    forge_manifest(folder, text)
    with pytest.raises(ArtifactError, match="is no manifest"):
        Artifact(folder)


@pytest.mark.parametrize(
    "text", [b"x\n", b'{"row": {}}\n', b'{"row": {}, "outputs": {"value": "x"}}\n', b"3\n",
             b'{"row":{},"outputs":{"value":1}}\n{"row":{},"outputs":{}}\n'],
)  # fmt: skip
def test_golden_rows_that_cannot_be_read_are_named(folder: Path, text: bytes) -> None:
    (folder / "golden.jsonl").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    edit_manifest(folder, lambda content: content["files"].update({"golden.jsonl": digest}))
    with pytest.raises(ArtifactError, match=r"golden.jsonl cannot be read"):
        Artifact(folder).golden()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_golden_outputs_come_back_to_the_last_bit(values: list[float]) -> None:
    golden = GoldenRows(
        rows=[{"x": value} for value in values],
        outputs={"value": np.array(values), "label": np.array([*map(str, values)], object)},
    )
    found = GoldenRows.from_bytes(golden.to_bytes())
    assert found.rows == golden.rows
    assert found.outputs["value"].tobytes() == golden.outputs["value"].tobytes()
    assert found.outputs["label"].tolist() == golden.outputs["label"].tolist()


@pytest.mark.parametrize("name", ["1.2.3", "churn", "A_b-c.d", "0", "x" * 100])
def test_a_plain_name_is_kept(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a..b", "a b", "ü", "a\n", "x" * 101]
)
def test_a_name_that_is_no_safe_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected letters"):
        plain_name(name)


def test_an_existing_version_is_kept_unless_it_is_to_be_replaced(
    tmp_path: Path, manifest: Manifest
) -> None:
    out = tmp_path / "out"
    first = write(out, manifest, {"golden.jsonl": b"1"}, replace=False)
    with pytest.raises(PackError, match="exists already"):
        write(out, manifest, {"golden.jsonl": b"2"}, replace=False)
    assert (first / "golden.jsonl").read_bytes() == b"1"
    assert write(out, manifest, {"model.skops": b"2"}, replace=True) == first
    assert {path.name for path in first.iterdir()} == {"model.skops", MANIFEST, SEAL}


@pytest.mark.parametrize("exists", [False, True])
def test_a_crash_while_writing_leaves_the_version_as_it_was(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    out = tmp_path / "out"
    if exists:
        write(out, manifest, {"golden.jsonl": b"1"}, replace=False)

    def crash(content: bytes) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("tabserve.artifact.seal", crash)  # needed last
    with pytest.raises(KeyboardInterrupt):
        write(out, manifest, {"golden.jsonl": b"2"}, replace=True)
    left = sorted(path.read_bytes() for path in out.rglob("golden.jsonl"))
    assert left == ([b"1"] if exists else [])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PackError, match="Cannot write"):
        write(tmp_path / "file", manifest, {}, replace=False)
