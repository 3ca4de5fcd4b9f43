"""An ONNX graph being written, and the matrices that flow through it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tabserve.errors import MissingExtra
from tabserve.lowered import MISSING
from tabserve.types import Array

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtra(error.name or "onnx", "sklearn") from None

# TreeEnsemble of ai.onnx.ml 5 is the first with double outputs; onnxruntime has it from 1.20 on.
OPSETS = {"": 22, "ai.onnx.ml": 5}
IR_VERSION = 10

INPUT = "features"

# What TreeEnsemble makes of its trees' leaves.
Aggregate = Literal["AVERAGE", "SUM"]
_AGGREGATES: dict[Aggregate, int] = {"AVERAGE": 0, "SUM": 1}


class CannotLower(Exception):
    """A step that has no exact graph; the message names it and says why."""


@dataclass
class Vocabulary:
    """The values of a column that is no number: each stands in the graph as its place here, one
    that is not listed as UNKNOWN, and a missing one as MISSING.
    """

    values: list[Any] = field(default_factory=list)

    def code(self, value: Any) -> float:
        """Its place, which it gets where it has none."""
        if value is None or value != value:
            return MISSING
        for place, known in enumerate(self.values):
            if known == value and type(known) is type(value):
                return float(place)
        self.values.append(value)
        return float(len(self.values) - 1)


@dataclass(frozen=True)
class Column:
    """origin: the place of the input that it rests on alone; where that is a number, missing or
    else rising with it or falling, be it in steps. None where there is no such input.
    name: of the feature, where the column is one as it came. vocabulary: of codes, else None.
    missing_is_none: of codes: what MISSING stands for is None and not NaN, which an imputer of NaN
    leaves alone.
    """

    origin: int | None = None
    name: str = ""
    vocabulary: Vocabulary | None = None
    missing_is_none: bool = False

    def code(self, value: Any) -> float:
        """What stands in the graph for a value of this column."""
        return float(value) if self.vocabulary is None else self.vocabulary.code(value)


@dataclass(frozen=True)
class Matrix:
    """A value of the graph, of shape (n_rows, len(columns)) and type double.

    is_sparse: whether scikit-learn's is a sparse matrix, of which XGBoost takes zeros for missing.
    """

    value: str
    columns: tuple[Column, ...]
    is_sparse: bool = False

    @property
    def width(self) -> int:
        return len(self.columns)

    def turned_into(self, value: str) -> "Matrix":
        """Numbers made of these columns one by one, by what only rises or falls."""
        return Matrix(value, tuple(Column(column.origin) for column in self.columns))

    @property
    def is_coded(self) -> bool:
        """Whether all columns hold codes."""
        return all(column.vocabulary is not None for column in self.columns)

    def is_coded_by(self, categories: Mapping[int, Sequence[Any]]) -> bool:
        """Whether a category's code is its place in the list for its column, and all other columns
        are numbers.
        """
        return all(
            column.vocabulary is None
            if place not in categories
            else column.vocabulary is not None
            and [column.code(value) for value in categories[place]]
            == list(range(len(categories[place])))
            for place, column in enumerate(self.columns)
        )

    def numbers(self) -> str:
        """Its value. Raises CannotLower where a column of it holds codes."""
        for column in self.columns:
            if column.vocabulary is not None:
                raise CannotLower(
                    f"{column.name} is text or a category, and reaches a step of numbers"
                )
        return self.value


class Graph:
    """Nodes and constants in the order of their making."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[Any] = []
        # By node without its outputs.
        self._outputs: dict[bytes, list[str]] = {}

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = name
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The name of the one value that the operator gives."""
        return self.nodes(operator, 1, *inputs, domain=domain, **attributes)[0]

    def nodes(
        self, operator: str, n_outputs: int, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """The names of the values that the operator gives; what is there already is not computed
        again.
        """
        outputs = [f"v{len(self._nodes)}_{i}" for i in range(n_outputs)]
        node = helper.make_node(operator, list(inputs), [], domain=domain, **attributes)
        known = self._outputs.setdefault(node.SerializeToString(), outputs)
        if known is outputs:
            node.output.extend(outputs)
            self._nodes.append(node)
        return known

    def tree_ensemble(
        self,
        value: str,
        n_targets: int,
        arrays: dict[str, Array],
        aggregate: Aggregate = "SUM",
    ) -> str:
        """TreeEnsemble of ai.onnx.ml 5, in the type of `value` and of nodes_splits and
        leaf_weights. arrays: its attributes by name.
        """
        tensors = {"nodes_splits", "nodes_modes", "leaf_weights", "membership_values"}
        attributes = {
            name: numpy_helper.from_array(array) if name in tensors else array.astype(int).tolist()
            for name, array in arrays.items()
        }
        return self.node(
            "TreeEnsemble",
            value,
            domain="ai.onnx.ml",
            n_targets=n_targets,
            aggregate_function=_AGGREGATES[aggregate],
            post_transform=0,
            **attributes,
        )

    def select(self, matrix: Matrix, places: list[int]) -> Matrix:
        if places == list(range(matrix.width)):
            return matrix
        chosen = self.node("Gather", matrix.value, self.constant(places, np.int64), axis=1)
        return Matrix(chosen, tuple(matrix.columns[place] for place in places))

    def concat(self, matrices: list[Matrix]) -> Matrix:
        filled = [matrix for matrix in matrices if matrix.width]
        if len(filled) == 1:
            return filled[0]
        if not filled:
            raise CannotLower("no column reaches the estimator")
        value = self.node("Concat", *(matrix.value for matrix in filled), axis=1)
        return Matrix(value, tuple(column for matrix in filled for column in matrix.columns))

    def columns(self, value: str, places: list[int]) -> str:
        return self.node("Gather", value, self.constant(places, np.int64), axis=1)

    def column(self, value: str, place: int) -> str:
        """Shape (n_rows, 1); the last is -1."""
        return self.columns(value, [place])

    def sum(self, values: Iterable[str]) -> str:
        """One after another."""
        return reduce(lambda total, value: self.node("Add", total, value), values)

    def shares(self, values: str, n: int, *, of_zero: float) -> str:
        """Of their sum, row by row; where that is 0, of_zero. values: shape (n_rows, n)."""
        total = self.node("MatMul", values, self.constant(np.ones((n, 1))))
        is_zero = self.node("Equal", total, self.constant(0.0))
        divided = self.node("Div", values, total)
        return self.node("Where", is_zero, self.constant(of_zero), divided)

    def same_for_all(self, row: ArrayLike) -> str:
        """The numbers of one row, for each."""
        n_rows = self.node("Shape", INPUT, start=0, end=1)
        shape = self.node("Concat", n_rows, self.constant([1], np.int64), axis=0)
        return self.node("Expand", self.constant([row]), shape)

    def minus_from(self, number: float, value: str) -> str:
        return self.node("Sub", self.constant(number), value)

    def as_double(self, value: str) -> str:
        return self.node("Cast", value, to=TensorProto.DOUBLE)

    def as_integer(self, value: str) -> str:
        return self.node("Cast", value, to=TensorProto.INT64)

    def as_float(self, value: str) -> str:
        return self.node("Cast", value, to=TensorProto.FLOAT)

    def float32(self, matrix: Matrix) -> Matrix:
        """Each number rounded to a float32, as trees take it, and widened again."""
        return Matrix(self.short(matrix.numbers()), matrix.columns)

    def short(self, value: str) -> str:
        """Of a double the digits that a float32 holds."""
        return self.as_double(self.as_float(value))

    def model(self, n_features: int, outputs: dict[str, str]) -> bytes:
        """The finished file, of what the outputs rest on. outputs: the graph's values by the name
        that they get.
        """
        named = [helper.make_node("Identity", [value], [name]) for name, value in outputs.items()]
        nodes, used = [], set(outputs.values())
        for node in reversed(self._nodes):
            if used & set(node.output):
                nodes.append(node)
                used.update(node.input)
        graph = helper.make_graph(
            [*reversed(nodes), *named],
            "tabserve",
            [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, ["n_rows", n_features])],
            [
                helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n_rows", None])
                for name in outputs
            ],
            [tensor for tensor in self._initializers if tensor.name in used],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content
