"""What skl2onnx makes serves where the exact graph fails and the user accepts a tolerance."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from click.testing import CliRunner
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

import tabserve
from tabserve import converting, loading, repository
from tabserve.artifact import Artifact, Manifest, Tried
from tabserve.cli import main
from tabserve.engines import onnx_model
from tabserve.errors import MissingExtra, NotReproduced, PackError
from tabserve.originals.onnx_model import OnnxModel
from tabserve.parity import columns_of, in_batches
from tests.serving import PATIENCE_S, client_of, settings

random = np.random.default_rng(0)
ROWS, FRESH = (
    pd.DataFrame({"a": random.normal(size=n), "b": random.normal(size=n)}) for n in (120, 130)
)
IS_LARGE = (ROWS["a"] + ROWS["b"] > 0).to_numpy()
WORD = np.where(IS_LARGE, "large", "small")
VALUE = np.sin(ROWS["a"]) + ROWS["b"]


@pytest.fixture(scope="module")
def classifier() -> Any:
    return CalibratedClassifierCV(SVC(), ensemble=False).fit(ROWS, WORD)


@pytest.fixture(scope="module")
def regressor() -> Any:
    return make_pipeline(StandardScaler(), SVR()).fit(ROWS, VALUE)


def packed(model: Any, out: Path, version: str = "1", **options: Any) -> Manifest:
    folder = tabserve.pack(model, out, name="m", version=version, data=ROWS, **options)
    return Artifact(folder).manifest


def converted(manifest: Manifest) -> list[Tried]:
    return [tried for tried in manifest.parity.tried if tried.converter == "skl2onnx"]


def test_a_converted_model_answers_within_the_tolerance_in_any_batch(
    classifier: Any, tmp_path: Path
) -> None:
    manifest = packed(classifier, tmp_path, tolerance=1e-4)

    assert (manifest.engine, manifest.lowered) == ("onnx", None)
    assert (manifest.parity.exactness, manifest.parity.tolerance) == ("tolerance", 1e-4)
    assert manifest.parity.n_hard_rows > 1000
    loaded = loading.load(repository.find(tmp_path))
    columns = columns_of(manifest.signature, FRESH.to_dict("records"))
    for size in (1, 7, 64):
        found = in_batches(loaded.engine, columns, size)
        difference = np.abs(found["proba"] - classifier.predict_proba(FRESH)).max()
        assert 0 < difference < 1e-4
        assert found["label"].tolist() == classifier.predict(FRESH).tolist()


def test_without_the_word_nothing_is_converted(classifier: Any, tmp_path: Path) -> None:
    manifest = packed(classifier, tmp_path)
    assert manifest.engine == "native"
    assert (manifest.parity.exactness, manifest.parity.tolerance) == ("close", None)
    assert converted(manifest) == []


def test_an_exact_graph_is_used_in_spite_of_the_word(tmp_path: Path) -> None:
    manifest = packed(LinearRegression().fit(ROWS, VALUE), tmp_path, tolerance=1e-4)
    assert (manifest.engine, manifest.parity.exactness) == ("onnx", "close")
    assert manifest.lowered is not None
    assert converted(manifest) == []


def test_a_service_says_the_tolerance_and_refuses_what_no_float32_holds(
    regressor: Any, tmp_path: Path
) -> None:
    packed(regressor, tmp_path, tolerance=1e-4)
    service = tabserve.Service(tmp_path / "m", settings=settings())
    service.wait(PATIENCE_S)
    client = client_of(service, "fastapi")
    parity = client("GET", "/metadata").json()["parity"]
    answer = client("POST", "/predict", b'{"a": 0.5, "b": -0.25}')
    refused = client("POST", "/predict", b'{"a": 1e39, "b": -0.25}')
    service.close()

    assert (parity["exactness"], parity["tolerance"]) == ("tolerance", 1e-4)
    expected = regressor.predict(pd.DataFrame({"a": [0.5], "b": [-0.25]}))
    assert answer.json()["prediction"] == pytest.approx(expected[0], abs=1e-4)
    assert (refused.status, refused.json()["detail"][0]["loc"]) == (422, ["body", "a"])


def test_a_conversion_that_is_off_is_not_used_and_the_row_is_told(
    regressor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(model: Any, *arguments: Any) -> bytes:
        model[-1].intercept_ = model[-1].intercept_ + 0.01
        try:
            return convert(model, *arguments)
        finally:
            model[-1].intercept_ = model[-1].intercept_ - 0.01

    convert = converting.convert
    monkeypatch.setattr(converting, "convert", off)
    manifest = packed(regressor, tmp_path, tolerance=1e-4)

    assert (manifest.engine, manifest.parity.exactness) == ("native", "close")
    in_double, in_float = converted(manifest)
    assert str(in_double.why).startswith("In double: Not converted: ")
    assert str(in_float.why).startswith(
        "In float: Differs on golden row 1 in batches of 1: value: expected "
    )
    assert ", which is 0.01" in str(in_float.why)


def test_a_hard_row_that_differs_is_told(tmp_path: Path) -> None:
    neighbours = KNeighborsRegressor().fit(ROWS, VALUE)  # far away all are as near in float
    manifest = packed(neighbours, tmp_path, tolerance=1e-4)
    assert manifest.engine == "native"
    assert all("Differs on hard row " in str(tried.why) for tried in converted(manifest))


def test_a_row_on_which_the_model_fails_must_be_refused(
    regressor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = SVR.predict

    def choosy(self: Any, rows: Any) -> Any:
        if (np.abs(rows) > 1e10).any():
            raise ValueError("too large for me")
        return predict(self, rows)

    monkeypatch.setattr(SVR, "predict", choosy)
    manifest = packed(regressor, tmp_path, tolerance=1e-4)
    assert manifest.engine == "native"
    assert converted(manifest)[-1].why == (
        "In float: Answers a row on which the model itself fails."
    )


def test_a_class_that_is_a_truth_value_is_answered_as_one(tmp_path: Path) -> None:
    packed(make_pipeline(StandardScaler(), SVC()).fit(ROWS, IS_LARGE), tmp_path, tolerance=1e-4)
    loaded = loading.load(repository.find(tmp_path))
    assert loaded.manifest.engine == "onnx"
    columns = columns_of(loaded.manifest.signature, ROWS[:5].to_dict("records"))
    assert [type(label) for label in loaded.engine.predict(columns)["label"]] == [bool] * 5


def test_a_file_of_the_users_is_proven_within_the_tolerance(
    regressor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packed(regressor, tmp_path / "first", tolerance=1e-4)
    file = OnnxModel(converting.convert(regressor, model.signature, "float"), "m.onnx")
    strict = packed(file, tmp_path, "strict")
    tolerant = packed(file, tmp_path, "tolerant", tolerance=1e-5)
    assert [one.parity.exactness for one in (strict, tolerant)] == ["close", "tolerance"]

    doubles = onnx_model._doubles  # now as another CPU's
    monkeypatch.setattr(onnx_model, "_doubles", lambda values: doubles(values) * (1 + 1e-6))
    loaded = loading.load(repository.find(tmp_path / "m" / "tolerant"))
    assert 0 < loaded.difference < 1e-5
    with pytest.raises(NotReproduced, match="row 1 of golden"):
        loading.load(repository.find(tmp_path / "m" / "strict"))
    monkeypatch.setattr(onnx_model, "_doubles", lambda values: doubles(values) * 1.01)
    with pytest.raises(NotReproduced, match=r"class tolerance 1e-05"):
        loading.load(repository.find(tmp_path / "m" / "tolerant"))


@pytest.mark.parametrize("tolerance", [0.0, -1e-5, 0.11, float("nan"), float("inf")])
def test_a_tolerance_that_says_nothing_is_refused(regressor: Any, tolerance: float) -> None:
    with pytest.raises(PackError, match=r"above 0 and at most 0\.1, got "):
        packed(regressor, Path("nowhere"), tolerance=tolerance)


def test_a_tolerance_and_the_native_engine_are_refused_together(regressor: Any) -> None:
    with pytest.raises(PackError, match="say one of the two"):
        packed(regressor, Path("nowhere"), tolerance=1e-4, engine="native")


def test_without_skl2onnx_its_extra_is_named(
    regressor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tabserve, "converting")
    monkeypatch.delitem(sys.modules, "tabserve.converting")
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(MissingExtra, match=r'skl2onnx .* pip install "tabserve\[onnx\]"'):
        packed(regressor, tmp_path, tolerance=1e-4)


def test_the_command_line_takes_and_shows_it(regressor: Any, tmp_path: Path) -> None:
    skops.io.dump(regressor, tmp_path / "m.skops")
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    arguments = [str(tmp_path / "m.skops"), "--data", str(tmp_path / "rows.csv")]
    arguments += ["--name", "m", "--version", "1", "--out", str(tmp_path), "--tolerance", "1e-4"]
    assert CliRunner().invoke(main, ["pack", *arguments]).exit_code == 0

    shown = " ".join(CliRunner().invoke(main, ["check", str(tmp_path / "m")]).output.split())
    assert "reproduced by the onnx engine, class tolerance 0.0001, largest difference" in shown
    assert "onnx engine (skl2onnx) within the tolerance, largest difference" in shown
    assert "trust onnx: data only" in shown
