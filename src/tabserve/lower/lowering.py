"""One model being lowered: the graph so far, and how a step of any kind finds its lowering."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tabserve.lower.graph import CannotLower, Graph, Matrix
from tabserve.lower.tree import Tree
from tabserve.lowered import Link
from tabserve.types import Array, Parts

# Thresholds by column, each of shape (n_thresholds,), ascending.
Splits = dict[int, Array]

Transformer = Callable[[Any, Matrix, "Lowering"], Matrix]
Predictor = Callable[[Any, Matrix, "Lowering"], list["Scores"]]


@dataclass(frozen=True)
class Scores:
    """What the graph gives for one target, of shape (n_rows, width), and what makes it an answer.

    Whatever needs exp is left to the link: onnxruntime's own differs in the last digit with the
    place of a row in its batch.
    decision: what scikit-learn's decision_function gives, where there is one: "" where that is
    `value`.
    """

    value: str
    link: Link
    decision: str = ""


@dataclass
class Lowering:
    """inputs: what the graph takes."""

    transformers: Mapping[str, Transformer]
    predictors: Mapping[str, Predictor]
    inputs: Matrix
    parts: Parts = field(default_factory=dict)
    graph: Graph = field(default_factory=Graph)
    # Values of the graph that scikit-learn refuses where they are not finite.
    refused_if_infinite: list[str] = field(default_factory=list)
    # Values of the graph that trees decide on, with the thresholds by column.
    splits: list[tuple[str, Splits]] = field(default_factory=list)
    # Trees that decide on the inputs, and maybe on columns behind them.
    trees: list[Tree] = field(default_factory=list)

    @property
    def only_class(self) -> int | None:
        """The place of the one class whose probability is asked for; None where all are."""
        if len(self.parts) != 1:
            return None
        (place,) = self.parts.values()
        return place

    def of_all_classes(self) -> "Lowering":
        """The same, for an estimator that another one asks for all that it knows."""
        return replace(self, parts={})

    def as_float32(self, matrix: Matrix) -> Matrix:
        """Its numbers as scikit-learn's trees take them; those that a float32 cannot hold are
        refused.
        """
        rounded = self.graph.float32(matrix)
        self.refused_if_infinite.append(rounded.value)
        return rounded

    def as_double(self, matrix: Matrix) -> str:
        """Its numbers, of which scikit-learn refuses those that are not finite."""
        self.refuse(self.graph.node("IsNaN", matrix.numbers()))
        return self.as_double_or_missing(matrix)

    def as_double_or_missing(self, matrix: Matrix) -> str:
        """Its numbers, of which scikit-learn refuses infinite ones, and lets pass missing ones."""
        self.refused_if_infinite.append(matrix.numbers())
        return matrix.value

    def refuse(self, condition: str) -> None:
        """condition: of shape (n_rows, n), boolean."""
        graph = self.graph
        infinity = graph.constant(np.inf)
        self.refused_if_infinite.append(
            graph.node("Where", condition, infinity, graph.constant(0.0))
        )

    def transform(self, step: Any, matrix: Matrix) -> Matrix:
        """Raises CannotLower, naming the step."""
        lowered: Transformer = _of(self.transformers, step)
        return lowered(step, matrix, self)

    def predict(self, estimator: Any, matrix: Matrix) -> list[Scores]:
        """One for each target, which are the columns of what only transforms. Raises CannotLower,
        naming the estimator.
        """
        if not hasattr(estimator, "predict"):
            made = self.transform(estimator, matrix)
            return self.by_target(made.numbers(), made.width, Link())
        lowered: Predictor = _of(self.predictors, estimator)
        return lowered(estimator, matrix, self)

    def by_target(self, value: str, n_targets: int, link: Link) -> list[Scores]:
        """Each column of the value as the one score of a target."""
        if n_targets == 1:
            return [Scores(value, link)]
        return [Scores(self.graph.column(value, i), link) for i in range(n_targets)]


def check_is_double(model: Any, learnt: Array) -> None:
    """Raises CannotLower where scikit-learn would compute in float32."""
    if learnt.dtype != np.float64:
        raise CannotLower(f"a {type(model).__name__} fitted on {learnt.dtype}")


# Whose classes have lowerings: a user's own of the same name does something else.
_LIBRARIES = frozenset({"sklearn", "xgboost", "lightgbm", "catboost"})


def _of(lowerings: Mapping[str, Any], step: Any) -> Any:
    kind = type(step)
    known = lowerings.get(kind.__name__)
    if known is None or kind.__module__.partition(".")[0] not in _LIBRARIES:
        raise CannotLower(f"{kind.__name__} has no lowering")
    return known
