"""ONNX files are read before the runtime loads them."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tabserve.errors import ArtifactError
from tabserve.onnxfile import ML_OPERATORS, OPERATORS, check


def graph(nodes: list[Any], initializers: list[Any] | None = None) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 2])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 2])
    return helper.make_graph(nodes, "g", [x], [y], initializers or [])


def file(nodes: list[Any], initializers: list[Any] | None = None, **more: Any) -> bytes:
    content: bytes = helper.make_model(graph(nodes, initializers), **more).SerializeToString()
    return content


ADD = helper.make_node("Add", ["x", "c"], ["y"])
CONSTANT = numpy_helper.from_array(np.ones((1, 2)), "c")
GOOD = file([ADD], [CONSTANT])


def elsewhere() -> Any:
    tensor = numpy_helper.from_array(np.ones((1, 2)), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    return tensor


def nested(depth: int) -> Any:
    node = ADD
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph([node]))
    return node


def behind_numbers(tensor: Any) -> Any:
    """A node with one attribute that holds numbers of every length, then the tensor."""
    node = helper.make_node("Constant", [], ["y"], value_floats=[0.5, -1e30, 0.0])
    node.attribute[0].ints.extend([0, 1, 127, 128, 300, 2**62, -1])
    node.attribute[0].t.CopyFrom(tensor)
    return node


NUMBERS = file([behind_numbers(CONSTANT)])
FUNCTION = helper.make_function("mine", "f", ["x"], ["y"], [ADD], [helper.make_opsetid("", 22)])


def test_a_file_of_known_operators_is_taken() -> None:
    check(GOOD, "model.onnx")
    here = numpy_helper.from_array(np.ones((1, 2)), "c")
    here.data_location = TensorProto.DEFAULT
    check(file([ADD], [here]), "model.onnx")
    check(file([helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")]), "model.onnx")
    check(NUMBERS, "model.onnx")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (file([helper.make_node("Loop", ["x"], ["y"])]), "has the operator Loop"),
        (file([helper.make_node("Add", ["x"], ["y"], domain="mine")]), "has the operator mine.Add"),
        (file([ADD], [elsewhere()]), "keeps tensors in other files"),
        (file([helper.make_node("Constant", [], ["y"], value=elsewhere())]), "in other files"),
        (file([behind_numbers(elsewhere())]), "in other files"),
        (file([nested(2)], [elsewhere()]), "in other files"),
        (file([nested(9)]), "in one another"),
        (file([ADD], functions=[FUNCTION]), "functions"),
        (GOOD[:-5], "not a whole one"),
        (b"", "not a whole one"),
        (b"\x0f", "not a whole one"),
        (b"\xff" * 20, "not a whole one"),
    ],
)
def test_anything_else_is_refused_with_its_reason(content: bytes, sentence: str) -> None:
    with pytest.raises(ArtifactError, match=sentence):
        check(content, "model.onnx")


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tabserve.onnxfile.MAX_BYTES", len(GOOD) - 1)
    with pytest.raises(ArtifactError, match="bytes; expected at most"):
        check(GOOD, "model.onnx")


def test_the_listed_operators_are_those_of_the_standard() -> None:
    for domain, listed in (("", OPERATORS), ("ai.onnx.ml", ML_OPERATORS)):
        known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == domain}
        assert listed <= known


@given(st.sampled_from([GOOD, NUMBERS]), st.integers(0), st.integers(0, 255))
def test_an_altered_file_is_taken_or_refused_with_a_sentence(
    content: bytes, place: int, byte: int
) -> None:
    altered = bytearray(content)
    altered[place % len(content)] = byte
    try:
        check(bytes(altered), "model.onnx")
    except ArtifactError as error:
        assert str(error).startswith("model.onnx ")


@given(st.integers(0), st.integers(0, 255))
def test_runs_of_numbers_are_passed_over_as_one_after_the_other(place: int, byte: int) -> None:
    altered = bytearray(NUMBERS)
    altered[place % len(NUMBERS)] = byte

    def outcome() -> str:
        try:
            check(bytes(altered), "model.onnx")
        except ArtifactError as error:
            return str(error)
        return "taken"

    at_once = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabserve.onnxfile._NUMBERS", re.compile(rb"(?!)"))
        assert outcome() == at_once
