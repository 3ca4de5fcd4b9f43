"""What the flags of `tabserve pack` name: model, sample, output, policies."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from tabserve.engines import native
from tabserve.errors import MissingExtra, OperatorError, PackError
from tabserve.importing import imported
from tabserve.inference import Unknown
from tabserve.output import Output

try:
    import pandas as pd
except ImportError as error:
    raise MissingExtra(error.name or "pandas", "sklearn") from None


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
        return _read_model(content, format, allow_pickle, spec), made
    if ":" not in spec:
        raise PackError(
            f"Expected a model as FILE.skops, FILE.joblib, FILE.pkl or module:attr, got {spec!r}."
        )
    return imported(spec), datetime.now(UTC)


def _read_model(content: bytes, format: str, allow_pickle: bool, spec: str) -> Any:
    try:
        return native.load(content, format, allow_pickle)
    except OperatorError:
        raise
    except Exception as error:
        raise PackError(
            f"The model {spec} cannot be read: {type(error).__name__}: {error}"
        ) from error


def read_sample(path: Path, categories: Mapping[str, Collection[Any]]) -> Any:
    """A CSV file with a header line as a DataFrame.

    categories: by column, the text that the model knows. It is read as it stands there, and so
    "None" or "01" as a category and not as a missing value or a number.
    """
    try:
        frame = pd.read_csv(path)
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise PackError(f"Cannot read the sample data {path}: {error}") from None
    for name, known in categories.items():
        if known and name in frame:
            is_text = frame[name].notna() | text[name].isin(known)
            frame[name] = text[name].astype(object).where(is_text, np.nan)
    return frame


def declared_output(
    name: str | None, positive: str | None, decimals: int | None, bands: str | None
) -> Output | None:
    """The output that the flags of the command line declare; None where they declare none."""
    if name is None:
        if (positive, decimals, bands) != (None, None, None):
            raise PackError("An output was declared without a name; say --output-name too.")
        return None
    return Output.declared({"name": name, "positive": positive, "round": decimals, "bands": bands})


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
