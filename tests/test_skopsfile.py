"""skops files are counted before anything in them is parsed."""

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import Ridge

from tabserve import compression, sklearnfile, skopsfile
from tabserve.errors import ArtifactError, UntrustedModel

MODEL = Ridge().fit(np.arange(12.0).reshape(6, 2), np.arange(6.0))
SCHEMA = json.dumps({"protocol": 0})


def archive(*files: tuple[str, Any], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in files:
            made.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_skops_file_is_taken(method: int) -> None:
    content = skops.io.dumps(MODEL, compression=method)
    skopsfile.check(content, "model.skops")
    assert (
        sklearnfile.load(content, "skops", allow_pickle=False).coef_.tolist()
        == MODEL.coef_.tolist()
    )


READ_OFTEN = json.dumps({"content": [{"file": "zeros.npy"}] * 200})
HOSTILE = {
    "a bomb": (archive(("schema.json", SCHEMA), ("zeros.npy", bytes(2**24))), "would become"),
    "read often": (
        archive(("schema.json", READ_OFTEN), ("zeros.npy", bytes(2**17)), method=0),
        "would have 26214400 bytes read",
    ),
    "another method": (archive(("schema.json", SCHEMA), method=zipfile.ZIP_BZIP2), "deflate"),
    "deep": (archive(("schema.json", "[" * 10**5), method=0), "no skops file"),
    "no schema": (archive(("other", b"")), "no skops file"),
    "not whole": (skops.io.dumps(MODEL)[:-30], "no skops file"),
    "a pickle": (b"cos\nsystem\n(S'true'\ntR.", "no skops file"),
    "nothing": (b"", "no skops file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_anything_else_is_refused_before_it_is_parsed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "FREE_BYTES", 2**16)
    content, reason = HOSTILE[kind]
    with pytest.raises(ArtifactError, match=reason):
        sklearnfile.load(content, "skops", allow_pickle=False)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_files_of_one_name_neither_is_taken() -> None:
    twice = archive(("schema.json", SCHEMA), ("schema.json", SCHEMA))
    with pytest.raises(ArtifactError, match="several files of one name"):
        skopsfile.check(twice, "model.skops")


@pytest.mark.parametrize(
    ("limit", "reason"), [("MAX_ENTRIES", "holds 3 files"), ("MAX_SCHEMA_BYTES", "has 15 bytes")]
)
def test_many_files_and_a_large_schema_are_refused(
    limit: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skopsfile, limit, 2)
    files = [("a", b""), ("b", b"")] if limit == "MAX_ENTRIES" else []
    with pytest.raises(ArtifactError, match=reason):
        skopsfile.check(archive(("schema.json", SCHEMA), *files), "model.skops")


def test_a_file_in_which_skops_loses_itself_is_untrusted() -> None:
    with pytest.raises(UntrustedModel, match="no skops file"):
        sklearnfile.load(archive(("schema.json", SCHEMA)), "skops", allow_pickle=False)
