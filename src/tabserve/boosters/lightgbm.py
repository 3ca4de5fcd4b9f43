"""LightGBM: its text format, and Booster.predict."""

import re
from typing import Any

import numpy as np

from tabserve.artifact import Exactness
from tabserve.errors import MissingExtra
from tabserve.types import Array

try:
    import lightgbm
except ImportError as error:
    raise MissingExtra(error.name or "lightgbm", "lightgbm") from None

VERSION = str(lightgbm.__version__)

# Of the objectives, by the names in the file: the wrapper has several for each.
_WITHOUT_EXP = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})


def dump(model: Any) -> bytes:
    """Up to the best iteration, where training stopped early."""
    text: str = model.booster_.model_to_string()
    return text.encode()


def exactness_of(model: Any) -> Exactness:
    text = model.booster_.model_to_string(num_iteration=1)
    objective = re.search(r"^objective=(\w+)", text, re.MULTILINE)
    return "bits" if objective and objective[1] in _WITHOUT_EXP else "close"


class Predictor:
    label_is_argmax = True

    def __init__(self, content: bytes, classes: Array | None) -> None:
        self._booster = lightgbm.Booster(model_str=content.decode())
        self._classes = classes

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
