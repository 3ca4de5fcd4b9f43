"""A fitted estimator or pipeline of scikit-learn's, which may end in a booster."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from tabserve import boosters, inference, sklearnfile, stored
from tabserve.artifact import ModelFormat
from tabserve.engines.native import NativeEngine
from tabserve.errors import MissingExtra, PackError
from tabserve.estimators import chosen, estimators, final_estimator
from tabserve.exactness import exactness_of
from tabserve.feature import Unknown
from tabserve.output import Label, Target
from tabserve.sample import layout_of, model_input
from tabserve.signature import Signature
from tabserve.targets import targets_of
from tabserve.types import Engine, Outputs, Parts

try:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None


class Estimator:
    """data: what packing was given, which shows how the model takes its input.
    own: the modules of the user's that the artefact carries.
    classes: names for those of a booster, whose file has none.
    """

    def __init__(
        self,
        model: Any,
        format: Literal["skops", "joblib"],
        data: Any,
        own: frozenset[str],
        classes: Sequence[Label] | None = None,
    ) -> None:
        _refuse_unfitted(model)
        self._model = model = chosen(model)
        self._format = format
        self._own = own
        self._classes = None if classes is None else tuple(classes)
        self._layout = layout_of(model, data)
        self.name_of_type = _model_type(model)
        self.lowerable = model
        self.exactness = exactness_of(model)

    def rows(self, data: Any) -> Any:
        return model_input(self._model, data)

    def usual_rows(self) -> Any:
        return inference.usual_rows(self._model)

    def signature(
        self, rows: Any, unknown: Mapping[str, Unknown], extra_fields: Literal["refuse", "ignore"]
    ) -> Signature:
        return inference.signature_of(self._model, rows, self._layout, unknown, extra_fields)

    def targets(self, rows: Any, target: Any | None) -> tuple[Target, ...]:
        found = targets_of(self._model, self._as_taken(rows.iloc[:1]), target)
        return found if self._classes is None else (_named(self._model, found, self._classes),)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """With n_jobs 1 everywhere: threads that add up in any order give other last digits.

        The caller's own model and thread pools are as before afterwards.
        """
        before = [
            (estimator, estimator.n_jobs)
            for estimator in estimators(self._model)
            if getattr(estimator, "n_jobs", None) is not None
        ]
        try:
            for estimator, _ in before:
                estimator.n_jobs = 1
            with threadpool_limits(1):
                yield
        finally:
            for estimator, n_jobs in before:
                estimator.n_jobs = n_jobs

    def engine(
        self, signature: Signature, targets: tuple[Target, ...], parts: Parts
    ) -> NativeEngine:
        if self._classes is not None:  # the library's own predictor, which takes names
            model = stored.load(self.files(), targets, allow_pickle=False)
            return NativeEngine(model, signature, targets, parts, shortcuts=False)
        return NativeEngine(self._model, signature, targets, parts, shortcuts=False)

    def outputs(self, engine: Engine, rows: Any) -> Outputs:
        assert isinstance(engine, NativeEngine)
        return engine.outputs(self._as_taken(rows))

    def files(self) -> dict[ModelFormat, bytes]:
        return stored.dump(self._model, self._format, self._own)

    def packed(
        self,
        files: Mapping[ModelFormat, bytes],
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
    ) -> Engine:
        model = stored.load(files, targets, allow_pickle=True, own=self._own)
        return NativeEngine(model, signature, targets, parts)

    def libraries(self) -> dict[str, str]:
        return sklearnfile.libraries(self._model)

    def _as_taken(self, rows: Any) -> Any:
        if self._layout == "text":
            return rows.iloc[:, 0]
        return rows if self._layout == "frame" else rows.to_numpy()


def _named(model: Any, found: tuple[Target, ...], classes: tuple[Label, ...]) -> Target:
    """Raises PackError where it has names of its own, or another number of classes."""
    if boosters.split(model)[0] is not None or not boosters.takes_classes(model):
        raise PackError(
            f"Names of classes are for a classifier of XGBoost's or LightGBM's, whose files have "
            f"none; the {type(model).__name__} says itself what it answers."
        )
    (target,) = found
    if len(set(classes)) != len(classes) or len(classes) != len(target.classes):
        raise PackError(
            f"The model has {len(target.classes)} classes, so as many different names are needed, "
            f"in the order of its numbers; got {', '.join(map(str, classes))}."
        )
    return target.model_copy(update={"classes": classes})


def _refuse_unfitted(model: Any) -> None:
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise PackError(
            f"The {type(model).__name__} is not fitted; fit it, then pack it."
        ) from None
    except TypeError:
        raise PackError(f"Expected a scikit-learn estimator, got {type(model).__name__}.") from None


def _model_type(model: Any) -> str:
    final = type(final_estimator(model)).__name__
    outer = type(model).__name__
    return final if outer == final else f"{outer}({final})"
