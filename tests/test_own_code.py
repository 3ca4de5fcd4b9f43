"""Functions and modules of the user's own: named, carried, and run only where that is allowed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import tabserve
from tabserve import Service, carried, code_folder, loading, sources
from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError, PackError, UntrustedModel
from tests.forging import edit_manifest
from tests.functions import described, doubled, recorded
from tests.serving import client_of, settings

ROWS = pd.DataFrame({"age": [20.0, 30.0, 50.0, 60.0], "income": [1.0, 2.0, 4.0, 8.0]})
CODE = """
from pathlib import Path
from sklearn.base import BaseEstimator, TransformerMixin
from steps.numbers import FACTOR

class Times(TransformerMixin, BaseEstimator):
    def fit(self, rows, target=None):
        return self

    def transform(self, rows):
        return rows * FACTOR

def plus(columns):
    return columns["age"] + FACTOR + len(Path(__file__).with_name("words.txt").read_text())
"""


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    """A folder with a package, which nothing imports yet."""
    folder = tmp_path / "src"
    write(folder, factor=10)
    yield folder
    forget()


def write(folder: Path, factor: int) -> None:
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    (folder / "steps" / "__init__.py").write_text(CODE)
    (folder / "steps" / "numbers.py").write_text(f"FACTOR = {factor}")
    (folder / "steps" / "words.txt").write_text("words")


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "steps"]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, carried._Carried)]


def pack(model: Any, out: Path, version: str = "1", **options: Any) -> Artifact:
    return Artifact(tabserve.pack(model, out, name="m", version=version, data=ROWS, **options))


def pack_pipeline(code: Path, out: Path, version: str = "1", **options: Any) -> Artifact:
    """One with a transformer of the folder's own."""
    with carried.importable(code_folder.read(code).files, code):
        from steps import Times  # type: ignore[import-not-found]
    model = make_pipeline(Times(), LinearRegression()).fit(ROWS, [1.0, 2.0, 3.0, 4.0])
    artifact = pack(model, out, version, code=code, **options)
    forget()
    return artifact


def answers(artifact: Artifact, part: str = "value", **allowed: bool) -> Any:
    engine = loading.load(artifact, allow_code=True, **allowed).engine
    return engine.predict({name: ROWS[name].to_numpy() for name in ROWS})[part].tolist()


def test_a_function_is_run_only_where_that_is_allowed(tmp_path: Path) -> None:
    artifact = pack(doubled, tmp_path)
    assert artifact.manifest.function == "tests.functions:doubled"
    with pytest.raises(UntrustedModel, match="--allow-code"):
        loading.load(artifact)
    assert answers(artifact) == doubled({name: ROWS[name] for name in ROWS}).tolist()


def named(columns: dict[str, Any]) -> list[Any]:
    """Of many kinds, by the first letter."""
    return [{"n": None, "i": 3}.get(str(city)[:1], str(city)) for city in columns["city"]]


def test_a_function_may_answer_text_that_its_sample_did_not_show(tmp_path: Path) -> None:
    rows = pd.DataFrame({"city": ["Ulm", "Kiel"]})
    signature = {"features": {"city": {"type": "string"}}}
    artifact = Artifact(
        tabserve.pack(named, tmp_path, name="m", version="1", data=rows, signature=signature)
    )
    service = Service(artifact.folder, settings=settings(allow_code=True))
    service.wait(60)
    client = client_of(service, "fastapi")
    assert client("POST", "/predict", b'{"city":"Bonn"}').json()["prediction"] == "Bonn"
    for wrong in (b'{"city":"none"}', b'{"city":"integer"}'):
        assert client("POST", "/predict", wrong).json()["error"] == "bad_model_output"
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["Prediction"]["properties"]["prediction"] == {
        "type": "string", "examples": ["Kiel", "Ulm"],
    }  # fmt: skip
    service.close()


def test_scalars_of_numpys_in_records_are_numbers_text_and_booleans(tmp_path: Path) -> None:
    engine = loading.load(pack(recorded, tmp_path), allow_code=True).engine

    found = engine.predict({name: ROWS[name].to_numpy()[2:] for name in ROWS})

    assert {part: array.tolist() for part, array in found.items()} == {
        "old.label": [False, True], "years.value": [50.0, 60.0], "half.value": [25.0, 30.0],
        "as.label": ["50.0", "60.0"],
    }  # fmt: skip


def test_what_an_answer_of_a_function_lacks_is_told_when_it_is_packed(tmp_path: Path) -> None:
    for wrong, message in [
        (described, "fails on rows of its own sample data: KeyError"),
        (np.zeros, "cannot be packed|fails on rows"),
    ]:
        with pytest.raises(PackError, match=message):
            pack(wrong, tmp_path)


@pytest.mark.parametrize("format", ["skops", "joblib"])
def test_a_transformer_of_ones_own_is_carried_beside_the_model(
    code: Path, format: Any, tmp_path: Path
) -> None:
    artifact = pack_pipeline(code, tmp_path / "models", format=format)
    assert {"code/steps/__init__.py", "code/steps/numbers.py"} <= artifact.manifest.files.keys()
    with pytest.raises(UntrustedModel, match="--allow-code"):
        loading.load(artifact, allow_pickle=True)
    assert len(answers(artifact, allow_pickle=format == "joblib")) == len(ROWS)
    assert "steps" in sys.modules


def test_ones_own_code_runs_after_a_fork_and_where_that_is_allowed(
    code: Path, tmp_path: Path
) -> None:
    artifact = pack_pipeline(code, tmp_path / "models")
    finish = loading.preload(artifact, allow_code=True)
    assert "steps" not in sys.modules
    assert finish().manifest == artifact.manifest
    assert "steps" in sys.modules
    with pytest.raises(UntrustedModel, match="--allow-code"):
        loading.preload(artifact)()


def test_each_version_computes_with_the_modules_that_it_carries(code: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    first = pack_pipeline(code, out)
    old = loading.load(first, allow_code=True).engine
    write(code, factor=1000)
    second = pack_pipeline(code, out, "2")
    new = loading.load(second, allow_code=True).engine
    for engine, artifact in ((old, first), (new, second)):
        columns = {name: ROWS[name].to_numpy() for name in ROWS}
        found = engine.predict(columns)["value"]
        np.testing.assert_allclose(found, artifact.golden().outputs["value"], rtol=1e-12)


def test_a_carried_function_reads_what_lies_beside_it(code: Path, tmp_path: Path) -> None:
    with carried.importable(code_folder.read(code).files, code):
        from steps import plus
    artifact = pack(plus, tmp_path / "models", code=code)
    forget()
    assert answers(artifact) == (ROWS["age"] + 15).tolist()


def test_a_carried_file_that_was_changed_is_not_run(code: Path, tmp_path: Path) -> None:
    artifact = pack_pipeline(code, tmp_path / "models")
    (artifact.folder / "code/steps/numbers.py").write_text("raise SystemExit")
    with pytest.raises(ArtifactError, match="was changed after packing"):
        loading.load(artifact, allow_code=True)


def test_what_a_server_cannot_import_is_told_before_anything_is_written(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_this_test(rows: Any) -> Any:
        return rows

    steps = [FunctionTransformer(lambda rows: rows), FunctionTransformer(of_this_test)]
    monkeypatch.syspath_prepend(str(code))
    from steps import Times

    for step, message in [
        (steps[0], "pack it with --code"),
        (steps[1], "pack it with --code"),
        (Times(), "neither installed nor in the working directory"),
    ]:
        model = make_pipeline(step, LinearRegression()).fit(ROWS, [1, 2, 3, 4])
        with pytest.raises(PackError, match=message):
            pack(model, tmp_path / "models", format="joblib")
    assert not (tmp_path / "models").exists()


def test_a_pickle_that_refers_to_what_cannot_be_imported_says_what_to_do(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with carried.importable(code_folder.read(code).files, code):
        from steps import Times
    of_a_script = type("Mine", (Times,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", of_a_script, raising=False)
    joblib.dump(of_a_script(), tmp_path / "script.joblib")
    joblib.dump(Times(), tmp_path / "module.joblib")
    monkeypatch.delattr(sys.modules["__main__"], "Mine")
    forget()
    for name, message in [
        ("script", "refers to Mine in __main__, .* pack it with --code FOLDER"),
        ("module", "refers to Times of the module steps, .* or pack with --code FOLDER"),
    ]:
        with pytest.raises(PackError, match=message):
            sources.load_model(str(tmp_path / f"{name}.joblib"), allow_pickle=True)


def test_a_pickle_is_loaded_with_modules_of_the_working_directory(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = pack_pipeline(code, tmp_path / "models", format="joblib")
    edit_manifest(artifact.folder, without_code)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(code))])
    with pytest.raises(ModuleNotFoundError):
        loading.load(Artifact(artifact.folder), allow_pickle=True)
    monkeypatch.chdir(code)
    assert loading.load(Artifact(artifact.folder), allow_pickle=True).difference <= 1e-12


def without_code(manifest: dict[str, Any]) -> None:
    for name in [name for name in manifest["files"] if name.startswith("code/")]:
        del manifest["files"][name]


@pytest.mark.parametrize(("name", "message"), [
    ("json.py", "as Python itself"), ("a b.py", "no plain name"),
])  # fmt: skip
def test_a_folder_that_cannot_be_carried_is_refused(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(PackError, match=message):
        code_folder.read(tmp_path)


def test_modules_and_package_data_are_carried_and_what_is_left_out_is_told(
    code: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (code / "venv").mkdir()
    (code / "steps" / "data").mkdir()
    for name in ("venv/pyvenv.cfg", "venv/x.py", "keys.json", "rows.csv", "notes.py", ".env",
                 "steps/api_key.txt", "steps/x.pem", "steps/data/x.json"):  # fmt: skip
        (code / name).write_text("")
    pack(doubled, code / "models", code=code)
    (code / "steps" / "large.bin").write_bytes(bytes(code_folder.MOST_FILE_BYTES + 1))
    (code / "steps" / "passwd").symlink_to("/etc/passwd")
    (code / "steps" / "linked.txt").symlink_to("/etc/hostname")

    pack(doubled, tmp_path / "models", code=code)

    found = code_folder.read(code)
    assert list(found.files) == [
        "notes.py", "steps/__init__.py", "steps/numbers.py", "steps/words.txt",
        "steps/data/x.json",
    ]  # fmt: skip
    assert found.left_out == {
        "models/m/1/": "installed or generated",
        "venv/": "installed or generated",
        "keys.json": "called as secrets are",
        "rows.csv": "no module, and not in a package",
        "steps/api_key.txt": "called as secrets are",
        "steps/large.bin": "more than 1048576 bytes",
        "steps/linked.txt": "no ordinary file",
        "steps/passwd": "called as secrets are",
        "steps/x.pem": "called as secrets are",
    }
    assert found.told in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_FILES", 1), ("MOST_BYTES", 10), ("MOST_LOOKED_AT", 2)]
)
def test_a_folder_of_too_much_is_refused(
    code: Path, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_folder, limit, value)
    with pytest.raises(PackError, match="more than"):
        code_folder.read(code)


def test_a_model_file_that_needs_carried_modules_is_packed(code: Path, tmp_path: Path) -> None:
    from tabserve import packing

    with carried.importable(code_folder.read(code).files, code):
        from steps import Times
    model = make_pipeline(Times(), LinearRegression()).fit(ROWS, [1.0, 2.0, 3.0, 4.0])
    joblib.dump(model, tmp_path / "m.joblib")
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    forget()
    folder = packing.pack_from_files(
        str(tmp_path / "m.joblib"), tmp_path / "rows.csv", target=None, allow_pickle=True,
        code=code, name="m", version="1", out=tmp_path / "models",
    )  # fmt: skip
    forget()
    assert len(answers(Artifact(folder))) == len(ROWS)
