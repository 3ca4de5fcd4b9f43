"""What a model of XGBoost's says in its file, read without XGBoost: lowering needs no more."""

from itertools import pairwise
from typing import Any


def listed_categories(model: dict[str, Any]) -> list[list[Any]]:
    """By feature, those of the DataFrame that it was fitted on, which XGBoost keeps since 3.1."""
    return [
        _texts(one["values"], one["offsets"]) if "offsets" in one else one["values"]
        for one in model.get("cats", {}).get("enc", [])
    ]


def _texts(values: list[int], offsets: list[int]) -> list[str]:
    content = bytes(value & 0xFF for value in values)
    return [content[start:end].decode() for start, end in pairwise(offsets)]
