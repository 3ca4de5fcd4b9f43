"""An ONNX file of the user's or a converter's, computed as it is, from the inputs it declares."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tabserve import runtime
from tabserve.errors import BadModelOutput, WrongFormat
from tabserve.output import Target
from tabserve.signature import Signature, unusable
from tabserve.types import Array, Columns, Outputs, Parts, Values

# What a model of tables may take and give, as numpy has it.
DTYPES: "dict[str, np.dtype[Any]]" = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(string)": np.dtype(object),
}
_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(bool)", "tensor(string)")
_NUMBERS = ("tensor(float)", "tensor(double)")


@dataclass(frozen=True)
class Input:
    """width: how many columns of the table it takes; None where the file does not say."""

    name: str
    dtype: "np.dtype[Any]"
    is_flat: bool  # shape (n_rows,)
    width: int | None


@dataclass(frozen=True)
class Roles:
    """What each input and output of a file is.

    inputs: one for each column of the table, or one for the whole table.
    scores: beside a label: probabilities, or an outlier's score; a tensor or a list of mappings.
    values: numbers, where there is no label.
    """

    inputs: tuple[Input, ...]
    label: str | None
    scores: str | None
    values: tuple[str, ...]


def roles_of(session: Any) -> Roles:
    """Raises WrongFormat where they are not those of a model of tables."""
    inputs = tuple(_input(given) for given in session.get_inputs())
    if not inputs or (len(inputs) > 1 and any(one.width not in (1, None) for one in inputs)):
        raise WrongFormat("an ONNX file with one input for the whole table, or one for each column")
    kinds = {given.name: given.type for given in session.get_outputs()}
    labels = [name for name, kind in kinds.items() if kind in _LABELS]
    numbers = [name for name, kind in kinds.items() if kind in _NUMBERS]
    scores = [name for name, kind in kinds.items() if name in numbers or kind.startswith("seq(map")]
    if not labels and len(numbers) == len(kinds):
        return Roles(inputs, None, None, tuple(numbers))
    if len(labels) == 1 and len(scores) <= 1 and len(kinds) == 1 + len(scores):
        return Roles(inputs, labels[0], scores[0] if scores else None, ())
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    raise WrongFormat(
        f"an ONNX file whose outputs are numbers, or a label and its probabilities; it has {listed}"
    )


def _input(given: Any) -> Input:
    dtype, shape = DTYPES.get(given.type), list(given.shape)
    if dtype is None or len(shape) not in (1, 2):
        raise WrongFormat(
            "an ONNX file that takes rows of float, double, int, bool or string; its input "
            f"{given.name} is {given.type} of the shape {shape}"
        )
    if len(shape) == 1:
        return Input(given.name, dtype, is_flat=True, width=1)
    width = shape[1] if isinstance(shape[1], int) else None
    return Input(given.name, dtype, is_flat=False, width=width)


class OnnxModelEngine:
    """name: the file's, for errors."""

    name = "onnx"
    reentrant = True

    def __init__(
        self,
        content: bytes,
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
        file_name: str,
    ) -> None:
        self._session = runtime.session(content, file_name)
        self._roles = roles_of(self._session)
        self._signature = signature
        self._targets = targets
        self._classes = {label: label for target in targets for label in target.classes}
        self._parts = parts

    def predict(self, values: Values) -> Outputs:
        """Raises InvalidInput where a number is none any more as a float32."""
        columns = self._signature.arrays(values)
        found = self.run(columns)
        label = self._roles.label
        return self._values(found) if label is None else self._labelled(found)

    @property
    def takes_float32(self) -> bool:
        """Whether it refuses larger numbers."""
        return any(one.dtype == np.float32 for one in self._roles.inputs)

    def run(self, columns: Columns) -> dict[str, Any]:
        """What onnxruntime says, by output of the file."""
        outputs = self._session.get_outputs()
        found = self._session.run(None, self._feed(columns))
        return {given.name: value for given, value in zip(outputs, found, strict=True)}

    def _feed(self, columns: Columns) -> dict[str, Array]:
        inputs, arrays = self._roles.inputs, list(columns.values())
        with np.errstate(over="ignore"):
            if len(inputs) == 1 and not (inputs[0].is_flat and len(arrays) == 1):
                one = inputs[0]
                fed = {one.name: np.stack([array.astype(one.dtype) for array in arrays], axis=1)}
            else:
                fed = {
                    one.name: _shaped(array.astype(one.dtype), one)
                    for one, array in zip(inputs, arrays, strict=True)
                }
        if any(array.dtype.kind == "f" and np.isinf(array).any() for array in fed.values()):
            raise unusable(columns)
        return fed

    def _labelled(self, found: dict[str, Any]) -> Outputs:
        (target,) = self._targets
        outputs: Outputs = {}
        if target.part("label") in self._parts:
            listed = np.asarray(found[self._roles.label or ""]).reshape(-1).tolist()
            # 1 is True, where that is the class.
            labels = [self._classes.get(label, label) for label in listed]
            outputs[target.part("label")] = np.array([*labels, None], dtype=object)[:-1]
        if target.part("score") in self._parts:
            outputs[target.part("score")] = _doubles(found[self._roles.scores or ""]).reshape(-1)
        if target.part("proba") in self._parts:
            proba = probabilities(found[self._roles.scores or ""], target.classes)
            column = self._parts[target.part("proba")]
            outputs[target.part("proba")] = proba if column is None else proba[:, column]
        return outputs

    def _values(self, found: dict[str, Any]) -> Outputs:
        columns = [column for name in self._roles.values for column in by_column(found[name])]
        if len(columns) != len(self._targets):
            raise BadModelOutput(
                f"The model answered {len(columns)} numbers a row, expected {len(self._targets)}."
            )
        return {
            target.part("value"): column
            for target, column in zip(self._targets, columns, strict=True)
        }


def by_column(values: Any) -> list[Array]:
    array = _doubles(values)
    return list(array.reshape(len(array), -1).T)


def probabilities(scores: Any, classes: tuple[Any, ...]) -> Array:
    """Shape (n_rows, n_classes). scores: a tensor, or a mapping for each row (ZipMap)."""
    if isinstance(scores, list):
        return np.array([[row[label] for label in classes] for row in scores], dtype=np.float64)
    return _doubles(scores)


def _doubles(values: Any) -> Array:
    return np.asarray(values).astype(np.float64)


def _shaped(array: Array, one: Input) -> Array:
    return array if one.is_flat else array.reshape(-1, 1)
