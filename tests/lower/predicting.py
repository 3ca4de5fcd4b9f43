"""A fitted model beside its graph: the claim of every test of a lowered estimator."""

from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from tabserve.engines.onnx import OnnxEngine
from tabserve.exactness import exactness_of
from tabserve.inference import signature_of
from tabserve.lower import INPUT, PREDICTORS, TRANSFORMERS, input_matrix, lower
from tabserve.lower.lowering import Lowering
from tabserve.output import Target
from tabserve.parity import columns_of, in_batches
from tabserve.sample import layout_of, model_input
from tabserve.targets import targets_of
from tabserve.types import Columns, Outputs

BATCH_SIZES = (7, 64)


def assert_served_as_predicted(model: Any, rows: pd.DataFrame) -> None:
    """The graph's answers to the rows are the model's own, in its class, and the same bits alone as
    in batches.
    """
    engine, targets, columns = served(model, rows)
    expected = predicted(model, rows, targets)
    found = in_batches(engine, columns, len(rows))
    for size in (1, *BATCH_SIZES):
        batched = in_batches(engine, columns, size)
        for part, values in found.items():
            np.testing.assert_array_equal(batched[part], values)
    assert found.keys() == expected.keys()
    for part, values in found.items():
        assert_exact(part, values, expected[part], exactness_of(model))


def served(model: Any, rows: pd.DataFrame) -> tuple[OnnxEngine, tuple[Target, ...], Columns]:
    """The graph's engine, for all that the model answers, and the rows as it takes them."""
    sample = model_input(model, rows)
    signature = signature_of(model, sample, layout_of(model, rows), {}, "refuse")
    targets = targets_of(model, _given(model, sample), None)
    parts = {
        target.part(part): None
        for target in targets
        for part in (("value",) if target.kind == "number" else ("label", "proba", "score"))
        if (part != "proba" or target.has_proba) and (part != "score" or target.has_score)
    }
    lowered = lower(model, signature, parts)
    engine = OnnxEngine(lowered.graph, lowered.refused, lowered.plan, signature, targets, parts)
    records = sample.astype(object).where(sample.notna(), None).to_dict("records")
    return engine, targets, columns_of(signature, records)


def decided(model: Any, rows: pd.DataFrame) -> Any:
    """The graph's decision function: raw scores, before any link."""
    sample = model_input(model, rows)
    signature = signature_of(model, sample, layout_of(model, rows), {}, "refuse")
    matrix = input_matrix(signature)
    lowering = Lowering(TRANSFORMERS, PREDICTORS, matrix)
    (scores,) = lowering.predict(model, matrix)
    content = lowering.graph.model(matrix.width, {"out": scores.decision or scores.value})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several add a row's trees in parts
    session = onnxruntime.InferenceSession(content, options)
    (decision,) = session.run(None, {INPUT: sample.to_numpy(float)})
    return decision if decision.shape[1] > 1 else decision[:, 0]


def predicted(model: Any, rows: pd.DataFrame, targets: tuple[Target, ...]) -> Outputs:
    """What the library itself says, by the parts of an engine's outputs."""
    given = _given(model, rows)
    answer = model.predict if hasattr(model, "predict") else model.transform
    labels = np.asarray(answer(given)).reshape(len(rows), -1)
    probas = model.predict_proba(given) if targets[0].has_proba else []
    probas = probas if isinstance(probas, list) else [probas]
    outputs: Outputs = {}
    for i, target in enumerate(targets):
        outputs[target.part("value" if target.kind == "number" else "label")] = labels[:, i]
        if target.has_score:
            outputs[target.part("score")] = model.decision_function(given)
        if target.has_proba:
            outputs[target.part("proba")] = probas[i]
    return outputs


def _given(model: Any, rows: pd.DataFrame) -> Any:
    return rows if hasattr(model, "feature_names_in_") else rows.to_numpy()


def assert_exact(part: str, found: Any, expected: Any, exactness: str) -> None:
    """Equal; for `close` within 1e-12 of the scale: BLAS, exp, log and pow give other last digits
    with the number of rows.
    """
    if part.endswith("label") or exactness == "bits":
        assert found.tolist() == expected.tolist()
    else:
        scale = 1 if part.endswith("proba") else np.abs(expected).max()
        assert np.abs(found - expected).max() <= 1e-12 * scale
