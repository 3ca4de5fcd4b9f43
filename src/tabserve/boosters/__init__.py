"""Gradient boosting of other libraries, kept in their own file formats.

A booster is the fitted scikit-learn wrapper of XGBoost, LightGBM or CatBoost. Its predictor is what
the library's own file gives back: it answers what the wrapper does, from an array.
"""

import importlib
from typing import Any, Literal, Protocol

from tabserve.artifact import Exactness
from tabserve.errors import PackError
from tabserve.types import Array

BoosterFormat = Literal["ubj", "txt", "cbm"]

# What files of each library may be called. XGBoost reads two formats.
LIBRARIES = {
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".txt": "lightgbm",
    ".cbm": "catboost",
}

FORMATS: dict[str, BoosterFormat] = {"xgboost": "ubj", "lightgbm": "txt", "catboost": "cbm"}

_KINDS = frozenset(
    {
        "XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor",
        "LGBMClassifier", "LGBMRegressor", "CatBoostClassifier", "CatBoostRegressor",
    }
)  # fmt: skip


class Predictor(Protocol):
    """rows: what `prepared` makes, for all calls, of an array or of a DataFrame with categories, as
    the booster was fitted on.

    label_is_argmax: whether `predict` is the class with the largest probability.
    texts: places of the columns that it takes as text, in arrays of Python objects too; None where
    it takes none so.
    """

    label_is_argmax: bool
    texts: frozenset[int] | None

    def prepared(self, rows: Any) -> Any: ...

    def predict(self, rows: Any) -> Array: ...

    def predict_proba(self, rows: Any) -> Array: ...


def is_booster(model: Any) -> bool:
    """Not a class of the user's, which may do anything on the way."""
    return type(model).__name__ in _KINDS and _library_name(model) in FORMATS


def is_fitted(booster: Any) -> bool:
    """CatBoost has a name of its own for it."""
    own = hasattr(booster, "is_fitted")
    return bool(booster.is_fitted() if own else booster.__sklearn_is_fitted__())


def takes_classes(model: Any) -> bool:
    """Whether it is a classifier whose file keeps no names of classes."""
    is_named = type(model).__name__.endswith("Classifier")
    return is_booster(model) and is_named and _library_name(model) in ("xgboost", "lightgbm")


def split(model: Any) -> tuple[Any | None, Any | None]:
    """The scikit-learn steps and the booster that ends them; None where there are none."""
    if is_booster(model):
        return None, model
    is_pipeline = type(model).__module__.startswith("sklearn.") and hasattr(model, "steps")
    if is_pipeline and is_booster(model.steps[-1][1]):
        return model[:-1] if len(model.steps) > 1 else None, model.steps[-1][1]
    return model, None


def read(suffix: str, content: bytes) -> Any:
    """The scikit-learn wrapper of what a library's own file holds, as if it had been fitted: the
    file's objective tells whether it is a classifier. Classes without names are 0, 1, 2 and so on.

    Raises WrongFormat, MissingExtra, or whatever the library raises.
    """
    return _library(LIBRARIES[suffix]).read(suffix, content)


def wrapped(model: Any) -> Any:
    """A booster without a wrapper as one with it; anything else as it is."""
    name = _library_name(model)
    if type(model).__name__ not in ("Booster", "CatBoost") or name not in FORMATS:
        return model
    library = _library(name)
    return library.read(f".{FORMATS[name]}", library.content_of(model))


def dump(booster: Any) -> tuple[BoosterFormat, bytes]:
    """Raises PackError for what the library's file does not hold."""
    name = _library_name(booster)
    if callable(getattr(booster, "objective", None)):
        raise PackError(
            f"The {type(booster).__name__} has an objective of one's own, which is no part of "
            f"{name}'s file. Fit it with one of {name}'s."
        )
    return FORMATS[name], _library(name).dump(booster)


def load(format: BoosterFormat, content: bytes, classes: Array | None) -> Predictor:
    """classes: of a classifier, in the order of its probabilities.

    Raises MissingExtra where the library is not installed.
    """
    (name,) = (name for name, known in FORMATS.items() if known == format)
    predictor: Predictor = _library(name).Predictor(content, classes)
    return predictor


def versions(booster: Any) -> dict[str, str]:
    """By the library's name."""
    name = _library_name(booster)
    return {name: _library(name).VERSION}


def exactness_of(booster: Any) -> Exactness:
    """bits: of XGBoost all, in float32 and with an expf of its own; of the others what is a sum."""
    name = _library_name(booster)
    exactness: Exactness = _library(name).exactness_of(booster)
    return exactness


def categories(booster: Any) -> list[list[Any]]:
    """By feature, those of pandas' dtype `category` that it was fitted on, in their order; none of
    CatBoost, which takes text.
    """
    name = _library_name(booster)
    found: list[list[Any]] = [] if name == "catboost" else _library(name).categories(booster)
    return found


class BoostedPipeline:
    """The steps before a booster, computed by scikit-learn, and the booster by its own library."""

    def __init__(self, before: Any | None, predictor: Predictor) -> None:
        self.before = before
        self.predictor = predictor

    def prepared(self, inputs: Any) -> Any:
        """What the predictor takes."""
        rows = inputs if self.before is None else self.before.transform(inputs)
        return self.predictor.prepared(rows)


def _library_name(model: Any) -> str:
    return type(model).__module__.partition(".")[0]


def _library(name: str) -> Any:
    """The module beside this one. It imports the library, which only its users have."""
    return importlib.import_module(f"tabserve.boosters.{name}")
