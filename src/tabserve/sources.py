"""What the flags of `tabserve pack` name: model, sample, output, policies."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from pydantic import BaseModel

from tabserve import boosters, mlflow, opcodes, sklearnfile
from tabserve.carried import refuse_unimportable_imports
from tabserve.declaration import Declared
from tabserve.errors import ArtifactError, MissingExtra, OperatorError, PackError, WrongFormat
from tabserve.feature import Unknown
from tabserve.importing import imported
from tabserve.inference import booster_categories
from tabserve.originals.function import Function
from tabserve.originals.onnx_model import OnnxModel
from tabserve.output import Output

try:
    import pandas as pd
except ImportError as error:
    raise MissingExtra(error.name or "pandas", "sklearn") from None


# Names of files, by what reads them.
_FORMATS = {".skops": "skops", ".joblib": "joblib", ".pkl": "joblib", ".pickle": "joblib"}
KINDS = ", ".join(f"FILE{suffix}" for suffix in (*_FORMATS, *boosters.LIBRARIES, ".onnx"))


def is_pickle(spec: str) -> bool:
    return _FORMATS.get(_located(spec)[1]) == "joblib"


def _located(spec: str) -> tuple[Path, str]:
    """The file, and the suffix that says its format."""
    path = Path(spec)
    return mlflow.model_file(path) if path.is_dir() else (path, path.suffix)


def load_model(
    spec: str, allow_pickle: bool, own: frozenset[str] = frozenset()
) -> tuple[Any, datetime]:
    """The fitted model behind `file` or `module:attr`, and when it was made.

    own: the modules of the user's that are carried beside it.
    Raises UntrustedModel for a pickle without `allow_pickle`, PackError for what cannot be read.
    """
    path, suffix = _located(spec)
    if suffix in (*_FORMATS, *boosters.LIBRARIES, ".onnx"):
        try:
            content = path.read_bytes()
            made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise PackError(f"Cannot read the model {spec}: {error.strerror}.") from None
        return _read_model(content, suffix, allow_pickle, own, spec), made
    if ":" not in spec:
        raise PackError(
            f"Expected a model as {KINDS}, a folder of MLflow's or module:attr, got {spec!r}."
        )
    found = imported(spec)
    is_fitted = hasattr(found, "fit") and not isinstance(found, type)
    return found if is_fitted else Function(spec, found), datetime.now(UTC)


def _read_model(
    content: bytes, suffix: str, allow_pickle: bool, own: frozenset[str], spec: str
) -> Any:
    """By the name alone: a file of another format is refused, and not tried as that."""
    try:
        if suffix == ".onnx":
            return OnnxModel(content, spec)
        if suffix in boosters.LIBRARIES:
            return boosters.read(suffix, content)
        return sklearnfile.load(content, _FORMATS[suffix], allow_pickle, own)
    except WrongFormat as error:
        raise PackError(f"The model {spec} is not what its name says. {error}") from None
    except ArtifactError as error:
        raise type(error)(f"{spec}: {error}") from None
    except OperatorError:
        raise
    except Exception as error:
        if isinstance(error, (AttributeError, ImportError)) and _FORMATS.get(suffix) == "joblib":
            refuse_unimportable_imports(opcodes.imported(content), own)
        raise PackError(
            f"The model {spec} cannot be read: {type(error).__name__}: {error}"
        ) from error


def example(spec: str) -> Any | None:
    """The rows that a folder of MLflow's has as its example, as a DataFrame."""
    found = mlflow.example(Path(spec)) if Path(spec).is_dir() else None
    return None if found is None else pd.DataFrame(found[1], columns=found[0])


def read_sample(path: Path, categories: Mapping[str, Collection[Any] | None]) -> Any:
    """A CSV file with a header line as a DataFrame.

    categories: by column, the text that the model knows, or None where it takes any. It is read as
    it stands there, and so "None" or "01" as a category and not as a missing value or a number.
    """
    try:
        frame = pd.read_csv(path)
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        header = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, nrows=1).iloc[0]
    except OSError as error:
        raise PackError(f"Cannot read the sample data {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise PackError(f"Cannot read the sample data {path}: expected CSV in UTF-8.") from None
    except ValueError as error:
        raise PackError(f"Cannot read the sample data {path}: {error}") from None
    repeated = sorted(set(header[header.duplicated()]) - {""})
    if repeated:  # pandas gives the second one another name
        raise PackError(f"The sample data has several columns named {', '.join(repeated)}.")
    for name, known in categories.items():
        if known is None and name in frame:
            frame[name] = text[name]
        elif known and name in frame:
            is_text = frame[name].notna() | text[name].isin(known)
            frame[name] = text[name].astype(object).where(is_text, np.nan)
    return frame


def with_categories(model: Any, rows: Any) -> Any:
    """rows: of a CSV, whose columns have no categories. Those of a booster have the ones that it
    was fitted on. Raises PackError where there are others.
    """
    for name, values in booster_categories(model, list(rows.columns)).items():
        if name in rows:
            unknown = sorted(set(rows[name].dropna()) - set(values), key=str)
            if unknown:
                raise PackError(
                    f"The sample data has {', '.join(map(repr, unknown[:5]))} in {name}, which the "
                    "model was not fitted on; give it rows with its own categories."
                )
            rows[name] = pd.Categorical(rows[name], categories=values)
    return rows


def declared_output(
    name: str | None, positive: str | None, decimals: int | None, bands: str | None
) -> Output | None:
    """The output that the flags of the command line declare; None where they declare none."""
    if name is None:
        if (positive, decimals, bands) != (None, None, None):
            raise PackError("An output was declared without a name; say --output-name too.")
        return None
    return Output.declared({"name": name, "positive": positive, "round": decimals, "bands": bands})


def declared_signature(spec: str | None) -> Declared | None:
    """A file, or a class as module:Class."""
    if spec is None or ":" not in spec or Path(spec).exists():
        return spec
    found = imported(spec)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise PackError(f"Expected a pydantic class at {spec}, found {found!r}.")
    return found


def policies(flags: Iterable[str]) -> dict[str, Unknown]:
    """FEATURE=POLICY flags -> policy by feature."""
    found: dict[str, Unknown] = {}
    for text in flags:
        feature, equals, policy = text.rpartition("=")
        if not equals or policy not in get_args(Unknown):
            raise PackError(
                "Expected FEATURE=refuse, FEATURE=warn, FEATURE=allow or FEATURE=missing, "
                f"got {text!r}."
            )
        found[feature] = cast(Unknown, policy)
    return found
