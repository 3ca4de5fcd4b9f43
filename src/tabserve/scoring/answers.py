"""Answers as columns: what `output.Renderer` says of each row, without a dict for each."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tabserve.artifact import Manifest
from tabserve.errors import MissingExtra
from tabserve.output import Label, Output, Target, class_name
from tabserve.types import Array, Outputs

try:
    import pyarrow as pa
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

# Of a column its place in an answer: ("probabilities", "setosa").
Path = tuple[str, ...]

_LABEL_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def answer_types(manifest: Manifest) -> dict[Path, Any]:
    """The columns of all answers, and their types."""
    nothing = {
        part: np.empty((0, len(target.classes)) if part == target.part("proba") else 0)
        for target in manifest.targets
        for part in (target.part("value"), target.part("label"), target.part("proba"))
    }
    return {path: column.type for path, column in answer_columns(manifest, nothing).items()}


def answer_columns(manifest: Manifest, outputs: Outputs) -> dict[Path, Any]:
    """outputs: finite, see `finite`."""
    if manifest.output is not None:
        return dict(_declared(manifest.output, manifest.targets[0], outputs))
    columns: dict[Path, Any] = {}
    for target in manifest.targets:
        fields = dict(_fields(target, outputs))
        if target.name:
            alone = len(fields) == 1
            fields = {
                (target.name,) if alone else (target.name, *path): column
                for path, column in fields.items()
            }
        columns |= fields
    return columns


def finite(outputs: Outputs, n_rows: int) -> Array:
    """Of which rows every number is; shape (n_rows,)."""
    found = np.ones(n_rows, dtype=np.bool_)
    for array in outputs.values():
        if array.dtype.kind == "f":
            found &= np.isfinite(array.reshape(n_rows, -1)).all(axis=1)
    return found


def rounded(numbers: Array, decimals: int) -> Array:
    """Python's own round of each. numbers: float64, finite.

    numpy's multiplies first, and so may end on the other side of what lies near the middle of two
    answers; those are rounded by Python.
    """
    scale = 10.0**decimals
    with np.errstate(invalid="ignore", over="ignore"):  # of what is too large, see below
        scaled = numbers * scale
        from_middle = np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5)
        near_middle = from_middle <= 4 * np.spacing(np.abs(scaled))
    doubtful = near_middle | ~(np.abs(scaled) < 2.0**50)
    answer: Array = np.rint(np.where(doubtful, 0.0, scaled)) / scale
    answer[doubtful] = [round(number, decimals) for number in numbers[doubtful].tolist()]
    return answer


def _declared(declared: Output, target: Target, outputs: Outputs) -> Iterator[tuple[Path, Any]]:
    numbers = outputs[target.part("value" if target.kind == "number" else "proba")]
    if numbers.ndim > 1:  # of no rows
        numbers = numbers[:, 0]
    numbers = numbers.astype(np.float64)
    shown = numbers if declared.round is None else rounded(numbers, declared.round)
    yield (declared.name,), _numbers(shown)
    if declared.bands is not None:
        places = np.searchsorted(declared.bands.edges, numbers, side="right").astype(np.int32)
        yield (declared.bands.name,), _chosen(places, declared.bands.labels)


def _fields(target: Target, outputs: Outputs) -> Iterator[tuple[Path, Any]]:
    if target.kind == "number":
        yield ("prediction",), _numbers(outputs[target.part("value")])
        return
    yield ("prediction",), _labels(outputs[target.part("label")], target.classes)
    if not target.has_proba:
        return
    proba = outputs[target.part("proba")]
    if len(target.classes) == 2:
        yield ("probability",), _numbers(proba[:, 1])
    for column, label in enumerate(target.classes):
        path = ("probabilities", class_name(label))
        yield path, _numbers(proba[:, column])


def _numbers(numbers: Array) -> Any:
    return pa.array(np.ascontiguousarray(numbers, dtype=np.float64))


def _labels(labels: Array, classes: tuple[Label, ...]) -> Any:
    kinds = {type(label) for label in classes}
    if kinds == {str}:
        # A function may answer others than to its sample.
        found = tuple(dict.fromkeys([*classes, *labels.tolist()]))
        place = {label: i for i, label in enumerate(found)}
        places = np.array([place[label] for label in labels.tolist()], dtype=np.int32)
        return _chosen(places, found)
    if len(kinds) > 1:  # as JSON writes each
        return pa.array([class_name(label) for label in labels.tolist()], pa.string())
    return pa.array(labels.tolist(), _LABEL_TYPES[kinds.pop()])


def _chosen(places: Array, values: tuple[Any, ...]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(values, pa.string()))
