"""Functions of a user's, which are models."""

from typing import Any

import numpy as np
from pydantic import BaseModel


def doubled(columns: dict[str, Any]) -> Any:
    return 2 * columns["age"] + np.nan_to_num(columns["income"])


async def described(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"group": "old" if age > 50 else "jung", "where": f"{city}!"[-1] == "!", "age": age / 3}
        for age, city in zip(columns["age"], columns["city"], strict=True)
    ]


def recorded(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of numpy's scalars, as its loops and pandas' rows give them."""
    return [
        {"old": age > 50, "years": np.int64(age), "half": np.float32(age / 2), "as": np.str_(age)}
        for age in columns["age"]
    ]


class Scaled:
    """Made once, when it is loaded."""

    def __init__(self) -> None:
        self.factor = 3

    def predict(self, columns: dict[str, Any]) -> dict[str, Any]:
        return {"a": columns["age"] * self.factor, "b": columns["member"]}


def days_since(rows: Any) -> Any:
    """Of columns of dates, numbers."""
    return rows.apply(
        lambda dates: (dates - np.datetime64("2020-01-01")).dt.total_seconds() / 86400
    )


class Line(BaseModel):
    """A request class for the model of `lines`."""

    x: float
    note: str | None = None
