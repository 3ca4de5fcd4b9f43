"""CatBoost: .cbm, and its own predict on an array."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tabserve.artifact import Exactness
from tabserve.errors import MissingExtra, WrongFormat
from tabserve.types import Array

try:
    import catboost
except ImportError as error:
    raise MissingExtra(error.name or "catboost", "catboost") from None

VERSION = str(catboost.__version__)

_WITHOUT_EXP = frozenset(
    {"RMSE", "MAE", "Quantile", "MAPE", "Huber", "Lq", "Expectile", "MultiRMSE", "MultiQuantile"}
)

_CLASSIFIES = frozenset(
    {
        "Logloss", "CrossEntropy", "Focal", "MultiClass", "MultiClassOneVsAll", "MultiLogloss",
        "MultiCrossEntropy",
    }
)  # fmt: skip

# What the wrapper's `predict` gives where that is no raw score, by the loss.
_ANSWERS = {
    "Poisson": "Exponent",
    "Tweedie": "Exponent",
    "RMSEWithUncertainty": "RMSEWithUncertainty",
}


def read(suffix: str, content: bytes) -> Any:
    if not content.startswith(b"CBM1"):
        raise WrongFormat("a model of CatBoost, which begins with CBM1")
    loss = _loss(catboost.CatBoost().load_model(blob=content))
    kind = catboost.CatBoostClassifier if loss in _CLASSIFIES else catboost.CatBoostRegressor
    # Which its `predict` does not ask the model for.
    return kind(loss_function=loss).load_model(blob=content)


def content_of(booster: Any) -> bytes:
    return dump(booster)


def dump(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.cbm")
        model.save_model(str(path), format="cbm")
        return path.read_bytes()


def exactness_of(model: Any) -> Exactness:
    return "bits" if _loss(model) in _WITHOUT_EXP else "close"


def _loss(model: Any) -> str:
    return str(model.get_all_params()["loss_function"]).partition(":")[0]


class Predictor:
    """With one thread: the workers are the parallelism."""

    label_is_argmax = False  # it decides on the raw score, with a threshold that may be set

    def __init__(self, content: bytes, classes: Array | None) -> None:
        kind = catboost.CatBoostRegressor if classes is None else catboost.CatBoostClassifier
        self._model = model = kind().load_model(blob=content)
        raw = "RawFormulaVal" if classes is None else "Class"
        self._answer = _ANSWERS.get(_loss(model), raw)
        # Asked once: in each call it would take 60 µs, as long as 1,000 trees for one row.
        self._kinds: dict[str, list[int]] = {
            "cat_features": model.get_cat_feature_indices(),
            "text_features": model.get_text_feature_indices(),
            "embedding_features": model.get_embedding_feature_indices(),
        }
        self.texts = frozenset(self._kinds["cat_features"] + self._kinds["text_features"])

    def prepared(self, rows: Any) -> Any:
        return catboost.Pool(rows, thread_count=1, **self._kinds)

    def predict(self, rows: Any) -> Array:
        return np.asarray(self._model.predict(rows, self._answer, thread_count=1))

    def predict_proba(self, rows: Any) -> Array:
        return np.asarray(self._model.predict_proba(rows, thread_count=1))
