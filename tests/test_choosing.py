"""Packing uses the fastest engine that is equal, and says why it does not use another."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

import tabserve
from tabserve import hard, loading, lower, repository
from tabserve.artifact import Artifact, Manifest
from tabserve.errors import InvalidInput
from tabserve.inference import signature_of
from tabserve.parity import columns_of, compare, in_batches
from tests.conftest import RECORD
from tests.estimators import ThresholdPipeline

random = np.random.default_rng(0)
ROWS = pd.DataFrame({"a": random.normal(size=200), "b": random.integers(0, 50, 200)})
TARGET = np.where(ROWS["a"] + ROWS["b"] / 25 + random.normal(size=200) > 1, "Yes", "No")


def packed(model: Any, tmp_path: Path, target: Any = TARGET, **options: Any) -> Manifest:
    model.fit(ROWS, target)
    folder = tabserve.pack(model, tmp_path, name="m", version="1", data=ROWS[:20], **options)
    return Artifact(folder).manifest


def tried(manifest: Manifest, engine: str) -> Any:
    (found,) = (one for one in manifest.parity.tried if one.engine == engine)
    return found


def test_a_graph_that_is_equal_on_every_hard_row_is_used(tmp_path: Path) -> None:
    manifest = packed(RandomForestClassifier(5, random_state=0), tmp_path)

    graph, native = tried(manifest, "onnx"), tried(manifest, "native")
    assert manifest.engine == graph.engine == "onnx"
    assert (graph.equal, graph.max_difference) == (True, 0.0)
    assert graph.row_us < native.row_us
    assert manifest.parity.n_hard_rows > 4 * len(ROWS)  # each threshold and its neighbours


def test_a_graph_that_differs_in_one_bit_is_not_used_and_the_row_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_wrong(model: Any, matrix: Any, lowering: Any) -> Any:
        model.tree_.value[-1] = np.nextafter(model.tree_.value[-1], 2)
        try:
            return lower.trees.decision_tree_classifier(model, matrix, lowering)
        finally:
            model.tree_.value[-1] = np.nextafter(model.tree_.value[-1], -2)

    monkeypatch.setitem(lower.PREDICTORS, "DecisionTreeClassifier", slightly_wrong)
    manifest = packed(DecisionTreeClassifier(max_depth=4, min_samples_leaf=5), tmp_path)

    assert manifest.engine == "native"
    assert re.fullmatch(
        r"Differs on (golden|hard) row \d+ in batches of 1: proba: expected \[.+\], found \[.+\], "
        r"which is [12]\.\d+e-16 apart\.",
        tried(manifest, "onnx").why,
    )


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_the_least_integer_of_a_dtype_whose_opposite_is_itself_is_asked_about(
    dtype: str, tmp_path: Path
) -> None:
    rows = ROWS[["b"]].astype(dtype)
    model = make_pipeline(FunctionTransformer(np.negative), LinearRegression()).fit(rows, ROWS["a"])
    folder = tabserve.pack(model, tmp_path, name="m", version="1", data=rows[:20])
    manifest = Artifact(folder).manifest

    assert manifest.engine == "native"
    assert tried(manifest, "onnx").why.startswith("Differs on hard row ")


def test_a_step_that_has_no_lowering_is_the_reason(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(np.arctan), LinearRegression())
    manifest = packed(model, tmp_path, target=ROWS["a"], format="joblib")

    assert manifest.engine == "native"
    assert tried(manifest, "onnx").why == (
        "Cannot be lowered: a FunctionTransformer of arctan, which is not known."
    )


def test_what_the_model_refuses_is_refused_by_the_graph(tmp_path: Path) -> None:
    packed(RandomForestClassifier(5, random_state=0), tmp_path)
    loaded = loading.load(repository.find(tmp_path))

    columns = columns_of(loaded.manifest.signature, [{"a": 0.0, "b": 1}, {"a": 1e39, "b": 1}])
    with pytest.raises(InvalidInput) as caught:
        loaded.engine.predict(columns)
    assert [found["loc"] for found in caught.value.problems] == [(1, "a")]


def test_missing_values_go_where_the_model_sends_them(tmp_path: Path) -> None:
    holes = ROWS.assign(a=ROWS["a"].where(random.random(200) < 0.8))
    model = HistGradientBoostingRegressor(max_iter=5).fit(holes, ROWS["a"])
    folder = tabserve.pack(model, tmp_path, name="m", version="1", data=holes[:40])
    loaded = loading.load(repository.find(folder))

    assert loaded.manifest.engine == "onnx"
    nan = columns_of(loaded.manifest.signature, [{"a": None, "b": 3}])
    expected = model.predict(pd.DataFrame({"a": [np.nan], "b": [3]}))
    assert loaded.engine.predict(nan)["value"].tolist() == expected.tolist()


def test_hard_rows_stand_on_both_sides_of_every_threshold() -> None:
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(ROWS, TARGET)
    signature = signature_of(model, ROWS, "frame", {}, "refuse")
    rows = ROWS[:5].to_dict("records")

    lowered = lower.lower(model, signature, {"proba": None})
    found = hard.hard_rows(signature, rows, lowered).columns

    tree = model.tree_
    for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
        if feature < 0:
            continue
        with np.errstate(over="ignore"):
            seen = found["ab"[feature]].astype(np.float32).astype(float)
        assert (seen <= threshold).any()
        assert (seen > threshold).any()
        if feature == 0:  # to the next number that the tree can tell from it
            assert np.nextafter(np.float32(threshold), np.float32(np.inf)) in seen


def test_of_a_wide_models_hard_rows_as_many_are_drawn_as_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packed(RandomForestClassifier(5, random_state=0), tmp_path).parity
    monkeypatch.setattr(hard, "MOST_VALUES", 400)
    drawn = packed(RandomForestClassifier(5, random_state=0), tmp_path, replace=True).parity

    assert whole.n_hard_rows == whole.n_hard_rows_known
    assert drawn.n_hard_rows <= 400 // 2 + drawn.n_rows < drawn.n_hard_rows_known


def test_an_answer_is_the_same_alone_as_in_any_batch(tmp_path: Path) -> None:
    packed(RandomForestClassifier(20, random_state=0), tmp_path)
    loaded = loading.load(repository.find(tmp_path))
    columns = columns_of(loaded.manifest.signature, ROWS.to_dict("records"))
    whole = loaded.engine.predict(columns)
    for size in (1, 3, 64):
        assert compare(whole, in_batches(loaded.engine, columns, size), "bits").difference is None


def test_a_lowered_model_is_served_without_any_ml_library(repository: Path) -> None:
    code = (
        "import sys, tabserve\n"
        "service = tabserve.Service(sys.argv[1], settings=tabserve.Settings(log='off'))\n"
        "service.wait(60)\n"
        "client = service.flask().test_client()\n"
        "answer = client.post('/predict', data=sys.argv[2], content_type='application/json')\n"
        "loaded = {'sklearn', 'pandas', 'scipy', 'joblib', 'skops', 'onnx'} & set(sys.modules)\n"
        "print(answer.status_code, sorted(loaded))\n"
        "service.close()\n"
    )
    command = [sys.executable, "-c", code, str(repository), orjson.dumps(RECORD).decode()]
    assert subprocess.check_output(command, text=True, timeout=60).split("\n")[0] == "200 []"


def test_a_pipeline_of_the_users_is_never_lowered(tmp_path: Path) -> None:
    model = ThresholdPipeline([("tree", DecisionTreeClassifier(max_depth=3))])
    manifest = packed(model, tmp_path, format="joblib")
    assert manifest.engine == "native"
    assert tried(manifest, "onnx").why == "Cannot be lowered: ThresholdPipeline has no lowering."


def test_the_librarys_own_engine_is_used_where_that_is_asked_for(tmp_path: Path) -> None:
    manifest = packed(DecisionTreeClassifier(max_depth=3), tmp_path, engine="native")
    assert (manifest.engine, manifest.lowered) == ("native", None)
    assert [one.engine for one in manifest.parity.tried] == ["native"]
