"""An ONNX file: what it says of itself, and what a sample adds."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np

from tabserve import inference, runtime
from tabserve.artifact import Exactness, ModelFormat
from tabserve.engines.onnx_model import (
    Input,
    OnnxModelEngine,
    by_column,
    probabilities,
    roles_of,
)
from tabserve.errors import ArtifactError, MissingExtra, PackError, WrongFormat
from tabserve.feature import Unknown
from tabserve.output import Label, Target
from tabserve.sample import columns_of, framed
from tabserve.signature import Feature, Signature
from tabserve.types import Array, Engine, Outputs, Parts

try:
    import onnx
    import pandas as pd
except ImportError as error:
    raise MissingExtra(error.name or "onnx", "sklearn") from None

_TYPES: dict[str, Literal["integer", "number", "boolean", "string"]] = {
    "f": "number",
    "i": "integer",
    "b": "boolean",
    "O": "string",
}
_USUAL = {"number": 0.0, "integer": 0, "boolean": False, "string": "text"}
# An outlier detector of scikit-learn's, as converters write it.
_OUTLIER_LABELS = (-1, 1)


class OnnxModel:
    """file_name: for errors. Raises PackError for what is no ONNX file of a model of tables."""

    name_of_type = "ONNX"
    # What onnxruntime sums, it sums in another order on another CPU.
    exactness: Exactness = "close"
    lowerable = None

    def __init__(self, content: bytes, file_name: str) -> None:
        self._content = content
        self._file_name = file_name
        try:
            self._session = runtime.session(content, file_name)
            self._roles = roles_of(self._session)
        except WrongFormat as error:
            raise PackError(f"{file_name} cannot be packed. {error}") from None
        except ArtifactError as error:
            raise PackError(str(error)) from None

    def rows(self, data: Any) -> Any:
        """By name where each column has its input; a whole table as it stands."""
        rows = data if isinstance(data, pd.DataFrame) else framed(data)
        names = [one.name for one in self._inputs_by_column()]
        missing = [name for name in names if name not in rows.columns]
        if missing:
            raise PackError(
                f"The sample data lacks the column(s) {', '.join(missing)}, which are inputs of "
                f"{self._file_name}; it has {', '.join(map(str, rows.columns))}."
            )
        width = self._roles.inputs[0].width
        if not names and width not in (None, rows.shape[1]):
            raise PackError(
                f"{self._file_name} takes {width} columns and the sample has {rows.shape[1]}: "
                f"{', '.join(map(str, rows.columns))}. Name the target with --target, and leave "
                "out what the model does not take."
            )
        return rows[names] if names else rows.rename(columns=str)

    def usual_rows(self) -> Any:
        inputs = self._inputs_by_column()
        if not inputs:
            one = self._roles.inputs[0]
            if one.width is None:
                raise PackError(
                    f"{self._file_name} does not say how many columns it takes; give sample rows "
                    "with --data."
                )
            inputs = [Input(f"x{i}", one.dtype, is_flat=False, width=1) for i in range(one.width)]
        return pd.DataFrame(
            {
                one.name: np.full(1, _USUAL[_TYPES[one.dtype.kind]], dtype=one.dtype)
                for one in inputs
            }
        )

    def signature(
        self, rows: Any, unknown: Mapping[str, Unknown], extra_fields: Literal["refuse", "ignore"]
    ) -> Signature:
        found = inference.signature_of(None, rows, "frame", unknown, extra_fields)
        inputs = self._inputs_by_column() or self._roles.inputs * len(found.features)
        features = tuple(map(_as_taken, found.features, inputs))
        return found.model_copy(update={"features": features})

    def targets(self, rows: Any, target: Any | None) -> tuple[Target, ...]:
        signature = self.signature(rows, {}, "refuse")
        engine = OnnxModelEngine(self._content, signature, (), {}, self._file_name)
        found = engine.run(columns_of(rows, signature))
        if self._roles.label is None:
            return self._numbers(found, target)
        labels = np.asarray(found[self._roles.label]).reshape(-1)
        scores = None if self._roles.scores is None else found[self._roles.scores]
        return (self._classes(labels, scores),)

    def _numbers(self, found: dict[str, Any], target: Any | None) -> tuple[Target, ...]:
        names = [
            name if len(columns) == 1 else f"{name}_{i}"
            for name in self._roles.values
            for columns in (by_column(found[name]),)
            for i in range(len(columns))
        ]
        if len(names) == 1:
            return (Target(kind="number"),)
        if isinstance(target, pd.DataFrame) and target.shape[1] == len(names):
            names = list(map(str, target.columns))
        return tuple(Target(name=name, kind="number") for name in names)

    def _classes(self, labels: Array, scores: Any) -> Target:
        """Of the lists of labels in the file, the one that its own answers keep to."""
        if isinstance(scores, list):
            return Target(kind="classes", classes=_sorted(scores[0]), has_proba=True)
        width = None if scores is None else np.asarray(scores).reshape(len(labels), -1).shape[1]
        if width == 1 and set(labels.tolist()) <= set(_OUTLIER_LABELS):
            return Target(kind="classes", classes=_OUTLIER_LABELS, has_score=True)
        for classes in _listed_labels(self._content, labels.dtype.kind):
            if width is not None and len(classes) != width:
                continue
            if _keeps_to(labels, scores, classes):
                return Target(kind="classes", classes=classes, has_proba=width is not None)
        if width is not None and labels.dtype.kind in "iu":
            classes = tuple(range(width))
            if _keeps_to(labels, scores, classes):
                return Target(kind="classes", classes=classes, has_proba=True)
        raise PackError(
            f"{self._file_name} answers labels and does not say which there are. Export it with "
            "ZipMap, or with the operator that holds its class labels."
        )

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def engine(self, signature: Signature, targets: tuple[Target, ...], parts: Parts) -> Engine:
        return OnnxModelEngine(self._content, signature, targets, parts, self._file_name)

    def outputs(self, engine: Engine, rows: Any) -> Outputs:
        return engine.predict(columns_of(rows, self.signature(rows, {}, "refuse")))

    def files(self) -> dict[ModelFormat, bytes]:
        return {"onnx": self._content}

    def packed(
        self,
        files: Mapping[ModelFormat, bytes],
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
    ) -> Engine:
        return OnnxModelEngine(files["onnx"], signature, targets, parts, self._file_name)

    def libraries(self) -> dict[str, str]:
        return {"onnxruntime": runtime.VERSION, "numpy": np.__version__}

    def _inputs_by_column(self) -> list[Input]:
        inputs = self._roles.inputs
        is_table = len(inputs) == 1 and inputs[0].width != 1
        return [] if is_table else list(inputs)


def _as_taken(feature: Feature, one: Input) -> Feature:
    """Text and whole numbers have nothing in ONNX that says missing."""
    kind = _TYPES[one.dtype.kind]
    fits = {
        "number": ("number", "integer", "boolean"),
        "integer": ("integer", "boolean"),
        "boolean": ("boolean",),
        "string": ("string",),
    }
    if feature.type not in fits[kind]:
        raise PackError(
            f"The input {one.name} takes {kind} values, and the sample's column {feature.name} "
            f"holds {feature.type} values."
        )
    told = feature.model_dump() | {"nullable": feature.nullable and kind == "number"}
    return Feature(**told)


def _sorted(mapping: dict[Any, float]) -> tuple[Label, ...]:
    return tuple(sorted(mapping))


def _keeps_to(labels: Array, scores: Any, classes: tuple[Any, ...]) -> bool:
    if scores is None:
        return set(labels.tolist()) <= set(classes)
    best: list[int] = probabilities(scores, classes).argmax(axis=1).tolist()
    found: list[Any] = labels.tolist()
    return found == [classes[place] for place in best]


def _listed_labels(content: bytes, kind: str) -> Iterator[tuple[Any, ...]]:
    """Lists of labels in the file: of its classifiers, and constants of the labels' type."""
    graph = onnx.load_from_string(content).graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name.startswith("classlabels_"):
                if kind in "iu" and attribute.ints:
                    yield tuple(attribute.ints)
                elif kind not in "iu" and attribute.strings:
                    yield tuple(text.decode() for text in attribute.strings)
    for tensor in graph.initializer:
        if len(tensor.dims) == 1 and tensor.dims[0] > 1:
            values = onnx.numpy_helper.to_array(tensor)
            if (values.dtype.kind in "iu") == (kind in "iu") and values.dtype.kind in "iuOSU":
                listed = values.tolist()
                yield tuple(v.decode() if isinstance(v, bytes) else v for v in listed)
