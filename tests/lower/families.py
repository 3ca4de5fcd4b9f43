"""Data that lowered estimators are tried on."""

from typing import Any

import numpy as np
import pandas as pd

random = np.random.default_rng(0)
NARROW = pd.DataFrame(random.normal([0, 30, -2], [1, 9, 0.1], (150, 3)), columns=["a", "b", "c"])
WIDE = pd.DataFrame(random.normal(2, 3, (120, 20)), columns=[f"x{i}" for i in range(20)])
SHAPES = {"narrow": NARROW, "wide": WIDE}


def value_of(rows: pd.DataFrame) -> Any:
    """Above 0."""
    noise = np.random.default_rng(1).normal(0, 0.1, len(rows))
    value = (rows.iloc[:, 0] + np.sin(rows.iloc[:, 1]) + noise).to_numpy()
    return value - value.min() + 1


def values_of(rows: pd.DataFrame) -> Any:
    value = value_of(rows)
    return np.stack([value, value**2, -value], axis=1)


def classes_of(rows: pd.DataFrame, kind: str) -> Any:
    """kind: of two classes "numbers", "text" or "booleans", or "three"."""
    value = value_of(rows)
    if kind == "three":
        third = np.digitize(value, np.quantile(value, [0.3, 0.6]))
        return np.array(["low", "mid", "top"])[third]
    two = np.median(value) < value
    if kind == "booleans":
        return two
    return np.where(two, "yes", "no") if kind == "text" else np.where(two, 7, 3)


KINDS = ["numbers", "text", "booleans", "three"]
