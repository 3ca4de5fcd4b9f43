"""What a library takes in place of a request's values: a DataFrame or array as in training, or for
a booster alone what is cheaper to make and holds the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tabserve.errors import MissingExtra
from tabserve.feature import Feature
from tabserve.lowered import ROUNDED, Lowered
from tabserve.signature import Signature
from tabserve.types import Array, Columns, Values

try:
    import pandas as pd
except ImportError:
    raise MissingExtra("pandas", "sklearn") from None

# Makes the rows of one call.
Inputs = Callable[[Values], Any]

# Dtypes that need no pandas Series, which takes 100 µs to make.
_NUMPY_DTYPES = frozenset(
    {
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64",
    }
)  # fmt: skip

# Columns from which a DataFrame out of one array is worth the check: out of single columns it takes
# 25 µs for each.
_WIDE = 32

_WITHOUT_CODES = Lowered(vocabularies={}, links=())


def of_model(signature: Signature) -> Inputs:
    return lambda values: frame_or_array(signature, signature.arrays(values))


def of_booster(signature: Signature, texts: frozenset[int] | None) -> Inputs:
    """A DataFrame takes 500 µs to make, and CatBoost as long to read.

    texts: see `boosters.Predictor`.
    """
    if texts and _fits_objects(signature, texts):
        return partial(_objects, signature, texts)
    if not texts and _has_only_numbers(signature):
        return partial(_WITHOUT_CODES.matrix, signature)
    return of_model(signature)


def frame_or_array(signature: Signature, columns: Columns) -> Any:
    """What the model takes: a DataFrame, or an array, in the order and dtypes of its training."""
    if signature.layout == "text":
        (texts,) = columns.values()
        return texts
    given = {
        feature.name: _as_trained(feature, columns[feature.name]) for feature in signature.features
    }
    if signature.layout == "array":
        return np.column_stack(list(given.values()))
    return _frame(given)


def _has_only_numbers(signature: Signature) -> bool:
    """Whether a matrix of doubles holds what a DataFrame would."""
    return all(
        feature.type not in ("string", "datetime") and feature.dtype not in ("category", "object")
        for feature in signature.features
    )


def _fits_objects(signature: Signature, texts: frozenset[int]) -> bool:
    """Whether Python's own values are to the booster what those of a DataFrame are. The places of
    categories are none, and an integer that may be missing is a float.
    """
    return all(
        feature.type == "string"
        or (feature.type in ("integer", "boolean") and not feature.nullable)
        if place in texts
        else feature.type in ("integer", "number", "boolean") and feature.dtype != "category"
        for place, feature in enumerate(signature.features)
    )


def _objects(signature: Signature, texts: frozenset[int], values: Values) -> Array:
    """Shape (n_rows, n_features), of Python's own values."""
    columns = []
    for place, feature in enumerate(signature.features):
        column = values[feature.name]
        if place not in texts and feature.type != "boolean":
            column = _float32(feature, column)
        columns.append(column.tolist() if isinstance(column, np.ndarray) else column)
    return np.array(columns, dtype=object).T


def _float32(feature: Feature, column: Any) -> Array:
    """As the booster rounds a DataFrame's column: an integer at once, not as a double first."""
    array = column if isinstance(column, np.ndarray) else feature.array(column)
    if feature.dtype in ROUNDED:
        array = array.astype(ROUNDED[feature.dtype])
    return array.astype(np.float32)


def _frame(columns: dict[str, Any]) -> Any:
    if len(columns) >= _WIDE:
        dtypes = {getattr(column, "dtype", None) for column in columns.values()}
        if len(dtypes) == 1 and all(isinstance(c, np.ndarray) for c in columns.values()):
            return pd.DataFrame(np.stack(list(columns.values())).T, columns=list(columns))
    return pd.DataFrame(columns, copy=False)


def _as_trained(feature: Feature, column: Array) -> Any:
    """The column in its dtype of the training data: float32, say, rounds before a scaler does."""
    if feature.dtype == "category":
        return pd.Series(column, dtype=pd.CategoricalDtype(list(feature.categories or ())))
    if feature.dtype == "object" or (feature.dtype == "bool" and feature.nullable):
        objects = column.astype(object)
        objects[pd.isna(objects)] = np.nan if feature.missing == "nan" else None
        return pd.Series(objects, dtype=object)
    if feature.type == "datetime":
        dates = pd.Series(column)
        is_local = "," in feature.dtype  # datetime64[ns, Europe/Berlin]
        return (dates.dt.tz_localize("UTC") if is_local else dates).astype(feature.dtype)
    if feature.dtype not in _NUMPY_DTYPES:
        return pd.Series(column, dtype=feature.dtype)
    if feature.type == "integer" and np.isnan(column).any():
        return column  # float64, as pandas itself reads integers some of which are missing
    return column.astype(feature.dtype, copy=False)
