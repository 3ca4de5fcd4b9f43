"""Packing: a fitted model and a sample of its data become an artefact that was proven."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from tabserve import evaluation, sources, stored
from tabserve.artifact import GOLDEN, Manifest, plain_name, write
from tabserve.choosing import choose
from tabserve.engines import native
from tabserve.errors import MissingExtra, OperatorError, PackError
from tabserve.golden import golden_rows
from tabserve.inference import (
    Layout,
    Unknown,
    layout_of,
    model_input,
    signature_of,
    targets_of,
    text_categories,
    text_classes,
)
from tabserve.output import Output, Renderer

try:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None


def pack(
    model: Any,
    out: str | Path = "models",
    *,
    name: str,
    version: str,
    data: Any,
    target: Any = None,
    output: Output | Mapping[str, Any] | None = None,
    format: Literal["skops", "joblib"] = "skops",
    engine: Literal["native"] | None = None,
    unknown: Mapping[str, Unknown] | None = None,
    extra_fields: Literal["refuse", "ignore"] = "refuse",
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    data_name: str = "sample",
    training_date: datetime | None = None,
    replace: bool = False,
) -> Path:
    """Pack a fitted scikit-learn estimator; gives back the folder `out/name/version`.

    data: a sample of the training input (DataFrame or array), shape (n_rows, n_features); columns
    that the model does not take are left out.
    target: the sample's true answers, or the name of their column in `data`; metrics are measured
    on them.
    output: what the answer says; undeclared, it holds the prediction and all probabilities.
    engine: "native" serves it with the library itself; left out, the fastest that is equal does.
    unknown: per feature, what becomes of a category that the encoder has not seen.
    metrics: by data set, metrics measured elsewhere, such as {"holdout": {"roc_auc": 0.84}}.
    Raises PackError, UntrustedModel (a type that skops must not load), NotReproduced.
    """
    for value in (name, version):
        _refuse_bad_name(value)
    if isinstance(target, str):
        data, target = _split(data, target)
    _refuse_unfitted(model)
    model = native.chosen(model)
    declared = Output.declared(output)
    given = evaluation.given(metrics or {})
    sample = model_input(model, data)
    layout = layout_of(model, data)
    signature = signature_of(model, sample, layout, unknown or {}, extra_fields)
    with _single_threaded(model):
        with _on_its_own_sample():
            targets = targets_of(model, _as_taken(sample.iloc[:1], layout), target)
            parts = Renderer(targets, declared).parts
            original = native.NativeEngine(model, signature, targets, parts, shortcuts=False)
            signature, golden = golden_rows(original, sample, signature)
        measured = evaluation.measure(model, _as_taken(sample, layout), target, targets, data_name)
        contents = stored.dump(model, format)
        packed = native.NativeEngine(
            stored.load(contents, targets, allow_pickle=True), signature, targets, parts
        )
        choice = choose(
            model,
            original,
            packed,
            signature=signature,
            targets=targets,
            parts=parts,
            golden=golden,
            exactness=native.exactness_of(model),
            only_native=engine == "native",
        )
    manifest = Manifest(
        name=name,
        version=version,
        created=datetime.now(UTC),
        model_type=_model_type(model),
        model_files={stored.file_name(format): format for format in contents},
        signature=signature,
        targets=targets,
        output=declared,
        metrics=measured + given,
        training_date=training_date or datetime.now(UTC),
        engine=choice.engine,
        lowered=choice.lowered,
        parity=choice.parity,
        libraries=native.libraries(model),
        files={},
    )
    files = {stored.file_name(format): content for format, content in contents.items()}
    files |= {GOLDEN: golden.to_bytes()} | choice.files
    return write(Path(out), manifest, files, replace)


def pack_from_files(
    model: str,
    sample: Path,
    *,
    target: str | None,
    allow_pickle: bool,
    **options: Any,
) -> Path:
    """Pack the model at FILE or module:attr with a CSV of sample rows; options as for `pack`.

    A target that the sample lacks is an error; the model's file gives the training date.
    """
    fitted, made = sources.load_model(model, allow_pickle)
    categories = text_categories(fitted)
    if target is not None:
        categories[target] = text_classes(fitted)
    data = sources.read_sample(sample, categories)
    return pack(
        fitted, data=data, target=target, data_name=sample.name, training_date=made, **options
    )


def _refuse_bad_name(value: str) -> None:
    try:
        plain_name(value)
    except ValueError as error:
        raise PackError(f"A name or version cannot be used: {error}.") from None


def _split(data: Any, target: str) -> tuple[Any, Any]:
    if target not in getattr(data, "columns", ()):
        raise PackError(f"The sample data has no column {target!r} to be the target.")
    return data.drop(columns=[target]), data[target]


def _refuse_unfitted(model: Any) -> None:
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise PackError(
            f"The {type(model).__name__} is not fitted; fit it, then pack it."
        ) from None
    except TypeError:
        raise PackError(f"Expected a scikit-learn estimator, got {type(model).__name__}.") from None


@contextmanager
def _single_threaded(model: Any) -> Iterator[None]:
    """With n_jobs 1 everywhere: threads that add up in any order give other last digits.

    The caller's own model and thread pools are as before afterwards.
    """
    before = [
        (estimator, estimator.n_jobs)
        for estimator in native.estimators(model)
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


@contextmanager
def _on_its_own_sample() -> Iterator[None]:
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:
        raise PackError(
            f"The model fails on rows of its own sample data: {type(error).__name__}: {error}"
        ) from error


def _as_taken(sample: Any, layout: Layout) -> Any:
    return sample if layout == "frame" else sample.to_numpy()


def _model_type(model: Any) -> str:
    final = type(native.final_estimator(model)).__name__
    outer = type(model).__name__
    return final if outer == final else f"{outer}({final})"
