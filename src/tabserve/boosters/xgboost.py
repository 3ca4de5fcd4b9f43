"""XGBoost: .ubj, and Booster.inplace_predict."""

import json
from typing import Any

import numpy as np

from tabserve.artifact import Exactness
from tabserve.boosters.ubj import listed_categories
from tabserve.errors import MissingExtra, PackError, WrongFormat
from tabserve.types import Array

try:
    import xgboost
except ImportError as error:
    raise MissingExtra(error.name or "xgboost", "xgboost") from None

VERSION = str(xgboost.__version__)

# An attribute in the file: the wrapper knows what stands for a missing value, its booster does not.
_MISSING = "tabserve_missing"


def read(suffix: str, content: bytes) -> Any:
    # {" or { and white space; UBJSON has a type after the brace.
    is_json = content[:1] == b"{" and content[1:2] in (b'"', b" ", b"\n", b"\r", b"\t")
    if content[:1] != b"{" or is_json != (suffix == ".json"):
        raise WrongFormat("a model of XGBoost in " + ("JSON" if suffix == ".json" else "UBJSON"))
    booster = xgboost.Booster(model_file=bytearray(content))
    objective = _configuration(booster)["objective"]["name"]
    if objective == "multi:softmax":
        # The same trees: it answers the place of the largest probability.
        booster.set_param({"objective": "multi:softprob"})
    booster.set_attr(scikit_learn=None)  # of whatever wrapper wrote it
    is_classifier = objective.startswith("multi:") or objective == "binary:logistic"
    model = xgboost.XGBClassifier() if is_classifier else xgboost.XGBRegressor()
    model.load_model(bytearray(booster.save_raw("ubj")))
    missing = booster.attr(_MISSING)
    if missing is not None:  # a file out of an artefact
        model.missing = float(missing)
    return model


def content_of(booster: Any) -> bytes:
    return bytes(booster.save_raw("ubj"))


def dump(model: Any) -> bytes:
    booster = model.get_booster().copy()
    if _configuration(booster)["objective"]["name"] == "multi:softmax":
        raise PackError("XGBoost's multi:softmax has no probabilities; fit it with multi:softprob.")
    booster.set_attr(**{_MISSING: repr(float(model.missing))})
    return bytes(booster.save_raw("ubj"))


def exactness_of(model: Any) -> Exactness:
    return "bits"


def categories(model: Any) -> list[list[Any]]:
    booster = json.loads(model.get_booster().save_raw("json"))["learner"]["gradient_booster"]
    return listed_categories(booster.get("gbtree", booster).get("model", {}))


class Predictor:
    label_is_argmax = True
    texts = None

    def __init__(self, content: bytes, classes: Array | None) -> None:
        self._booster = xgboost.Booster(model_file=bytearray(content))
        self._classes = classes
        self._missing = float(self._booster.attr(_MISSING) or "nan")
        best = self._booster.attr("best_iteration")
        self._iterations = (0, 0 if best is None else int(best) + 1)
        booster = _configuration(self._booster)["gradient_booster"]["name"]
        self._is_linear = booster == "gblinear"

    def prepared(self, rows: Any) -> Any:
        return rows

    def predict(self, rows: Any) -> Array:
        if self._classes is None:
            return self._answer(rows)
        labels: Array = self._classes[self.predict_proba(rows).argmax(axis=1)]
        return labels

    def predict_proba(self, rows: Any) -> Array:
        answer = self._answer(rows)
        return answer if answer.ndim == 2 else np.stack([1 - answer, answer], axis=1)

    def _answer(self, rows: Any) -> Array:
        answer: Array
        if self._is_linear:
            matrix = xgboost.DMatrix(rows, missing=self._missing)
            answer = self._booster.predict(matrix, validate_features=False)
        else:
            answer = self._booster.inplace_predict(
                rows,
                iteration_range=self._iterations,
                missing=self._missing,
                validate_features=False,
            )
        return answer


def _configuration(booster: Any) -> dict[str, Any]:
    learner: dict[str, Any] = json.loads(booster.save_config())["learner"]
    return learner
