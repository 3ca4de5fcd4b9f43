"""A model that takes 10 ms for each row: joining rows gains nothing, and no core is busy."""

import time
from pathlib import Path
from typing import Any

import pandas as pd

import tabserve

ROW_S = 0.010
RECORD = {"x": 1.5}


def predict(columns: dict[str, Any]) -> Any:
    time.sleep(ROW_S * len(columns["x"]))
    return 2 * columns["x"]


def packed(folder: Path) -> Path:
    """In a repository below the folder."""
    from benchmarks import slow_model  # a model's name has its module, which is not __main__

    rows = pd.DataFrame({"x": [0.5, 1.5, 2.5]})
    tabserve.pack(slow_model.predict, folder / "models", name="slow", version="1", data=rows)
    return folder / "models"
