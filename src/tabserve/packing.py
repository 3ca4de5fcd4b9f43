"""Packing: a fitted model and a sample of its data become an artefact that was proven."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tabserve import boosters, carried, code_folder, evaluation, parity, sources, stored
from tabserve.artifact import (
    GOLDEN,
    MAX_TOLERANCE,
    Manifest,
    Metric,
    Parity,
    Tried,
    plain_name,
    write,
)
from tabserve.carried import refuse_unimportable
from tabserve.choosing import choose
from tabserve.declaration import Declaration, Declared
from tabserve.errors import OperatorError, PackError
from tabserve.feature import Unknown
from tabserve.golden import golden_rows
from tabserve.inference import text_categories, with_types
from tabserve.originals import Original
from tabserve.originals.estimator import Estimator
from tabserve.originals.function import Function
from tabserve.originals.onnx_model import OnnxModel
from tabserve.output import Label, Output, Renderer, Target
from tabserve.signature import Feature, Signature
from tabserve.targets import text_classes

logger = logging.getLogger("tabserve")


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
    tolerance: float | None = None,
    unknown: Mapping[str, Unknown] | None = None,
    extra_fields: Literal["refuse", "ignore"] = "refuse",
    code: str | Path | None = None,
    signature: Declared | None = None,
    classes: Sequence[Label] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    data_name: str = "sample",
    training_date: datetime | None = None,
    replace: bool = False,
) -> Path:
    """Pack a model; gives back the folder `out/name/version`.

    model: a fitted scikit-learn estimator, a booster, or a function or class of a module of yours.
    data: a sample of the training input (DataFrame or array), shape (n_rows, n_features); columns
    that the model does not take are left out.
    target: the sample's true answers, or the name of their column in `data`; metrics are measured
    on them.
    output: what the answer says; undeclared, it holds the prediction and all probabilities.
    engine: "native" serves it with the library itself; left out, the fastest that is equal does.
    tolerance: a largest difference that is accepted, x 1 for probabilities and else x the largest
    golden output: skl2onnx is tried where the exact graph fails, and an ONNX file or function is
    proven within it.
    unknown: per feature, what becomes of a category that the encoder has not seen.
    code: a folder of modules of yours that the model needs, to be carried beside it.
    signature: what is declared of the features in place of what model and sample show: a TOML
    file, what would be in it, or a pydantic class.
    classes: names for the classes 0, 1 and so on of a booster of XGBoost or LightGBM.
    metrics: by data set, metrics measured elsewhere, such as {"holdout": {"roc_auc": 0.84}}.
    Raises PackError, UntrustedModel (a type that skops must not load), NotReproduced.
    """
    for value in (name, version):
        _refuse_bad_name(value)
    _refuse_bad_tolerance(tolerance, engine)
    if isinstance(target, str):
        data, target = _split(data, target)
    own = {} if code is None else _carried(Path(code))
    original = _original(model, format, data, carried.module_names(own), classes)
    declared = Output.declared(output)
    given = evaluation.given(metrics or {})
    declaration = Declaration.of(signature)
    sample = original.rows(data)
    if not isinstance(signature, type):  # a class may have fields that are no feature
        declaration.refuse_strangers(list(sample.columns))
    sample = with_types(sample, declaration.types())
    logger.info("Computing golden rows with %s", original.name_of_type)
    found = declaration.applied(original.signature(sample, unknown or {}, extra_fields))
    _refuse_idle_policies(unknown or {}, found)
    with original.computing():
        with _on_its_own_sample(found):
            targets = original.targets(sample, target)
            parts = Renderer(targets, declared).parts
            engine_of_it = original.engine(found, targets, parts)
            proven, golden = golden_rows(
                engine_of_it, lambda rows: original.outputs(engine_of_it, rows), sample, found
            )
            declaration.refuse_unproven(proven)
            measured = _measured(original, proven, targets, sample, target, data_name)
        contents = original.files()
        logger.info("Proving what is packed on %d golden rows", len(golden.rows))
        choice = choose(
            original.lowerable,
            engine_of_it,
            original.packed(contents, proven, targets, parts),
            signature=proven,
            targets=targets,
            parts=parts,
            golden=golden,
            exactness=original.exactness,
            only_native=engine == "native",
            tolerance=tolerance,
        )
    manifest = Manifest(
        name=name,
        version=version,
        created=datetime.now(UTC),
        model_type=original.name_of_type,
        model_files={stored.file_name(format): format for format in contents},
        function=original.spec if isinstance(original, Function) else None,
        signature=proven,
        targets=targets,
        output=declared,
        metrics=measured + given,
        training_date=training_date or datetime.now(UTC),
        engine=choice.engine,
        lowered=choice.lowered,
        parity=choice.parity,
        libraries=original.libraries() | choice.libraries,
        files={},
    )
    files = {stored.file_name(format): content for format, content in contents.items()}
    files |= {GOLDEN: golden.to_bytes()} | choice.files
    files |= {carried.PREFIX + path: content for path, content in own.items()}
    return write(Path(out), manifest, files, replace)


def pack_from_files(
    model: str,
    sample: Path | None,
    *,
    target: str | None,
    allow_pickle: bool,
    signature: Declared | None = None,
    **options: Any,
) -> Path:
    """Pack the model at FILE or module:attr with a CSV of sample rows, or with the example that a
    folder of MLflow's has; options as for `pack`.

    A target that the sample lacks is an error; the model's file gives the training date.
    """
    code = options.get("code")
    own = {} if code is None else code_folder.read(code).files
    logger.info("Reading %s", model)
    with carried.importable(own, code or Path()):
        fitted, made = sources.load_model(model, allow_pickle, carried.module_names(own))
    rows = sample or sources.example(model)
    if rows is None:
        raise PackError(f"There are no sample rows to prove {model} on; give them with --data.")
    return _with_sample(fitted, made, rows, target=target, signature=signature, **options)


def _with_sample(
    fitted: Any,
    made: datetime,
    sample: Any,
    *,
    target: str | None,
    signature: Declared | None = None,
    **options: Any,
) -> Path:
    """sample: a CSV, in which columns that the model knows as text are read as text; or a table.
    made: when the model was.
    """
    fitted = boosters.wrapped(fitted)
    categories = text_categories(fitted)
    classes = options.get("classes")
    if target is not None:
        categories[target] = text_classes(fitted) if classes is None else tuple(classes)
    for feature, kind in Declaration.of(signature).types().items():
        if kind == "string":
            categories.setdefault(feature, None)
    data, data_name = sample, "input_example"
    if isinstance(sample, Path):
        data, data_name = sources.read_sample(sample, categories), sample.name
        data = sources.with_categories(fitted, data)
    return pack(
        fitted, data=data, target=target, data_name=data_name, training_date=made,
        signature=signature, **options,
    )  # fmt: skip


def pack_at_once(
    spec: str, out: Path, *, data: Path | None, target: str | None, allow_pickle: bool
) -> Path:
    """Pack a model in order to serve it at once; its own file's hash is the version.

    data: a CSV of sample rows. Without it, and without an example in a folder of MLflow's, the
    signature is what the model says of itself, no
    golden rows prove it, and its own library computes it.
    """
    logger.info("Reading %s", spec)
    fitted, made = sources.load_model(spec, allow_pickle)
    format: Literal["skops", "joblib"] = "joblib" if sources.is_pickle(spec) else "skops"
    original = _original(fitted, format, None, frozenset())
    contents = original.files()
    version = hashlib.sha256(b"".join(contents.values()) or spec.encode()).hexdigest()[:12]
    name = re.sub("[^A-Za-z0-9]+", "-", Path(spec).stem).strip("-") or "model"
    sample = data or sources.example(spec)
    if sample is not None:
        return _with_sample(
            fitted, made, sample, target=target, out=out, name=name, version=version, format=format
        )
    logger.info("Asking %s what it takes, without sample rows", original.name_of_type)
    rows = original.usual_rows()
    with original.computing(), _on_usual_rows():
        signature = _anything_nullable(original.signature(rows, {}, "refuse"))
        targets = original.targets(rows, None)
        engine = original.engine(signature, targets, Renderer(targets, None).parts)
        signature, _ = golden_rows(
            engine, lambda chosen: original.outputs(engine, chosen), rows, signature
        )
    manifest = Manifest(
        name=name,
        version=version,
        created=datetime.now(UTC),
        model_type=original.name_of_type,
        model_files={stored.file_name(format): format for format in contents},
        engine="onnx" if isinstance(original, OnnxModel) else "native",
        signature=signature,
        targets=targets,
        training_date=made,
        parity=Parity(
            exactness=original.exactness, unproven=True, n_rows=0, batch_sizes=[],
            max_difference=0.0, joinable=False, cpu=parity.cpu_model(),
            tried=[] if original.lowerable is None else [_NOT_TRIED],
        ),
        libraries=original.libraries(),
        files={},
    )  # fmt: skip
    files = {stored.file_name(format): content for format, content in contents.items()}
    return write(out, manifest, files, replace=False)


# A graph could be compared on rows that the model's own thresholds and categories make; but which
# numbers are whole, how large they are and what dtype the model's frame had, only a sample tells,
# and equality on other rows than those of its users would be no proof.
_NOT_TRIED = Tried(
    engine="onnx",
    equal=False,
    why="Not tried: without sample rows there is nothing that a graph could be proven on.",
)


def _anything_nullable(signature: Signature) -> Signature:
    """Until the model fails on it; and without what was observed, which was made up."""
    told = {"nullable": True, "minimum": None, "maximum": None}
    features = [Feature(**feature.model_dump() | told) for feature in signature.features]
    return Signature(**signature.model_dump() | {"features": features})


@contextmanager
def _on_usual_rows() -> Iterator[None]:
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:
        raise PackError(
            "The model does not say enough of its features: it fails on a row made of what it "
            f"says ({type(error).__name__}: {error}). Give sample rows with --data."
        ) from error


def _refuse_bad_name(value: str) -> None:
    try:
        plain_name(value)
    except ValueError as error:
        raise PackError(f"A name or version cannot be used: {error}.") from None


def _refuse_bad_tolerance(tolerance: float | None, engine: str | None) -> None:
    if tolerance is None:
        return
    if not 0 < tolerance <= MAX_TOLERANCE:
        raise PackError(
            f"Expected a tolerance above 0 and at most {MAX_TOLERANCE}, got {tolerance:g}."
        )
    if engine == "native":
        raise PackError(
            "The native engine is exact, and no tolerance is used there; say one of the two."
        )


def _refuse_idle_policies(unknown: Mapping[str, Unknown], found: Signature) -> None:
    for feature in found.features:
        if feature.name in unknown and feature.categories is None:
            raise PackError(f"{feature.name} has no categories that could be unknown.")


def _carried(folder: Path) -> dict[str, bytes]:
    found = code_folder.read(folder)
    (logger.warning if found.left_out else logger.info)("%s", found.told)
    return found.files


def _split(data: Any, target: str) -> tuple[Any, Any]:
    if target not in getattr(data, "columns", ()):
        raise PackError(f"The sample data has no column {target!r} to be the target.")
    return data.drop(columns=[target]), data[target]


def _original(
    model: Any,
    format: Literal["skops", "joblib"],
    data: Any,
    own: frozenset[str],
    classes: Sequence[Label] | None = None,
) -> Original:
    model = boosters.wrapped(model)
    if classes is not None and not hasattr(model, "fit"):
        raise PackError(
            "Names of classes are for boosters; this model says itself what it answers."
        )
    if isinstance(model, OnnxModel):
        return model
    if not isinstance(model, Function) and not hasattr(model, "fit"):
        model = Function.of(model)
    refuse_unimportable(model.found if isinstance(model, Function) else model, own)
    return model if isinstance(model, Function) else Estimator(model, format, data, own, classes)


def _measured(
    original: Original,
    signature: Signature,
    targets: tuple[Target, ...],
    sample: Any,
    target: Any,
    data_name: str,
) -> list[Metric]:
    """The usual metrics of one target on the sample; none without a target or for several."""
    if target is None or len(targets) > 1:
        return []
    engine = original.engine(signature, targets, Renderer(targets, None).parts)
    outputs = original.outputs(engine, sample)
    return evaluation.measure(outputs, target, targets[0], data_name)


@contextmanager
def _on_its_own_sample(signature: Signature) -> Iterator[None]:
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:
        texts = [f.name for f in signature.features if f.type == "string" and not f.categories]
        hint = (
            f". It was given {', '.join(texts)} as text: where that is a date, declare it one by "
            "--signature."
        )
        raise PackError(
            f"The model fails on rows of its own sample data: {type(error).__name__}: {error}"
            + hint * bool(texts)
        ) from error
