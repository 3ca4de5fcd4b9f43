"""Training metrics of a model, each with the name of the data set that it was measured on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from tabserve.artifact import Metric
from tabserve.errors import MissingExtra, PackError
from tabserve.output import Target
from tabserve.types import Outputs

try:
    import sklearn.metrics
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None


def given(metrics: Mapping[str, Mapping[str, float]]) -> list[Metric]:
    try:
        return [
            Metric(name=name, value=value, data=data)
            for data, values in metrics.items()
            for name, value in values.items()
        ]
    except (ValidationError, AttributeError):
        raise PackError(
            'Expected metrics as {"data set": {"metric": number}}, each number finite, got '
            f"{metrics!r}."
        ) from None


def measure(outputs: Outputs, truth: Any, target: Target, data_name: str) -> list[Metric]:
    """outputs: all that the model says of the sample."""
    try:
        values = _metrics(outputs, np.asarray(truth), target)
    except ValueError as error:
        hint = ""
        if target.kind == "classes" and not {*np.ravel(truth).tolist()} <= {*target.classes}:
            known = ", ".join(map(str, target.classes))
            hint = (
                f" The classes of the model are {known}: name them as the target does, for a "
                "booster with tabserve pack --classes, or leave out the target."
            )
        raise PackError(
            f"The model cannot be measured on the target: {str(error).rstrip('.')}.{hint}"
        ) from error
    return [Metric(name=name, value=float(value), data=data_name) for name, value in values.items()]


def _metrics(outputs: Outputs, truth: Any, target: Target) -> dict[str, float]:
    score = sklearn.metrics
    if target.kind == "number":
        predicted = outputs[target.part("value")]
        errors = {
            "mean_absolute_error": score.mean_absolute_error(truth, predicted),
            "root_mean_squared_error": score.root_mean_squared_error(truth, predicted),
        }
        # r2 is not defined for one row.
        return errors if len(truth) < 2 else {"r2": score.r2_score(truth, predicted)} | errors
    predicted = np.array(outputs[target.part("label")].tolist())
    values = {"accuracy": score.accuracy_score(truth, predicted)}
    positive = truth == target.classes[-1]
    if target.has_proba and len(target.classes) == 2 and 0 < positive.sum() < len(truth):
        proba = outputs[target.part("proba")][:, 1]
        values["roc_auc"] = score.roc_auc_score(positive, proba)
        values["brier_score"] = score.brier_score_loss(positive, proba)
    return values
