"""A fitted model as files: scikit-learn's part as skops or joblib, a booster in its own format."""

import sys
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tabserve import boosters, sklearnfile
from tabserve.artifact import ModelFormat
from tabserve.errors import PackError, UntrustedModel
from tabserve.output import Target


def dump(
    model: Any, format: Literal["skops", "joblib"], own: frozenset[str] = frozenset()
) -> dict[ModelFormat, bytes]:
    """By format; a model has one file of each at most.

    own: modules of the user's that the artefact carries, whose types a server may trust.
    Raises PackError, or UntrustedModel where skops would not load it again.
    """
    before, booster = boosters.split(model)
    contents: dict[ModelFormat, bytes] = {}
    if before is not None:
        contents[format] = _dump(before, format, own)
    if booster is not None:
        booster_format, content = boosters.dump(booster)
        contents[booster_format] = content
    return contents


def load(
    contents: Mapping[ModelFormat, bytes],
    targets: tuple[Target, ...],
    allow_pickle: bool,
    own: frozenset[str] = frozenset(),
) -> Any:
    """What the native engine takes. own: the modules whose types are trusted.

    Raises UntrustedModel, MissingExtra.
    """
    before = predictor = None
    for format, content in contents.items():
        if format == "skops" or format == "joblib":
            before = sklearnfile.load(content, format, allow_pickle, own)
        elif format != "onnx":  # which has an engine of its own
            predictor = boosters.load(format, content, _classes(targets))
    return before if predictor is None else boosters.BoostedPipeline(before, predictor)


def begins_no_threads(contents: Mapping[ModelFormat, bytes]) -> bool:
    """Whether reading the model begins none: scikit-learn's own estimators are data and no more. A
    booster reads its trees in threads, and a class of anybody else's may do anything.
    """
    return all(
        format in ("skops", "joblib") and sklearnfile.modules(content, format) <= _WITHOUT_THREADS
        for format, content in contents.items()
    )


_WITHOUT_THREADS = {"sklearn", "numpy", "scipy", "joblib", *sys.stdlib_module_names}


def file_name(format: ModelFormat) -> str:
    return f"{'booster' if format in boosters.FORMATS.values() else 'model'}.{format}"


def _classes(targets: tuple[Target, ...]) -> Any:
    if targets[0].kind == "number":
        return None
    return np.array([*targets[0].classes, None], dtype=object)[:-1]


def _dump(model: Any, format: Literal["skops", "joblib"], own: frozenset[str]) -> bytes:
    try:
        content = sklearnfile.dump(model, format)
    except Exception as error:
        raise PackError(
            f"The model cannot be written as {format}: {error} Try --format joblib, or put what "
            "cannot be written into a module that the server can import."
        ) from error
    if format == "skops":
        untrusted = sklearnfile.untrusted_types(content, own)
        if untrusted:
            raise UntrustedModel(
                f"The model holds the type(s) {', '.join(untrusted)}, which a server would have "
                "to trust blindly. Say --format joblib to pack it all the same; serving it then "
                "needs --allow-pickle."
            )
    return content
