import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tabserve import Service, scoring
from tests.conftest import NUMBERS
from tests.serving import Client, settings

FEATURES = [*NUMBERS, "contract_type"]


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        lines = [orjson.dumps(row) + b"\n" for row in records(frame)]
        path.write_bytes(b"".join(lines))
    return path


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return plain.to_dict(orient="records")


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".ndjson":
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]
    table = pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    return table.to_pylist()


@pytest.fixture
def score(repository: Path, tmp_path: Path) -> Callable[..., scoring.Progress]:
    """In one process more than the test's own, in chunks of 64 rows, from `in` to `out`."""

    def run(source: Path, out: Path, path: Path = repository, **told: Any) -> scoring.Progress:
        plan = scoring.Plan(str(path), source, out, **{"processes": 1, "chunk": 64} | told)
        return scoring.run(plan, lambda progress: None)

    return run


@pytest.fixture(scope="session")
def ask(repository: Path) -> Callable[[Any], Any]:
    """The API's answer to one record, or to a body of bytes."""
    service = Service(repository, settings=settings())
    service.wait()
    client = Client(service.fastapi())

    def answer(record: Any) -> Any:
        body = record if isinstance(record, bytes) else orjson.dumps(record)
        return client("POST", "/predict", body).json()

    return answer


def environment(**told: str) -> dict[str, str]:
    return dict(os.environ) | told
