"""Packing: a fitted model and a sample of its data become an artefact that was proven."""

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from pydantic import ValidationError

from tabserve import parity
from tabserve.artifact import (
    GOLDEN,
    Exactness,
    GoldenRows,
    Manifest,
    Metric,
    Parity,
    plain_name,
    write,
)
from tabserve.engines import native
from tabserve.errors import MissingExtra, PackError, UntrustedModel
from tabserve.inference import Unknown, model_input, signature_of, targets_of
from tabserve.output import Output, Renderer, Target
from tabserve.signature import Signature
from tabserve.types import Engine, Outputs

try:
    import pandas as pd
    import sklearn.metrics
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None

# Golden rows: enough to meet every branch that a sample shows, few enough that proving them at each
# start takes well under a second.
N_SAMPLED_GOLDEN = 64
MOST_GOLDEN = 200


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
    unknown: per feature, what becomes of a category that the encoder has not seen.
    metrics: by data set, metrics measured elsewhere, such as {"holdout": {"roc_auc": 0.84}}.
    Raises PackError, UntrustedModel (a type that skops must not load), NotReproduced.
    """
    for value in (name, version):
        _refuse_bad_name(value)
    if isinstance(target, str):
        data, target = _split(data, target)
    _refuse_unfitted(model)
    declared = _declared(output)
    sample = model_input(model, data)
    signature = signature_of(model, sample, unknown or {}, extra_fields)
    targets = targets_of(model, target)
    parts = Renderer(targets, declared).parts
    with _single_threaded(model):
        golden = _golden_rows(model, sample, signature, targets, parts)
        measured = _measure(model, sample, target, targets, data_name)
        content = _dump(model, format)
    engine = native.NativeEngine(
        native.load(content, format, allow_pickle=True), signature, targets, parts
    )
    model_file = f"model.{format}"
    manifest = Manifest(
        name=name,
        version=version,
        created=datetime.now(UTC),
        model_type=_model_type(model),
        model_file=model_file,
        model_format=format,
        signature=signature,
        targets=targets,
        output=declared,
        metrics=measured + _given(metrics or {}),
        training_date=training_date or datetime.now(UTC),
        parity=_parity(engine, signature, golden, native.exactness_of(model)),
        libraries=native.libraries(),
        files={},
    )
    return write(Path(out), manifest, {model_file: content, GOLDEN: golden.to_bytes()}, replace)


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
    fitted, made = load_model(model, allow_pickle)
    data = read_sample(sample)
    return pack(
        fitted, data=data, target=target, data_name=sample.name, training_date=made, **options
    )


def declared_output(
    name: str | None, positive: str | None, decimals: int | None, bands: str | None
) -> Output | None:
    """The output that the flags of the command line declare; None where they declare none."""
    if name is None:
        if (positive, decimals, bands) != (None, None, None):
            raise PackError("An output was declared without a name; say --output-name too.")
        return None
    return _declared({"name": name, "positive": positive, "round": decimals, "bands": bands})


def policies(flags: Iterable[str]) -> dict[str, Unknown]:
    """FEATURE=POLICY flags -> policy by feature."""
    found: dict[str, Unknown] = {}
    for text in flags:
        feature, equals, policy = text.rpartition("=")
        if not equals or policy not in get_args(Unknown):
            raise PackError(
                f"Expected FEATURE=refuse, FEATURE=allow or FEATURE=missing, got {text!r}."
            )
        found[feature] = cast(Unknown, policy)
    return found


def load_model(spec: str, allow_pickle: bool) -> tuple[Any, datetime]:
    """The fitted model behind `file` or `module:attr`, and when it was made.

    Raises UntrustedModel for a pickle without `allow_pickle`, PackError for what cannot be read.
    """
    path = Path(spec)
    if path.suffix in (".joblib", ".pkl", ".pickle", ".skops"):
        format = "skops" if path.suffix == ".skops" else "joblib"
        try:
            content = path.read_bytes()
            made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise PackError(f"Cannot read the model {spec}: {error.strerror}.") from None
        return native.load(content, format, allow_pickle), made
    module, colon, attribute = spec.partition(":")
    if not colon:
        raise PackError(
            f"Expected a model as FILE.skops, FILE.joblib, FILE.pkl or module:attr, got {spec!r}."
        )
    return imported(module, attribute), datetime.now(UTC)


def imported(module: str, attribute: str) -> Any:
    """The attribute of a module of the user's, found from the working directory too."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PackError(f"Cannot import {module}:{attribute}: {error}.") from error


def read_sample(path: Path) -> Any:
    """A CSV file with a header line as a DataFrame."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PackError(f"Cannot read the sample data {path}: {error}") from None


def _declared(output: Output | Mapping[str, Any] | None) -> Output | None:
    try:
        return None if output is None else Output.model_validate(output)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        raise PackError(f"The output cannot be declared so: {found['msg']} at {place}.") from None


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

    The caller's own model is as before afterwards.
    """
    before = [
        (estimator, estimator.n_jobs)
        for estimator in native.estimators(model)
        if getattr(estimator, "n_jobs", None) is not None
    ]
    try:
        for estimator, _ in before:
            estimator.n_jobs = 1
        yield
    finally:
        for estimator, n_jobs in before:
            estimator.n_jobs = n_jobs


def _golden_rows(
    model: Any,
    sample: Any,
    signature: Signature,
    targets: tuple[Target, ...],
    parts: frozenset[str],
) -> GoldenRows:
    """Rows of the sample, with what the original model says of the very same frame."""
    chosen = sample.iloc[_golden_positions(sample)]
    inputs = chosen if signature.layout == "frame" else chosen.to_numpy()
    try:
        outputs = native.NativeEngine(model, signature, targets, parts).outputs(inputs)
    except Exception as error:
        raise PackError(
            f"The model fails on rows of its own sample data: {type(error).__name__}: {error}"
        ) from error
    _refuse_not_finite(outputs)
    return GoldenRows(rows=_records(chosen, signature), outputs=outputs)


def _refuse_not_finite(outputs: Outputs) -> None:
    for part, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise PackError(
                f"The model's {part} is not a finite number for some rows of the sample data; "
                "JSON cannot say that, and no server should."
            )


def _golden_positions(sample: Any) -> list[int]:
    """Evenly spread rows, and those with the ends, the missing values and each common category."""
    n_rows = len(sample)
    if n_rows == 0:
        raise PackError("The sample data has no rows.")
    positions = dict.fromkeys(
        np.linspace(0, n_rows - 1, min(N_SAMPLED_GOLDEN, n_rows)).round().astype(int).tolist()
    )
    for name in sample.columns:
        column = sample[name].reset_index(drop=True)
        missing = column[column.isna()].index[:1].tolist()
        present = column.dropna()
        if pd.api.types.is_numeric_dtype(present) and len(present):
            ends = [present.idxmin(), present.idxmax()]
        else:
            ends = present.drop_duplicates().index[:20].tolist()
        positions |= dict.fromkeys([*missing, *map(int, ends)])
    return list(positions)[:MOST_GOLDEN]


def _records(sample: Any, signature: Signature) -> list[dict[str, Any]]:
    """The rows as a client would send them: missing values null, integers without a fraction."""
    listed = {}
    for feature in signature.features:
        column = sample[feature.name].astype(object)
        listed[feature.name] = [
            None if missing else value
            for value, missing in zip(column.tolist(), column.isna(), strict=True)
        ]
    return [dict(zip(listed, values, strict=True)) for values in zip(*listed.values(), strict=True)]


def _dump(model: Any, format: Literal["skops", "joblib"]) -> bytes:
    try:
        content = native.dump(model, format)
    except Exception as error:
        raise PackError(
            f"The model cannot be written as {format}: {error} Try --format joblib, or put what "
            "cannot be written into a module that the server can import."
        ) from error
    if format == "skops":
        untrusted = native.untrusted_types(content)
        if untrusted:
            raise UntrustedModel(
                f"The model holds the type(s) {', '.join(untrusted)}, which a server would have "
                "to trust blindly. Say --format joblib to pack it all the same; serving it then "
                "needs --allow-pickle."
            )
    return content


def _parity(
    engine: Engine, signature: Signature, golden: GoldenRows, exactness: Exactness
) -> Parity:
    """The packed model against the original one, alone and in batches."""
    largest = parity.prove(engine, signature, golden, exactness, [len(golden.rows)])
    columns = parity.columns_of(signature, golden.rows)
    joinable = True
    for size in parity.BATCH_SIZES:
        found = parity.compare(golden.outputs, parity.in_batches(engine, columns, size), exactness)
        joinable &= found.difference is None
        largest = max(largest, found.max_difference)
    return Parity(
        exactness=exactness,
        n_rows=len(golden.rows),
        batch_sizes=list(parity.BATCH_SIZES),
        max_difference=largest,
        joinable=joinable,
        cpu=parity.cpu_model(),
    )


def _model_type(model: Any) -> str:
    final = type(native.final_estimator(model)).__name__
    outer = type(model).__name__
    return final if outer == final else f"{outer}({final})"


def _given(metrics: Mapping[str, Mapping[str, float]]) -> list[Metric]:
    return [
        Metric(name=name, value=value, data=data)
        for data, values in metrics.items()
        for name, value in values.items()
    ]


def _measure(
    model: Any, sample: Any, target: Any, targets: tuple[Target, ...], data_name: str
) -> list[Metric]:
    """The usual metrics of one target on the sample; none without a target or for several."""
    if target is None or len(targets) > 1:
        return []
    inputs = sample if hasattr(model, "feature_names_in_") else sample.to_numpy()
    truth = np.asarray(target)
    score = sklearn.metrics
    predicted = model.predict(inputs)
    if targets[0].kind == "number":
        values = {
            "r2": score.r2_score(truth, predicted),
            "mean_absolute_error": score.mean_absolute_error(truth, predicted),
            "root_mean_squared_error": score.root_mean_squared_error(truth, predicted),
        }
    else:
        values = {"accuracy": score.accuracy_score(truth, predicted)}
        if targets[0].has_proba and len(targets[0].classes) == 2:
            proba = model.predict_proba(inputs)[:, 1]
            positive = truth == targets[0].classes[1]
            values["roc_auc"] = score.roc_auc_score(positive, proba)
            values["brier_score"] = score.brier_score_loss(positive, proba)
    return [
        Metric(name=name, value=float(value), data=data_name)
        for name, value in values.items()
        if np.isfinite(value)
    ]
