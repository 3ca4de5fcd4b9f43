"""A model's folder of MLflow's, read without MLflow: its file MLmodel says which file is what."""

from pathlib import Path
from typing import Any

import orjson

from tabserve.errors import MissingExtra, PackError

DESCRIPTION = "MLmodel"

# Those of files that can be read, the library's own first.
_FLAVOURS = ("xgboost", "lightgbm", "catboost", "onnx", "sklearn")


def model_file(folder: Path) -> tuple[Path, str]:
    """The model's file, and the suffix that its format has.

    Raises PackError where it has no format that is read here, MissingExtra without PyYAML.
    """
    flavours = _flavours(folder)
    known = [name for name in _FLAVOURS if name in flavours]
    if not known:
        raise PackError(
            f"{folder} is a model of MLflow's of the kind {', '.join(map(str, flavours))}, which "
            f"is code and no file of a model; expected one of {', '.join(_FLAVOURS)}. Pack the "
            "model itself, or a function that answers as it does, as module:attr."
        )
    name, told = known[0], flavours[known[0]]
    file = told.get("pickled_model" if name == "sklearn" else "data")
    if not isinstance(file, str):
        raise PackError(f"{folder / DESCRIPTION} does not say which file holds the {name} model.")
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise PackError(f"{folder / DESCRIPTION} names the file {file!r}, which is not there.")
    return path, _suffix(name, told, path)


def example(folder: Path) -> tuple[list[str], list[list[Any]]] | None:
    """Columns and rows of the input example that the model was logged with; None where there is
    none, or it is no table.
    """
    told = _description(folder).get("saved_input_example_info")
    if not isinstance(told, dict) or told.get("type") != "dataframe":
        return None
    path = (folder / str(told.get("artifact_path"))).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    try:
        table = orjson.loads(path.read_bytes())
        columns, rows = table["columns"], table["data"]
    except (OSError, orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return ([str(column) for column in columns], rows) if rows else None


def _flavours(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        flavours = _description(folder)["flavors"]
        return {name: dict(flavour) for name, flavour in flavours.items()}
    except (LookupError, TypeError, AttributeError, ValueError):
        raise PackError(f"{folder / DESCRIPTION} does not say what flavors there are.") from None


def _description(folder: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("PyYAML", "mlflow") from None

    try:
        return dict(yaml.safe_load((folder / DESCRIPTION).read_bytes()))
    except OSError as error:
        raise PackError(
            f"Expected a folder of MLflow's with {DESCRIPTION} at {folder}: {error.strerror}."
        ) from None
    except (yaml.YAMLError, TypeError, ValueError):
        raise PackError(f"{folder / DESCRIPTION} does not say what flavors there are.") from None


def _suffix(flavour: str, told: dict[str, Any], path: Path) -> str:
    if flavour == "sklearn":
        return ".skops" if told.get("serialization_format") == "skops" else ".pkl"
    if flavour == "lightgbm":  # the scikit-learn wrapper is a pickle
        return ".pkl" if path.suffix == ".pkl" else ".txt"
    if flavour == "xgboost":  # MLflow calls both .xgb
        with path.open("rb") as file:
            is_json = file.read(2) == b'{"'
        return ".json" if is_json else ".ubj"
    return {"catboost": ".cbm", "onnx": ".onnx"}[flavour]
