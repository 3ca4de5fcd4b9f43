"""What an ONNX file would have the runtime do, read before the runtime sees it.

Only what a check needs of Protocol Buffers' wire format (protobuf.dev, "Encoding"), so that serving
needs no package for it. Numbers of fields are those of onnx.proto3.
"""

import re
from collections.abc import Iterator

from tabserve.errors import ArtifactError

# Larger than any model of tables that fits beside others in a small server.
MAX_BYTES = 2**30
# A graph may hold graphs (If): not so many in one another that reading them ends the process.
_MAX_DEPTH = 8

# Those of the standard that compute a fixed number of steps from numbers and text alone.
OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "Ceil", "Clip", "Concat", "Constant",
        "ConstantOfShape", "CumSum", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor",
        "Gather", "GatherElements", "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Identity",
        "If", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min", "Mod",
        "Mul", "Neg", "Not", "OneHot", "Or", "Pow", "Range", "Reciprocal", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
        "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Shape", "Sigmoid", "Sign",
        "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK",
        "Transpose", "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip
ML_OPERATORS = frozenset(
    {
        "ArrayFeatureExtractor", "Binarizer", "CategoryMapper", "DictVectorizer",
        "FeatureVectorizer", "Imputer", "LabelEncoder", "LinearClassifier", "LinearRegressor",
        "Normalizer", "OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler", "TreeEnsemble",
        "TreeEnsembleClassifier", "TreeEnsembleRegressor", "ZipMap",
    }
)  # fmt: skip
# Distances of rows, which converters write for neighbours; the standard has a loop for it.
_RUNTIMES_OWN = frozenset({"CDist"})
_OPERATORS_OF = {
    "": OPERATORS, "ai.onnx": OPERATORS, "ai.onnx.ml": ML_OPERATORS, "com.microsoft": _RUNTIMES_OWN,
}  # fmt: skip

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# An attribute's floats (7) and ints (8), each a field of its own: 300,000 in the file of a forest,
# which one after the other took three tenths of a server's start. Possessive: nothing to remember.
_NUMBERS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f])++", re.DOTALL)


def check(content: bytes, name: str) -> None:
    """Raises ArtifactError for what is not read whole, operators that are not listed, functions of
    the file's own, and tensors that lie in other files.
    """
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{name} has {len(content)} bytes; expected at most {MAX_BYTES}.")
    try:
        _check_model(memoryview(content))
    except (IndexError, _Malformed):
        raise ArtifactError(f"{name} is no ONNX file, or not a whole one.") from None
    except _Refused as reason:
        raise ArtifactError(f"{name} {reason}; tabserve does not load that.") from None


class _Malformed(Exception):
    pass


class _Refused(Exception):
    pass


def _check_model(model: memoryview) -> None:
    graphs = 0
    for number, value in _messages(model):
        if number == 7:  # graph
            graphs += 1
            _check_graph(value, _MAX_DEPTH)
        elif number in (20, 25):  # training_info, functions
            raise _Refused("holds functions or training steps of its own")
    if graphs != 1:
        raise _Malformed


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth == 0:
        raise _Refused(f"holds graphs in one another, more than {_MAX_DEPTH} deep")
    for number, value in _messages(graph):
        if number == 1:  # node
            _check_node(value, depth)
        elif number == 5:  # initializer
            _check_tensor(value)
        elif number == 15:  # sparse_initializer
            _check_sparse(value)


def _check_node(node: memoryview, depth: int) -> None:
    operator, domain = "", ""
    for number, value in _messages(node):
        if number == 4:  # op_type
            operator = _text(value)
        elif number == 7:  # domain
            domain = _text(value)
        elif number == 5:  # attribute
            _check_attribute(value, depth)
    if operator not in _OPERATORS_OF.get(domain, ()):
        full = f"{domain}.{operator}" if domain else operator
        raise _Refused(f"has the operator {full[:200]}")


def _check_attribute(attribute: memoryview, depth: int) -> None:
    for number, value in _messages(attribute):
        if number in (5, 10):  # t, tensors
            _check_tensor(value)
        elif number in (6, 11):  # g, graphs
            _check_graph(value, depth - 1)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            _check_sparse(value)


def _check_sparse(tensor: memoryview) -> None:
    for number, value in _messages(tensor):
        if number in (1, 2):  # values, indices
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    for number, _, value in _fields(tensor):
        # external_data, and a data_location other than here
        if number == 13 or (number == 14 and value.tobytes() != b"\0"):
            raise _Refused("keeps tensors in other files")


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Those fields that are messages, text or packed numbers."""
    for number, kind, value in _fields(message):
        if kind == _BYTES:
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, kind and content of each but single numbers that say nothing about it."""
    place = 0
    while place < len(message):
        if numbers := _NUMBERS.match(message, place):
            place = numbers.end()
            continue
        key, place = _varint(message, place)
        kind = key & 7
        start = place
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind == _BYTES:
            length, start = _varint(message, place)
            place = start + length
        elif kind in (_FIXED32, _FIXED64):
            place += 4 if kind == _FIXED32 else 8
        else:
            raise _Malformed
        if place > len(message):
            raise _Malformed
        yield key >> 3, kind, message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise _Malformed


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")
