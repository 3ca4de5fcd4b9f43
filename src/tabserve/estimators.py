"""What a fitted scikit-learn model is made of. None of the library is imported for it."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def estimators(model: Any, closed: frozenset[str] = frozenset()) -> Iterator[Any]:
    """The model and every fitted estimator inside it, however deep; of those whose type's name is
    in `closed`, none inside.
    """
    seen: set[int] = set()
    stack = [model]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple):
            stack.extend(value)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            stack.extend(value.flat)
        elif hasattr(value, "get_params") and not isinstance(value, type):
            yield value
            if type(value).__name__ not in closed:
                stack.extend(vars(value).values())
        elif type(value).__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
            stack.extend(vars(value).values())  # such as _CalibratedClassifier


def chosen(model: Any) -> Any:
    """What a search of scikit-learn's found: it predicts as the search does, without the search's
    own records.
    """
    return getattr(model, "best_estimator_", model) if is_sklearns(type(model)) else model


def final_estimator(model: Any) -> Any:
    """What a pipeline or a search of scikit-learn's hands its work to in the end. A class of the
    user's may do anything on the way.
    """
    while is_sklearns(type(model)):
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "steps"):
            model = model.steps[-1][1]
        else:
            break
    return model


def is_sklearns(kind: type) -> bool:
    """Not a class of the user's that has the same name."""
    return kind.__module__.startswith("sklearn.")
