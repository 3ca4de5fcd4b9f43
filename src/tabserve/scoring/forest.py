"""A lowered forest as its graph holds it, on the inputs themselves."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tabserve.errors import MissingExtra
from tabserve.types import Array

try:
    import onnx
    from onnx import numpy_helper
except ImportError:
    raise MissingExtra("onnx", "score") from None

LEQ, EQ = 0, 4
_SUM, _AVERAGE = 1, 0

# How the operators of a graph stand that is one forest: as it is, and as it is laid out
# (lower/layout.py), without and with columns that say whether a category is another one.
_PLAIN = ["TreeEnsemble", "Identity"]
_LAID_OUT = ["Neg", "Concat", *_PLAIN]
_WITH_EQUALS = ["Neg", "TreeEnsemble", "Concat", *_PLAIN]


@dataclass(frozen=True)
class Forest:
    """Nodes of all trees one after another, then their leaves: `true` and `false` are places in
    that order. feature, threshold, mode, missing: of nodes. weight: of leaves.
    """

    feature: Array
    threshold: Array
    mode: Array
    missing: Array
    true: Array
    false: Array
    weight: Array
    roots: Array
    divisor: float

    @property
    def n_nodes(self) -> int:
        return len(self.feature)


def read_forest(graph: bytes) -> Forest | None:
    """None where the graph is more than one forest that decides on the inputs themselves."""
    found = onnx.load_from_string(graph).graph
    operators = [node.op_type for node in found.node]
    if operators not in (_PLAIN, _LAID_OUT, _WITH_EQUALS):
        return None
    forest = _read(_attributes(found.node[-2]))
    if forest is None or operators == _PLAIN:
        return forest
    equals = _attributes(found.node[1]) if operators == _WITH_EQUALS else None
    width = found.input[0].type.tensor_type.shape.dim[1].dim_value
    return _on_the_inputs(forest, width, equals)


def _attributes(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        is_tensor = isinstance(value, onnx.TensorProto)
        found[attribute.name] = numpy_helper.to_array(value) if is_tensor else np.array(value)
    return found


def _read(found: dict[str, Any]) -> Forest | None:
    modes, divisor = found["nodes_modes"], 1.0
    if found["aggregate_function"] == _AVERAGE:
        divisor = float(len(found["tree_roots"]))
    elif found["aggregate_function"] != _SUM:
        return None
    if found["n_targets"] != 1 or not np.isin(modes, [LEQ, EQ]).all():
        return None
    if found["nodes_splits"].dtype != np.float64 or np.isnan(found["nodes_splits"]).any():
        return None
    n_nodes = len(modes)
    missing = found.get("nodes_missing_value_tracks_true")
    return Forest(
        feature=found["nodes_featureids"],
        threshold=found["nodes_splits"],
        mode=modes,
        missing=np.zeros(n_nodes, bool) if missing is None else missing != 0,
        true=found["nodes_truenodeids"] + n_nodes * found["nodes_trueleafs"],
        false=found["nodes_falsenodeids"] + n_nodes * found["nodes_falseleafs"],
        weight=found["leaf_weights"],
        roots=found["tree_roots"],
        divisor=divisor,
    )


def _on_the_inputs(forest: Forest, width: int, equals: dict[str, Any] | None) -> Forest:
    """Undoes what lower/layout.py did: its columns are the inputs, their negatives, for each pair
    of an input and a value whether they are different, and the negatives of that.
    """
    feature, threshold, mode = forest.feature.copy(), forest.threshold.copy(), forest.mode.copy()
    # -x <= t where x is greater than the last number before -t.
    swapped = (feature >= width) & (feature < 2 * width)
    feature[swapped] -= width
    threshold[swapped] = np.nextafter(-threshold[swapped], -np.inf)
    if equals is not None:
        n_pairs = int(equals["n_targets"]) // 2
        asks_equal = forest.feature >= 2 * width
        pair = forest.feature[asks_equal] - 2 * width
        feature[asks_equal] = equals["nodes_featureids"][pair % n_pairs]
        threshold[asks_equal] = equals["nodes_splits"][pair % n_pairs]
        mode[asks_equal] = EQ
        swapped[asks_equal] = pair >= n_pairs
    return replace(
        forest,
        feature=feature,
        threshold=threshold,
        mode=mode,
        missing=forest.missing ^ swapped,
        true=np.where(swapped, forest.false, forest.true),
        false=np.where(swapped, forest.true, forest.false),
    )
