"""A fitted step beside its graph, and the rows that it is compared on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from tabserve.inference import signature_of
from tabserve.lower import PREDICTORS, TRANSFORMERS, input_matrix
from tabserve.lower.lowering import Lowering
from tabserve.lowered import Lowered
from tabserve.parity import columns_of
from tabserve.types import Array

random = np.random.default_rng(0)
N_ROWS = 300
BATCH_SIZES = (1, 7, 64)
ROWS = pd.DataFrame(
    {
        "a": np.where(random.random(N_ROWS) < 0.1, np.nan, random.normal(3, 2, N_ROWS)),
        "b": random.integers(-5, 5, N_ROWS),
        "c": random.lognormal(3, 1, N_ROWS),
        "d": np.round(random.normal(0, 1, N_ROWS), 1),
        "empty": np.nan,
        "colour": random.choice(
            ["red", "green", "blue", "grey"], N_ROWS, p=[0.6, 0.35, 0.03, 0.02]
        ),
        "size": pd.Series(random.choice(["S", "M", None], N_ROWS), dtype=object),
        "shape": pd.Series(random.choice(["O", "X"], N_ROWS), dtype=object).where(
            random.random(N_ROWS) < 0.7, np.nan
        ),
        "grade": random.choice([1.0, 2.0, np.nan], N_ROWS),
    }
)
NUMBERS = ["a", "b"]
FULL = ["b", "c", "d"]  # numbers of which none is missing
VALUE = np.nan_to_num(ROWS["a"]) + ROWS["b"] + 3.0 * (ROWS["colour"] == "red")
TWO = np.where(VALUE.median() < VALUE, "yes", "no")
THREE = pd.cut(VALUE, 3, labels=["low", "usual", "high"]).astype(str)


@dataclass(frozen=True)
class Transformed:
    """value: what the graph gives. refused: which rows scikit-learn would refuse."""

    value: Array
    refused: Array


def lowered(step: Any, rows: pd.DataFrame, seen: pd.DataFrame | None = None) -> Transformed:
    """Of all rows at once, which is to the same bits what it is of each alone and in batches.

    seen: rows that the signature is of, where the others have what is new; all may then be missing.
    """
    known = rows if seen is None else seen
    unknown = dict.fromkeys(known.columns[known.dtypes == "str"], "allow")
    signature = signature_of(step, known, "frame", {} if seen is None else unknown, "refuse")
    matrix = input_matrix(signature)
    lowering = Lowering(TRANSFORMERS, PREDICTORS, matrix)
    given = lowering.transform(step, matrix)
    outputs = {f"refused_{i}": value for i, value in enumerate(lowering.refused_if_infinite)}
    graph = lowering.graph.model(matrix.width, {"out": given.value} | outputs)
    session = onnxruntime.InferenceSession(graph)
    vocabularies = {
        column.name: tuple(column.vocabulary.values)
        for column in matrix.columns
        if column.vocabulary is not None
    }
    records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    plan = Lowered(vocabularies=vocabularies, links=())
    inputs = plan.matrix(signature, columns_of(signature, records))
    together, *refused = session.run(None, {"features": inputs})
    for size in BATCH_SIZES:
        batches = [
            session.run(["out"], {"features": inputs[start : start + size]})[0]
            for start in range(0, len(inputs), size)
        ]
        np.testing.assert_array_equal(np.concatenate(batches), together)
    assert together.shape[1] == given.width
    masks = [np.isinf(values).any(axis=1) for values in refused]
    return Transformed(together, np.any([np.zeros(len(rows), dtype=bool), *masks], axis=0))


def dense(transformed: Any) -> Array:
    array: Array = (
        transformed.toarray() if hasattr(transformed, "toarray") else np.asarray(transformed)
    )
    return array.astype(float)
