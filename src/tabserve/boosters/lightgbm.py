"""LightGBM: its text format, and Booster.predict."""

import re
from typing import Any

import numpy as np

from tabserve.artifact import Exactness
from tabserve.errors import MissingExtra, WrongFormat
from tabserve.types import Array

try:
    import lightgbm
    from sklearn.preprocessing import LabelEncoder
except ImportError as error:
    raise MissingExtra(error.name or "lightgbm", "lightgbm") from None

VERSION = str(lightgbm.__version__)

_CLASSIFIES = frozenset({"binary", "multiclass", "multiclassova"})

# Of the objectives, by the names in the file: the wrapper has several for each.
_WITHOUT_EXP = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})


def read(suffix: str, content: bytes) -> Any:
    if not content.startswith(b"tree\n"):
        raise WrongFormat("a model of LightGBM, which begins with the line tree")
    booster = lightgbm.Booster(model_str=content.decode())
    objective = _objective(content.decode())
    model = lightgbm.LGBMClassifier() if objective in _CLASSIFIES else lightgbm.LGBMRegressor()
    names = booster.feature_name()
    # What `fit` leaves in the wrapper: LightGBM has no call that does this.
    fitted: dict[str, Any] = {
        "_Booster": booster,
        "_objective": objective,
        "_n_features": len(names),
        "_n_features_in": len(names),
        "_fitted_with_feature_names": names != [f"Column_{i}" for i in range(len(names))],
        "fitted_": True,
    }
    if objective in _CLASSIFIES:
        encoder = LabelEncoder().fit(np.arange(max(2, booster.num_model_per_iteration())))
        classes = encoder.classes_
        fitted |= {"_le": encoder, "_classes": classes, "_n_classes": len(classes)}
    for name, value in fitted.items():
        setattr(model, name, value)
    return model


def content_of(booster: Any) -> bytes:
    text: str = booster.model_to_string()
    return text.encode()


def dump(model: Any) -> bytes:
    """Up to the best iteration, where training stopped early."""
    return content_of(model.booster_)


def exactness_of(model: Any) -> Exactness:
    objective = _objective(model.booster_.model_to_string(num_iteration=1))
    return "bits" if objective in _WITHOUT_EXP else "close"


def _objective(text: str) -> str:
    found = re.search(r"^objective=(\w+)", text, re.MULTILINE)
    return found[1] if found else "none"


def categories(model: Any) -> list[list[Any]]:
    """Of all columns none, where the file does not say which of them have categories."""
    listed = model.booster_.pandas_categorical or []
    text = model.booster_.model_to_string(num_iteration=1)
    found = re.search(r"^feature_infos=(.*)$", text, re.MULTILINE)
    infos = found[1].split(" ") if found else []
    # A range of numbers, categories by their places, or nothing of a column that never changed.
    coded = [info != "none" and not info.startswith("[") for info in infos]
    if sum(coded) != len(listed):
        return []
    of_coded = iter(listed)
    return [next(of_coded) if is_coded else [] for is_coded in coded]


class Predictor:
    label_is_argmax = True
    texts = None

    def __init__(self, content: bytes, classes: Array | None) -> None:
        self._booster = lightgbm.Booster(model_str=content.decode())
        self._classes = classes

    def prepared(self, rows: Any) -> Any:
        return rows

    def predict(self, rows: Any) -> Array:
        if self._classes is None:
            return self._answer(rows)
        labels: Array = self._classes[self.predict_proba(rows).argmax(axis=1)]
        return labels

    def predict_proba(self, rows: Any) -> Array:
        answer = self._answer(rows)
        return answer if answer.ndim == 2 else np.stack([1.0 - answer, answer], axis=1)

    def _answer(self, rows: Any) -> Array:
        return np.asarray(self._booster.predict(rows))
