"""The onnx engine: large batches are computed in another order of their rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

import tabserve
from tabserve import repository
from tabserve.engines.onnx import ROWS_FOR_THREADS, ROWS_TO_SORT, OnnxEngine
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
    monkeypatch.setattr(repository, "usable_cpus", lambda: request.param)
    folder = tabserve.pack(forest, tmp_path, name="forest", version="1", data=rows(50))
    yield repository.load(repository.find(folder)).engine


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
