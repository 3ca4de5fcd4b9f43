"""A model as skl2onnx converts it: near to it and not equal, so only on its user's word."""

import warnings
from typing import Any, Literal

from tabserve.errors import MissingExtra
from tabserve.estimators import estimators, final_estimator
from tabserve.feature import Feature
from tabserve.signature import Signature

try:
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType
except ImportError as error:
    raise MissingExtra(error.name or "skl2onnx", "onnx") from None

Precision = Literal["double", "float"]

# What every onnxruntime that may serve it computes.
_OPSETS = {"": 18, "ai.onnx.ml": 3}
# Distances by one operator of onnxruntime's, and not by a loop.
_WITH_DISTANCES = frozenset(
    {
        "GaussianProcessClassifier", "GaussianProcessRegressor", "KNNImputer",
        "KNeighborsClassifier", "KNeighborsRegressor", "KNeighborsTransformer", "NearestNeighbors",
        "NeighborhoodComponentsAnalysis", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor",
    }
)  # fmt: skip


class CannotConvert(Exception):
    """With the reason."""


def convert(model: Any, signature: Signature, precision: Precision) -> bytes:
    """An ONNX file that takes numbers of that precision. Raises CannotConvert."""
    if signature.layout == "text" or any(one.type == "datetime" for one in signature.features):
        raise CannotConvert("it takes text alone, or dates")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it makes is compared
        try:
            converted = skl2onnx.convert_sklearn(
                model,
                initial_types=_inputs(model, signature, precision),
                options=_options(model),
                target_opset=_OPSETS,
            )
        except Exception as error:
            told = " ".join(str(error).split())[:300]
            raise CannotConvert(f"{type(error).__name__}: {told}") from error
    content: bytes = converted.SerializeToString()
    return content


def _inputs(model: Any, signature: Signature, precision: Precision) -> list[tuple[str, Any]]:
    """One table of numbers, or a column for each feature where there is text or steps choose
    columns by name.
    """
    number = DoubleTensorType if precision == "double" else FloatTensorType
    by_name = signature.layout == "frame" and (
        any(type(one).__name__ == "ColumnTransformer" for one in estimators(model))
    )
    if by_name or any(map(_is_text, signature.features)):
        return [
            (one.name, (StringTensorType if _is_text(one) else number)([None, 1]))
            for one in signature.features
        ]
    return [("rows", number([None, len(signature.features)]))]


def _is_text(feature: Feature) -> bool:
    return feature.type == "string"


def _options(model: Any) -> dict[int, dict[str, Any]]:
    final = final_estimator(model)
    options: dict[int, dict[str, Any]] = {}
    for one in estimators(model):
        chosen: dict[str, Any] = {}
        if type(one).__name__ in _WITH_DISTANCES:
            chosen["optim"] = "cdist"
        if one is final and hasattr(one, "classes_"):
            chosen["zipmap"] = False
        if chosen:
            options[id(one)] = chosen
    return options
