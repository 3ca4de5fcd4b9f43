"""The native engine: the library that the model was fitted with computes it."""

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from tabserve import boosters, compression, inputs, pickles, skopsfile
from tabserve.artifact import Exactness
from tabserve.boosters import BoostedPipeline
from tabserve.cpus import usable_cpus
from tabserve.errors import (
    BadModelOutput,
    InputProblem,
    InvalidInput,
    MissingExtra,
    UntrustedModel,
)
from tabserve.output import Target
from tabserve.signature import Signature, unusable
from tabserve.trusted import TRUSTED_TYPES
from tabserve.types import Array, Outputs, Parts, Values, n_rows

try:
    import joblib
    import pandas as pd
    import sklearn
    import skops.io
    from scipy.sparse import issparse
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None

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


def load(
    content: bytes, model_format: str, allow_pickle: bool, own: frozenset[str] = frozenset()
) -> Any:
    """The fitted model out of its file's bytes.

    own: modules of the user's whose types are trusted.
    Raises UntrustedModel for a pickle without `allow_pickle` or with imports that no model needs,
    and for a skops file with a type that is not on the list; ArtifactError for one that is too
    large.
    """
    if model_format == "joblib":
        if not allow_pickle:
            raise UntrustedModel(
                "The model is a pickle (joblib), and loading it runs whatever code it holds. Pack "
                "it as skops, or say --allow-pickle if you trust the one who made it."
            )
        pickles.refuse_dangerous(content)
        return joblib.load(compression.opened(content))
    untrusted = untrusted_types(content, own)
    if untrusted:
        raise UntrustedModel(
            f"The model holds the type(s) {', '.join(untrusted)}, which tabserve does not know to "
            "be harmless. If you trust the model, pack it with --format joblib and serve it with "
            "--allow-pickle."
        )
    of_own = skops.io.get_untrusted_types(data=content) if own else []
    return skops.io.loads(content, trusted=[*TRUSTED_TYPES, *of_own])


def modules(content: bytes, model_format: str) -> set[str]:
    """The packages whose types the file names; nothing of it is loaded."""
    if model_format == "joblib":
        return {name.partition(".")[0] for name in pickles.imports(content).names}
    skopsfile.check(content, "The model")
    return skopsfile.modules(content)


def untrusted_types(content: bytes, own: frozenset[str] = frozenset()) -> list[str]:
    skopsfile.check(content, "The model")
    try:
        found = skops.io.get_untrusted_types(data=content)
    except Exception as error:  # noqa: BLE001 - a hostile file can make it raise anything
        raise UntrustedModel(f"The model is no skops file that can be read: {error}") from None
    return sorted(
        kind for kind in set(found) - set(TRUSTED_TYPES) if kind.partition(".")[0] not in own
    )


def dump(model: Any, model_format: str) -> bytes:
    if model_format == "skops":
        with _listed_names(model):
            return skops.io.dumps(model)  # type: ignore[no-any-return]
    buffer = io.BytesIO()
    joblib.dump(model, buffer, compress=3)
    return buffer.getvalue()


@contextmanager
def _listed_names(model: Any) -> Iterator[None]:
    """What a FeatureUnion of DataFrames keeps as pandas' index, which skops cannot write, as lists
    meanwhile.
    """
    name = "_transformers_feature_names_out"
    kept = [(step, getattr(step, name)) for step in estimators(model) if hasattr(step, name)]
    try:
        for step, names in kept:
            setattr(step, name, [list(of_one) for of_one in names])
        yield
    finally:
        for step, names in kept:
            setattr(step, name, names)


def libraries(model: Any) -> dict[str, str]:
    """The versions of what computes it."""
    used = {library.__name__: library.__version__ for library in (joblib, np, pd, sklearn, skops)}
    _, booster = boosters.split(model)
    return used if booster is None else used | boosters.versions(booster)


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
    return getattr(model, "best_estimator_", model) if _is_sklearns(type(model)) else model


def final_estimator(model: Any) -> Any:
    """What a pipeline or a search of scikit-learn's hands its work to in the end. A class of the
    user's may do anything on the way.
    """
    while _is_sklearns(type(model)):
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "steps"):
            model = model.steps[-1][1]
        else:
            break
    return model


# Those that only compare, or add and multiply value by value in a fixed order. All else may rest on
# BLAS, exp, log or pow. Names, since importing all of scikit-learn would take seconds.
BITS = frozenset(
    {
        "ColumnTransformer", "FeatureUnion", "Pipeline",
        "GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "RandomizedSearchCV",
        "SimpleImputer", "MissingIndicator",
        "Binarizer", "MaxAbsScaler", "MinMaxScaler", "RobustScaler", "StandardScaler",
        "OneHotEncoder", "OrdinalEncoder", "TargetEncoder",
        "KBinsDiscretizer", "PolynomialFeatures",
        "GenericUnivariateSelect", "RFE", "RFECV", "SelectFdr", "SelectFpr", "SelectFromModel",
        "SelectFwe", "SelectKBest", "SelectPercentile", "SequentialFeatureSelector",
        "VarianceThreshold",
        "DecisionTreeClassifier", "DecisionTreeRegressor",
        "ExtraTreeClassifier", "ExtraTreeRegressor",
        "ExtraTreesClassifier", "ExtraTreesRegressor",
        "RandomForestClassifier", "RandomForestRegressor",
        "AdaBoostRegressor", "BaggingClassifier", "BaggingRegressor",
        "FixedThresholdClassifier", "FrozenEstimator",
        "MultiOutputClassifier", "MultiOutputRegressor",
        "DummyClassifier", "DummyRegressor",
        "_BinMapper",  # of histogram boosting
        "LabelEncoder",  # of LightGBM's classifier
    }
)  # fmt: skip

# These only select, by what an estimator inside them said in training.
_SELECTORS = frozenset({"SelectFromModel", "SequentialFeatureSelector"})
# numpy's functions that IEEE 754 defines to the last bit.
_EXACT_FUNCTIONS = frozenset(
    {
        "abs", "absolute", "ceil", "fabs", "floor", "negative", "reciprocal", "rint", "sign",
        "sqrt", "square",
    }
)  # fmt: skip

# With these losses a boosted regressor's answer is its raw score, and has no exp.
_IDENTITY_LINKS = frozenset({"squared_error", "absolute_error", "quantile", "huber"})


def exactness_of(model: Any) -> Exactness:
    for estimator in estimators(model, closed=_SELECTORS):
        name = type(estimator).__name__
        if boosters.is_booster(estimator):
            if boosters.exactness_of(estimator) == "close":
                return "close"
            continue
        if not (name in BITS or _is_exact(estimator)) or not _is_sklearns(type(estimator)):
            return "close"
    return "bits"


def _is_exact(estimator: Any) -> bool:
    """Of those that are, with some of their parameters."""
    match type(estimator).__name__:
        case "GradientBoostingRegressor" | "HistGradientBoostingRegressor":
            return estimator.loss in _IDENTITY_LINKS
        case "FunctionTransformer":
            name = getattr(estimator.func, "__name__", "")
            # None is what "passthrough" becomes.
            return estimator.func is None or (
                name in _EXACT_FUNCTIONS and estimator.func is getattr(np, name)
            )
        case "Normalizer":
            return bool(estimator.norm == "max")
        case "QuantileTransformer":
            return bool(estimator.output_distribution == "uniform")
    return False


def _is_sklearns(kind: type) -> bool:
    """Not a class of the user's that has the same name."""
    return kind.__module__.startswith("sklearn.")


# How scikit-learn begins to say that a step was given NaN or infinity.
# XGBoost says it as well, after a time and a place in its source.
_NOT_FINITE = re.compile("^Input (X )?contains (NaN|infinity)|Input data contains `inf`")


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
            else shortcuts and _is_sklearns(final) and final.__name__ in ARGMAX_CLASSIFIERS
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
        return np.asarray(transformed.toarray() if issparse(transformed) else transformed)

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
