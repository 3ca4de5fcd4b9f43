"""The onnx engine: large batches are computed in another order of their rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import tabserve
from tabserve import loading, repository
from tabserve.engines.onnx import ROWS_FOR_THREADS, ROWS_TO_SORT, OnnxEngine
from tabserve.errors import InvalidInput
from tabserve.lowered import Cut, Lowered

N_ROWS = 2 * max(ROWS_TO_SORT, ROWS_FOR_THREADS) + 1


def rows(n: int) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=(n, 3)), columns=["a", "b", "c"])


@pytest.fixture(scope="module")
def forest() -> Any:
    frame = rows(300)
    return RandomForestClassifier(5, random_state=0).fit(frame, frame.sum(axis=1) > 0)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def engine(
    request: pytest.FixtureRequest,
    forest: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    monkeypatch.setattr(loading, "usable_cpus", lambda: request.param)
    folder = tabserve.pack(forest, tmp_path, name="forest", version="1", data=rows(50))
    yield loading.load(repository.find(folder)).engine


def test_each_row_of_a_large_batch_has_its_own_answer(engine: Any, forest: Any) -> None:
    frame = rows(N_ROWS)
    found = engine.predict({name: frame[name].tolist() for name in frame})
    assert isinstance(engine, OnnxEngine) and engine._lowered.cuts
    assert np.array_equal(found["proba"], forest.predict_proba(frame))


def test_rows_of_the_same_pieces_stand_together() -> None:
    cuts = (Cut(feature=1, edges=(0.0,)), Cut(feature=0, edges=(1.0, 2.0)))
    lowered = Lowered(vocabularies={}, links=(), cuts=cuts)
    matrix = np.array([[0.0, 5.0], [3.0, -5.0], [0.5, 7.0], [np.nan, -1.0], [0.0, 0.0]])
    assert lowered.alike(matrix).tolist() == [4, 0, 2, 1, 3]


def test_a_large_number_that_the_model_takes_is_not_told_beside_one_that_it_refuses(
    tmp_path: Path,
) -> None:
    frame = rows(300) * 1e9
    model = make_pipeline(StandardScaler(), RandomForestClassifier(2)).fit(frame, frame["a"] > 0)
    folder = tabserve.pack(model, tmp_path, name="forest", version="1", data=frame)
    engine = loading.load(repository.find(folder)).engine
    assert isinstance(engine, OnnxEngine)
    asked = pd.DataFrame({"a": [1.0, 1e39, 1e300], "b": 1.0, "c": 1.0})
    alone = engine.predict({name: asked[name].to_numpy()[1:2] for name in asked})
    assert np.array_equal(alone["proba"], model.predict_proba(asked[1:2]))  # 1e39 becomes 1e30

    with pytest.raises(InvalidInput) as caught:
        engine.predict({name: asked[name].to_numpy() for name in asked})

    assert [found["loc"] for found in caught.value.problems] == [(2, "a")]


def test_a_row_that_becomes_undefined_is_told_by_its_place(tmp_path: Path) -> None:
    frame = rows(300).abs()
    model = make_pipeline(FunctionTransformer(np.log), LinearRegression()).fit(frame, frame["a"])
    folder = tabserve.pack(model, tmp_path, name="line", version="1", data=frame)
    engine = loading.load(repository.find(folder)).engine
    assert isinstance(engine, OnnxEngine)

    with pytest.raises(InvalidInput) as caught:
        engine.predict({name: np.array([1.0, -1.0, 1e39]) for name in frame})

    assert [found["loc"] for found in caught.value.problems] == [(1,)]
