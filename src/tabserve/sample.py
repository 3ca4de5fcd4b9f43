"""A sample of data as a fitted model takes it: which columns, in which order, as what."""

from typing import Any, Literal

import numpy as np

from tabserve.errors import MissingExtra, PackError
from tabserve.signature import Signature
from tabserve.types import Columns

try:
    import pandas as pd
except ImportError:
    raise MissingExtra("pandas", "sklearn") from None

Layout = Literal["frame", "array", "text"]

_VECTORIZERS = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


def model_input(model: Any, data: Any) -> Any:
    """The columns of the sample that the model takes, in its order, as a DataFrame.

    Raises PackError where the sample lacks one.
    """
    if takes_text(model):
        return _texts(model, data)
    sample = data if isinstance(data, pd.DataFrame) else framed(data, fitted_names(model, []))
    names = fitted_names(model, list(sample.columns))
    if sample.shape[0] == 0:
        raise PackError("The sample data has no rows.")
    repeated = sorted(set(map(str, sample.columns[sample.columns.duplicated()])))
    if repeated:
        raise PackError(f"The sample data has several columns named {', '.join(repeated)}.")
    if names is None:
        expected = getattr(model, "n_features_in_", sample.shape[1])
        if sample.shape[1] != expected:
            raise PackError(
                f"The model takes {expected} columns and the sample has {sample.shape[1]}: "
                f"{', '.join(map(str, sample.columns))}. Name the target with --target, and leave "
                "out what the model does not take."
            )
        return sample.rename(columns=str)
    missing = [name for name in names if name not in sample.columns]
    if missing:
        raise PackError(
            f"The sample data lacks the column(s) {', '.join(missing)}, which the model was "
            f"fitted on; it has {', '.join(map(str, sample.columns))}."
        )
    return sample[names]


def takes_text(model: Any) -> bool:
    """Whether it takes a series of texts, and not rows of columns."""
    while hasattr(model, "steps"):
        model = model.steps[0][1]
    return type(model).__name__ in _VECTORIZERS


def _texts(model: Any, data: Any) -> Any:
    if isinstance(data, pd.DataFrame):
        if data.shape[1] != 1:
            raise PackError(
                f"The {type(model).__name__} takes one column of text, and the sample has "
                f"{', '.join(map(str, data.columns))}. Name the target with --target, and leave "
                "out what the model does not take."
            )
        return data.rename(columns=str)
    texts = pd.Series(data)
    return texts.to_frame("text" if texts.name is None else str(texts.name))


def fitted_names(model: Any, columns: list[Any]) -> list[Any] | None:
    """The columns that the model was fitted on; None where it was an array.

    columns: of the sample, whose spaces LightGBM keeps as underscores.
    """
    names = getattr(model, "feature_names_in_", None)
    if names is None and type(model).__module__.startswith("catboost."):
        names = model.feature_names_
        # An array's columns are named by their places.
        names = None if list(names) == [str(i) for i in range(len(names))] else names
    if names is not None and type(model).__module__.startswith("lightgbm."):
        own = {str(column).replace(" ", "_"): column for column in columns}
        names = [own.get(name, name) for name in names]
    return None if names is None else list(names)


def framed(data: Any, names: list[Any] | None = None) -> Any:
    """An array as a DataFrame. names: of its columns, x0, x1 and so on where left out."""
    array = np.asarray(data)
    if array.ndim != 2:
        raise PackError(f"Expected sample data of two dimensions, got the shape {array.shape}.")
    if names is None:
        names = [f"x{i}" for i in range(array.shape[1])]
    return pd.DataFrame(array, columns=list(names))


def layout_of(model: Any, data: Any) -> Layout:
    """How the model takes its input: by scikit-learn's own record of what it was fitted on, and as
    the sample comes where an estimator of the user's keeps none.
    """
    if takes_text(model):
        return "text"
    if fitted_names(model, []) is not None:
        return "frame"
    recorded = hasattr(model, "n_features_in_")
    return "frame" if isinstance(data, pd.DataFrame) and not recorded else "array"


def columns_of(rows: Any, signature: Signature) -> Columns:
    """rows: with the features' columns, as a DataFrame."""
    return {
        feature.name: feature.array(
            rows[feature.name].astype(object).where(rows[feature.name].notna(), None).tolist()
        )
        for feature in signature.features
    }
