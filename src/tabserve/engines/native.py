"""The native engine: the library that the model was fitted with computes it."""

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from tabserve import inputs
from tabserve.boosters import BoostedPipeline
from tabserve.cpus import usable_cpus
from tabserve.errors import BadModelOutput, InputProblem, InvalidInput
from tabserve.estimators import estimators, final_estimator, is_sklearns
from tabserve.output import Target
from tabserve.signature import Signature, unusable
from tabserve.types import Array, Outputs, Parts, Values, n_rows

# Rows from which several threads are worth their start. One row must have one thread: OpenMP's
# team meets at a barrier, and waits for whichever member has no core (seconds on busy cores).
ROWS_FOR_THREADS = 256

# Final estimators whose `predict` is, in their source, the class with the largest predict_proba;
# for any other both are called. Not KNeighborsClassifier: it breaks ties before it divides.
ARGMAX_CLASSIFIERS = frozenset(
    {
        "DecisionTreeClassifier",
        "ExtraTreeClassifier",
        "RandomForestClassifier",
        "ExtraTreesClassifier",
        "BaggingClassifier",
    }
)

# How scikit-learn begins to say that a step was given NaN or infinity.
# XGBoost says it as well, after a time and a place in its source.
_NOT_FINITE = re.compile("^Input (X )?contains (NaN|infinity)|Input data contains `inf`")

_OUTSIDE: InputProblem = {
    "loc": (),
    "msg": "The model finds a number outside of those that it takes",
    "type": "out_of_range",
}

# What scikit-learn says of values that a step within the model does not take, and of which the
# signature does not know.
_NOT_TAKEN: dict[str, InputProblem] = {
    "Found unknown categories": {
        "loc": (),
        "msg": "The model finds a category that it does not know",
        "type": "unknown_category",
    },
    "have missing values in transform but have no missing values in fit": {
        "loc": (),
        "msg": "The model finds a value missing where it takes none that is",
        "type": "missing_value",
    },
    "only be applied to strictly positive data": _OUTSIDE,
    "values beyond the limits of the knots": _OUTSIDE,
    "Negative values in data passed to": _OUTSIDE,
    "may not contain entries smaller than": _OUTSIDE,
}


class NativeEngine:
    """A fitted scikit-learn estimator or pipeline, or one that ends in a booster.

    parts: those of `Outputs` that answers need; no other is computed.
    workers: processes that share the CPUs that this one may use (affinity and cgroup); a large
    batch gets that share in threads of OpenMP and BLAS. `n_jobs` is set to 1.
    shortcuts: whether a label may be taken from probabilities that were computed anyway.
    """

    name = "native"
    reentrant = False  # the thread limit is one thread's

    def __init__(
        self,
        model: Any,
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
        workers: int = 1,
        shortcuts: bool = True,
    ) -> None:
        boosted = model if isinstance(model, BoostedPipeline) else None
        for estimator in estimators(model if boosted is None else boosted.before):
            if getattr(estimator, "n_jobs", 1) not in (None, 1):
                estimator.n_jobs = 1
        self._model = model if boosted is None else boosted.predictor
        self._prepared = None if boosted is None else boosted.prepared
        self._signature = signature
        self._inputs = (
            inputs.of_booster(signature, boosted.predictor.texts)
            if boosted is not None and boosted.before is None
            else inputs.of_model(signature)
        )
        self._targets = targets
        self._parts = parts
        self._wants_label = any(part.endswith("label") for part in parts)
        self._wants_proba = any(part.endswith("proba") for part in parts)
        final = type(final_estimator(model))
        self._label_is_argmax = (
            boosted.predictor.label_is_argmax
            if boosted is not None
            else shortcuts and is_sklearns(final) and final.__name__ in ARGMAX_CLASSIFIERS
        )
        predicts = hasattr(self._model, "predict")
        self._compute = self._model.predict if predicts else _transform(model)
        self._threads = _ThreadLimit(max(1, usable_cpus() // workers))

    def predict(self, values: Values) -> Outputs:
        """Raises InvalidInput where scikit-learn finds that a number is none any more: trees take
        float32, and a step of the model may take a logarithm.
        """
        self._threads.set_for(n_rows(values))
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                return self.outputs(self._inputs(values))
        except ValueError as error:
            told = str(error)
            problems = [problem for text, problem in _NOT_TAKEN.items() if text in told]
            if problems:
                raise InvalidInput(problems) from None
            if not _NOT_FINITE.search(told):
                raise
            raise unusable(self._signature.arrays(values)) from None

    def outputs(self, rows: Any) -> Outputs:
        """rows: the DataFrame or array that the model itself takes."""
        if self._prepared is not None:
            rows = self._prepared(rows)
        if len(self._targets) == 1:
            return self._predict_one(rows, self._targets[0])
        return self._predict_several(rows)

    def _predict_one(self, rows: Any, target: Target) -> Outputs:
        if target.kind == "number":
            return {target.part("value"): _flat(self._compute(rows)).astype(np.float64)}
        outputs: Outputs = {}
        if self._wants_proba and target.has_proba:
            proba = self._model.predict_proba(rows)
            one = proba[0] if isinstance(proba, list) else proba  # a list of outputs, and one of it
            column = self._parts[target.part("proba")]
            asked = one if column is None else one[:, column]
            outputs[target.part("proba")] = np.asarray(asked, dtype=np.float64)
        if target.part("score") in self._parts:
            outputs[target.part("score")] = _scores(self._model, rows)
        if self._wants_label:
            if self._label_is_argmax and self._wants_proba and target.has_proba:
                labels = np.array(target.classes, dtype=object)
                best = outputs[target.part("proba")].argmax(axis=1)
                outputs[target.part("label")] = labels[best]
            else:
                outputs[target.part("label")] = _objects(_flat(self._model.predict(rows)))
        return outputs

    def _predict_several(self, rows: Any) -> Outputs:
        predicted = np.asarray(self._compute(rows))
        outputs: Outputs = {}
        for i, target in enumerate(self._targets):
            if target.kind == "number":
                outputs[target.part("value")] = predicted[:, i].astype(np.float64)
            else:
                outputs[target.part("label")] = _objects(predicted[:, i])
        if self._wants_proba:
            probas = self._model.predict_proba(rows)
            if not isinstance(probas, list):
                raise BadModelOutput(
                    f"predict_proba of {type(self._model).__name__} gives one number per output "
                    "and not one per class; fit a MultiOutputClassifier."
                )
            for target, proba in zip(self._targets, probas, strict=True):
                outputs[target.part("proba")] = np.asarray(proba, dtype=np.float64)
        return outputs


def _transform(model: Any) -> Callable[[Any], Array]:
    def transform(inputs: Any) -> Array:
        transformed = model.transform(inputs)
        return np.asarray(transformed.toarray() if hasattr(transformed, "toarray") else transformed)

    return transform


def _scores(model: Any, inputs: Any) -> Array:
    """Of an outlier detector: negative outside, where it has a decision_function."""
    scored = model.decision_function if hasattr(model, "decision_function") else model.score_samples
    return _flat(scored(inputs)).astype(np.float64)


def _flat(predicted: Any) -> Array:
    """Models fitted on a target of one column answer (n_rows, 1)."""
    array: Array = np.asarray(predicted)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _objects(labels: Array) -> Array:
    """Labels as Python values: one kind of array whether they came fresh or out of JSON."""
    return np.array([*labels.tolist(), None], dtype=object)[:-1]


class _ThreadLimit:
    """Keeps the thread pools of OpenMP and BLAS at the worker's share.

    OpenMP's limit is a property of the calling thread, so it is set in the thread that computes,
    and only when it has to change: the call costs some microseconds a library.
    """

    def __init__(self, n_threads: int) -> None:
        self._most = n_threads
        self._pools = ThreadpoolController().lib_controllers
        self._now: tuple[int, int] | None = None

    def set_for(self, rows: int) -> None:
        n_threads = self._most if rows >= ROWS_FOR_THREADS else 1
        wanted = (threading.get_ident(), n_threads)
        if wanted != self._now:
            for pool in self._pools:
                pool.set_num_threads(n_threads)
            self._now = wanted
