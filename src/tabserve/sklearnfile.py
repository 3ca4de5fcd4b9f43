"""The file of a fitted scikit-learn model: skops, or joblib for those who trust its maker."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tabserve import boosters, compression, pickles, skopsfile
from tabserve.errors import MissingExtra, UntrustedModel
from tabserve.estimators import estimators
from tabserve.importing import look_in_working_directory
from tabserve.trusted import TRUSTED_TYPES

try:
    import joblib
    import pandas as pd
    import sklearn
    import skops.io
except ImportError as error:
    raise MissingExtra(error.name or "scikit-learn", "sklearn") from None


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
        return _unpickled(content)
    untrusted = untrusted_types(content, own)
    if untrusted:
        raise UntrustedModel(
            f"The model holds the type(s) {', '.join(untrusted)}, which tabserve does not know to "
            "be harmless. If you trust the model, pack it with --format joblib and serve it with "
            "--allow-pickle."
        )
    of_own = skops.io.get_untrusted_types(data=content) if own else []
    return skops.io.loads(content, trusted=[*TRUSTED_TYPES, *of_own])


def _unpickled(content: bytes) -> Any:
    """With modules of the working directory where it needs them, as for a function, which is
    trusted no more.
    """
    try:
        return joblib.load(compression.opened(content))
    except ModuleNotFoundError:
        look_in_working_directory()
        return joblib.load(compression.opened(content))


def modules(content: bytes, model_format: str) -> set[str]:
    """The packages whose types the file names; nothing of it is loaded."""
    if model_format == "joblib":
        return {name.partition(".")[0] for name in pickles.imports(content).names}
    skopsfile.check(content, "The model")
    return skopsfile.modules(content)


def untrusted_types(content: bytes, own: frozenset[str]) -> list[str]:
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
    # A ColumnTransformer has an array of the same name, which skops can write.
    kept = [
        (step, names)
        for step in estimators(model)
        if isinstance(names := getattr(step, name, None), list)
    ]
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
