from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tabserve import loading, repository
from tabserve.artifact import GRAPH, Artifact
from tabserve.packing import pack
from tabserve.scoring import engine as engines
from tabserve.scoring import making, shelf, tables
from tabserve.scoring.forest import Forest, read_forest
from tabserve.scoring.rows import Coded, Piece
from tabserve.scoring.tables import Tables

RANDOM = np.random.default_rng(3)
N_ROWS = 6000
KINDS = np.array(["a", "b", "c", "other"], dtype=object)


def rows(n: int = N_ROWS) -> pd.DataFrame:
    frame = pd.DataFrame({f"x{i}": RANDOM.normal(size=n).round(i) for i in range(4)})
    frame.loc[RANDOM.random(n) < 0.1, "x1"] = np.nan
    return frame.assign(kind=KINDS[RANDOM.integers(0, 4, n)])


@pytest.fixture(autouse=True)
def few_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are made for the first row that falls into one."""
    monkeypatch.setattr(tables, "_MAX_BOXES", 512)
    monkeypatch.setattr(tables, "_ROWS_WORTH_A_BOX", 0)


@pytest.fixture(scope="module", params=["forest", "extra trees"])
def artifact(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    sample = rows(400)
    truth = sample["x0"] + (sample["kind"] == "b") * sample["x3"] > 0
    estimator: Any = RandomForestClassifier(12, random_state=0)
    target: Any = truth
    if request.param == "extra trees":
        estimator, target = ExtraTreesRegressor(12, random_state=0), truth + sample["x2"]
    before = make_column_transformer(
        (SimpleImputer(), [f"x{i}" for i in range(4)]),
        (OneHotEncoder(handle_unknown="ignore"), ["kind"]),
    )
    model = make_pipeline(before, estimator).fit(sample, target)
    folder = pack(
        model, tmp_path_factory.mktemp("m"), name="m", version="1", data=sample, target=target,
        output={"name": "y"},
    )  # fmt: skip
    return repository.find(folder)


def piece_of(frame: pd.DataFrame) -> Piece:
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in frame if name != "kind"}
    place = {kind: i for i, kind in enumerate(KINDS)}
    columns["kind"] = Coded(frame["kind"].map(place).to_numpy(), list(KINDS))
    return Piece(np.arange(len(frame)), columns)


def test_tables_give_the_bits_of_the_engine(artifact: Any):
    forest, loaded = read_forest(artifact.read(GRAPH)), loading.load(artifact)
    assert forest is not None
    piece = piece_of(rows())
    tabled = engines._Tabled(loaded, Tables(forest, 10**9), has_refused=True)
    expected = loaded.engine.predict(piece.plain())
    for _ in range(2):  # where boxes are made, and where they are there
        found = tabled.predict(piece)
        assert {part: values.tolist() for part, values in found.items()} == {
            part: values.tolist() for part, values in expected.items()
        }
    assert tabled._tables is not None
    _, left, fresh = tabled._tables.scores(tabled._matrix(piece))
    assert len(left) < N_ROWS / 10
    assert len(fresh) == 0


def test_tables_that_differ_are_not_used(artifact: Any):
    forest, loaded = read_forest(artifact.read(GRAPH)), loading.load(artifact)
    assert forest is not None
    wrong = Forest(**{**vars(forest), "weight": forest.weight + 2**-30})
    tabled = engines._Tabled(loaded, Tables(wrong, 10**9), has_refused=True)
    piece = piece_of(rows())
    expected = loaded.engine.predict(piece.plain())
    found = tabled.predict(piece)
    assert [v.tolist() for v in found.values()] == [v.tolist() for v in expected.values()]
    assert tabled._tables is None


def test_boxes_of_too_many_cells_are_left(artifact: Any, monkeypatch: pytest.MonkeyPatch):
    forest, loaded = read_forest(artifact.read(GRAPH)), loading.load(artifact)
    assert forest is not None
    piece = piece_of(rows())
    all_there = Tables(forest, 10**9)
    tabled = engines._Tabled(loaded, all_there, has_refused=True)
    all_there.scores(tabled._matrix(piece))
    median = np.median([len(box.weights) for box in all_there._boxes.values()])
    monkeypatch.setattr(making, "_MAX_CELLS", median)
    tabled = engines._Tabled(loaded, Tables(forest, 10**9), has_refused=True)
    expected = loaded.engine.predict(piece.plain())
    found = tabled.predict(piece)
    assert [v.tolist() for v in found.values()] == [v.tolist() for v in expected.values()]
    assert tabled._tables is not None
    _, left, _ = tabled._tables.scores(tabled._matrix(piece))
    assert 0 < len(left) < N_ROWS


def test_a_wide_forest_is_left_to_the_engine(tmp_path: Any):
    frame = pd.DataFrame(RANDOM.normal(size=(5000, 70)), columns=[f"x{i}" for i in range(70)])
    frame[RANDOM.random(frame.shape) < 0.002] = np.nan
    sample = frame[:200]
    model = RandomForestRegressor(6, max_features=5, random_state=0).fit(
        sample, sample["x0"].fillna(0)
    )
    folder = pack(model, tmp_path, name="m", version="1", data=sample, output={"name": "y"})
    forest, loaded = read_forest((folder / GRAPH).read_bytes()), loading.load(Artifact(folder))
    assert forest is not None
    tabled = engines._Tabled(loaded, Tables(forest, 10**9), has_refused=True)
    piece = Piece(np.arange(5000), {name: frame[name].to_numpy() for name in frame})
    expected = loaded.engine.predict(piece.plain())
    assert tabled._tables is not None
    assert tabled._tables._nowhere <= tables._MAX_WITH_MISSING
    assert tabled.predict(piece)["value"].tolist() == expected["value"].tolist()
    assert tabled._tables is None  # each tree would need more cells than there are rows


def test_places_of_more_than_16_bits_are_the_same(artifact: Any, monkeypatch: pytest.MonkeyPatch):
    forest = read_forest(artifact.read(GRAPH))
    assert forest is not None
    matrix = RANDOM.normal(size=(500, 5))
    expected, left, _ = Tables(forest, 10**9).scores(matrix)
    for module in (making, shelf, tables):
        monkeypatch.setattr(module, "place_type", lambda n_cells: np.uint32)
    assert len(left) == 0
    assert Tables(forest, 10**9).scores(matrix)[0].tolist() == expected.tolist()


def test_what_is_no_forest_on_the_inputs_has_no_tables(
    tmp_path: Any, customers: pd.DataFrame, repository: Callable[..., Any]
):
    model = LogisticRegression().fit(customers[["tenure_months"]], customers["churn"])
    folder = pack(
        model, tmp_path, name="m", version="1", data=customers, target="churn",
    )  # fmt: skip
    assert read_forest((folder / GRAPH).read_bytes()) is None
