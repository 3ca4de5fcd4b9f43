"""What a fitted model answers, as it shows by its classes and its tags."""

from typing import Any

import numpy as np

from tabserve.errors import MissingExtra, PackError
from tabserve.output import Label, Target
from tabserve.signature import Scalar

try:
    import pandas as pd
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None


def targets_of(model: Any, inputs: Any, target: Any | None) -> tuple[Target, ...]:
    """inputs: rows as the model takes them; what it answers shows how many outputs it has.
    target: the sample's target, whose column names name several outputs.
    """
    if not hasattr(model, "predict") and hasattr(model, "transform"):
        return _transformed(model, inputs)
    if hasattr(model, "predict") and is_outlier_detector(model):
        has_score = hasattr(model, "decision_function") or hasattr(model, "score_samples")
        return (Target(kind="classes", classes=(-1, 1), has_score=has_score),)
    if hasattr(model, "predict") and (is_clusterer(model) or _mixed(model)):
        has_proba = hasattr(model, "predict_proba")
        return (Target(kind="classes", classes=_groups(model), has_proba=has_proba),)
    if not (is_classifier(model) or is_regressor(model)):
        raise PackError(
            f"Expected a classifier, a regressor, a clusterer, an outlier detector or a "
            f"transformer, got {type(model).__name__}, which has no predict and no transform for "
            "new rows, or does not say by its tags what it is."
        )
    predicted = np.asarray(model.predict(inputs))
    width = 1 if predicted.ndim == 1 else predicted.shape[1]
    names = _names(target, width)
    if is_regressor(model):
        return tuple(Target(name=name, kind="number") for name in names)
    classes = model.classes_ if isinstance(model.classes_, list) else [model.classes_]
    if len(classes) != width:
        raise PackError(
            f"{type(model).__name__} answers {width} labels at once with one list of classes; "
            "fit a MultiOutputClassifier, which has classes and probabilities for each."
        )
    has_proba = hasattr(model, "predict_proba")
    return tuple(
        Target(name=name, kind="classes", classes=_labels(values), has_proba=has_proba)
        for name, values in zip(names, classes, strict=True)
    )


def text_classes(model: Any) -> tuple[Scalar, ...]:
    """The labels that the model knows, where they are text."""
    classes = np.asarray(getattr(model, "classes_", ()), dtype=object).tolist()
    return tuple(classes) if all(isinstance(label, str) for label in classes) else ()


def _transformed(model: Any, inputs: Any) -> tuple[Target, ...]:
    transformed = model.transform(inputs)
    width = transformed.shape[1] if transformed.ndim > 1 else 1
    try:
        names = [str(name) for name in model.get_feature_names_out()]
    except (AttributeError, ValueError, TypeError):  # a step of the user's may have none
        names = []
    if len(names) != width:
        names = [f"output_{i}" for i in range(width)]
    return tuple(Target(name=name, kind="number") for name in names)


def _groups(model: Any) -> tuple[Label, ...]:
    """The places of clusters."""
    final = final_step(model)
    centres = getattr(final, "cluster_centers_", None)
    if _mixed(model):
        return tuple(range(final.n_components))
    if centres is None:
        raise PackError(f"{type(final).__name__} keeps no centres that say how many clusters are.")
    return tuple(range(len(centres)))


def _mixed(model: Any) -> bool:
    """A mixture of distributions, each of which is a cluster."""
    return type(final_step(model)).__name__ in ("GaussianMixture", "BayesianGaussianMixture")


def final_step(model: Any) -> Any:
    while hasattr(model, "steps"):
        model = model.steps[-1][1]
    return model


def _labels(classes: Any) -> tuple[Any, ...]:
    return tuple(np.asarray(classes).tolist())


def _names(target: Any | None, width: int) -> list[str]:
    if width == 1:
        return [""]
    if isinstance(target, pd.DataFrame) and target.shape[1] == width:
        return [str(name) for name in target.columns]
    return [f"output_{i}" for i in range(width)]
