from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tabserve
from tabserve.errors import ScoreError
from tests.scoring.conftest import FEATURES, read, records, write

KEPT: dict[str, tuple[list[Any], Any]] = {
    "id": ([1, 2**62, None, -3], pa.int64()),
    "share": ([1, 0.1, None, 1e300], pa.float64()),
    "flag": ([True, False, None, None], pa.bool_()),
    "word": (["a", "1", "", None], pa.string()),
    "mixed": ([1, "a", [1, {"b": None}], None], pa.string()),
    "inexact": ([2**60 + 1, 0.5, None, None], pa.string()),
    "nothing": ([None] * 4, pa.string()),
}


@pytest.fixture
def source(customers: pd.DataFrame, tmp_path: Path) -> Path:
    rows = records(customers[FEATURES][:4])
    for name, (values, _) in KEPT.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    path = tmp_path / "in.ndjson"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


@pytest.fixture
def kept(customers: pd.DataFrame, tmp_path: Path) -> Callable[[Any], Path]:
    """A file of three customers with a column `kept`."""

    def written(column: Any) -> Path:
        table = pa.Table.from_pandas(customers[FEATURES][:3], preserve_index=False)
        pq.write_table(table.append_column("kept", column), tmp_path / "in.parquet")
        return tmp_path / "in.parquet"

    return written


def test_kept_values_of_ndjson_stay_what_they_are(score: Any, source: Path, tmp_path: Path):
    score(source, tmp_path / "out.ndjson", keep=tuple(KEPT), chunk=1)
    for name, (values, _) in KEPT.items():
        assert [line[name] for line in read(tmp_path / "out.ndjson")] == values


def test_kept_columns_have_the_type_of_all_their_values(score: Any, source: Path, tmp_path: Path):
    score(source, tmp_path / "out.parquet", keep=tuple(KEPT), chunk=1)
    table = pq.read_table(tmp_path / "out.parquet")
    for name, (values, kind) in KEPT.items():
        if kind == pa.string():
            values = [
                v if v is None or isinstance(v, str) else orjson.dumps(v).decode() for v in values
            ]
        assert (table[name].type, table[name].to_pylist()) == (kind, values)


def test_a_feature_can_be_kept_too(score: Any, source: Path, customers: Any, tmp_path: Path):
    others = tuple(KEPT)
    report = score(source, tmp_path / "out.parquet", keep=("tenure_months", *others))
    assert report.n_scored == 4
    found = pq.read_table(tmp_path / "out.parquet")["tenure_months"].to_pylist()
    assert found == customers["tenure_months"][:4].tolist()


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_bytes_that_are_text_are_kept_as_text(suffix: str, score: Any, kept: Any, tmp_path: Path):
    out = tmp_path / f"out.{suffix}"
    score(kept(pa.array([b"a", None, "ü".encode()])), out, keep=("kept",))
    found = [line["kept"] for line in read(out)]
    assert found == (["a", None, "ü"] if suffix == "ndjson" else ["a", "", "ü"])
    with pytest.raises(
        ScoreError, match=r"^Column kept holds bytes that are no UTF-8 text: name OUT"
    ):
        score(kept(pa.array([b"a", None, b"\xff"])), tmp_path / f"no.{suffix}", keep=("kept",))


def test_what_csv_cannot_hold_is_refused_before_a_row_is_scored(
    score: Any, kept: Any, tmp_path: Path
):
    out = tmp_path / "out.csv"
    with pytest.raises(ScoreError, match=r"^A CSV cannot hold column kept, which is of type list<"):
        score(kept(pa.array([[1], None, []])), out, keep=("kept",))
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "parquet"])
def test_what_the_api_warns_of_is_written(
    suffix: str, score: Any, pipeline: Any, customers: pd.DataFrame, tmp_path: Path
):
    declared = tmp_path / "signature.toml"
    declared.write_text('[features.monthly_charges]\nrange = "warn"\nmaximum = 100\n')
    tabserve.pack(
        pipeline, tmp_path / "m", name="m", version="1", data=customers, target="churn",
        signature=declared,
    )  # fmt: skip
    some = customers[FEATURES][:70].assign(monthly_charges=50.0)
    some.loc[66, "monthly_charges"] = 100.5
    out = tmp_path / f"out.{suffix}"
    score(write(some, tmp_path / "in.parquet"), out, tmp_path / "m")

    told = {line["row"]: line.get("warnings") for line in read(out)}
    found = {row: value for row, value in told.items() if value}
    found = {row: orjson.loads(v) if isinstance(v, str) else v for row, v in found.items()}
    (warning,) = found[66]
    assert (list(found), warning["loc"]) == ([66], ["body", "monthly_charges"])
    assert warning["type"] == "out_of_range"
    assert suffix != "ndjson" or "warnings" not in read(out)[0]
