"""Pickles are judged by what they would import, and never loaded for it."""

import io
import operator
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib.numpy_pickle import NumpyUnpickler
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from tabserve import compression, pickles
from tabserve.errors import UntrustedModel
from tests.estimators import NanClassifier

ROWS = pd.DataFrame(
    {
        "size": np.arange(1.0, 61.0),
        "city": ["Bonn", "Kiel", None] * 20,
        "text": ["a longer text", "of some", "words"] * 20,
    }
)
ENCODED = make_column_transformer(
    (FunctionTransformer(np.log1p), ["size"]),
    (OneHotEncoder(), ["city"]),
    (TfidfVectorizer(), "text"),
)
NUMBERS = ROWS[["size"]].to_numpy()

OBJECTS: dict[str, Any] = {
    "pipeline": make_pipeline(ENCODED, Ridge()).fit(ROWS, ROWS["size"]),
    "forest": RandomForestClassifier(3).fit(NUMBERS, NUMBERS[:, 0] > 9),
    "boosting": HistGradientBoostingRegressor(max_iter=3).fit(NUMBERS, NUMBERS[:, 0]),
    "frame": ROWS.astype({"city": "category"}),
    "arrays": {
        "objects": np.array([{"a": 1}, np.arange(3), None], dtype=object),
        "structured": np.array([(1, {})], dtype=[("a", "i4"), ("b", object)]),
        "nested": np.array([(1, [1.0] * 3)], dtype=[("a", "i4"), ("b", "f8", (3,))]),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
        "texts": np.array(["aa", "b"]),
        "column by column": np.asfortranarray(NUMBERS),
        "empty": np.empty((0, 3)),
        "no dimension": np.array(3.0),
    },
}
COMPRESSED = [0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)]


def dumped(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer, **options)
    return buffer.getvalue()


def imported_by_joblib(content: bytes) -> set[str]:
    """What loading it does import."""

    class Recording(NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            found.add(f"{module}.{name}")
            return super().find_class(module, name)

    found: set[str] = set()
    Recording("", compression.opened(content), ensure_native_byte_order=True).load()
    return found


@pytest.mark.parametrize("compress", COMPRESSED, ids=str)
@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_read_is_what_loading_imports(kind: str, compress: Any) -> None:
    content = dumped(OBJECTS[kind], compress=compress)
    found = pickles.imports(content)
    assert set(found.names) == imported_by_joblib(content)
    assert (found.refused, found.others) == ((), ())
    assert joblib.load(compression.opened(content)) is not None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", OBJECTS)
def test_every_protocol_of_a_plain_pickle_is_read(kind: str, protocol: int) -> None:
    found = pickles.imports(pickle.dumps(OBJECTS[kind], protocol))
    assert found.names
    assert (found.refused, found.others) == ((), ())


def test_a_class_of_the_users_is_named_and_not_refused() -> None:
    found = pickles.imports(dumped(NanClassifier()))
    assert found.others == (f"{NanClassifier.__module__}.NanClassifier",)
    assert found.refused == ()


class Calls:
    """When loaded, it calls the function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


HOSTILE: dict[str, Any] = {
    "posix.system": Calls(os.system, "true"),
    "subprocess.Popen": Calls(subprocess.Popen, ["true"]),
    "builtins.eval": Calls(eval, "1"),
    "builtins.exec": Calls(exec, "1"),
    "builtins.getattr": Calls(getattr, 1, "real"),
    "builtins.__import__": Calls(__import__, "os"),
    "io.open": Calls(open, "file", "w"),
    "_pickle.loads": Calls(pickle.loads, b"N."),
    "operator.attrgetter": Calls(operator.attrgetter, "__class__"),
    "numpy.load": Calls(np.load, "file"),
    "numpy.savetxt": Calls(np.savetxt, "file", [1.0]),
    "joblib.numpy_pickle.load": Calls(joblib.load, "file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_model_needs_is_refused_by_name_wherever_it_stands(name: str) -> None:
    hostile = HOSTILE[name]
    within = {"model": OBJECTS["forest"], "array": np.array([1, [hostile]], dtype=object)}
    for content in (pickle.dumps(hostile), dumped(hostile), dumped(within, compress=3)):
        assert pickles.imports(content).refused == (name,)
        with pytest.raises(UntrustedModel, match=rf"imports {name}, which can run anything"):
            pickles.refuse_dangerous(content)


OLD_STYLE = {
    b"cos\nsystem\n(S'true'\ntR.": "os.system",
    b"(S'true'\nios\nsystem\n.": "os.system",
    b"(cos\nsystem\nS'true'\no.": "os.system",
    b"c__builtin__\neval\n(S'1'\ntR.": "builtins.eval",
    b"ccommands\ngetoutput\n(S'true'\ntR.": "subprocess.getoutput",
    b"\x80\x04\x8c\x07sklearn\x8c\x0futils.os.system\x93.": "sklearn.utils.os.system",
    b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93.": "os.system",
    b"\x80\x02cnumpy.testing\nmeasure\n.": "numpy.testing.measure",
    b"cjoblib.numpy_pickle\nNDArrayWrapper\n.": "joblib.numpy_pickle.NDArrayWrapper",
}


@pytest.mark.parametrize("content", OLD_STYLE, ids=OLD_STYLE.get)
def test_every_way_to_name_an_import_is_understood(content: bytes) -> None:
    assert pickles.imports(content).refused == (OLD_STYLE[content],)


def a_frame_around_an_array() -> bytes:
    """The loader would take the array from behind the frame, and go on inside it."""
    content = dumped(np.arange(3.0))
    start = content.index(b"\x95")
    return content[: start + 1] + (len(content) - start - 9).to_bytes(8, "little") + (
        content[start + 9 :]
    )  # fmt: skip


UNREADABLE = {
    "nothing": b"",
    "text": b"not a pickle",
    "no end": b"\x80\x04N",
    "a computed name": b"\x80\x04\x8c\x02os\x8c\x02su\x85\x93.",
    "an empty stack": b"R.",
    "another mark": b"((tR.",
    "an extension": b"\x82\x01.",
    "elsewhere": b"P1\n.",
    "a huge text": b"\x8d" + (2**62).to_bytes(8, "little") + b"x.",
    "nothing in the memo": b"h\x07.",
    "compressed twice": compression.zlib.compress(compression.zlib.compress(b"N.")),
    "compressed in part": compression.zlib.compress(b"N0" * 999 + b"N.")[:-8],
    "an array in a frame": a_frame_around_an_array(),
    "an array cut short": dumped(np.arange(99.0))[:-400],
    "an old joblib": b"ZF0x10                N.",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_followed_to_its_end_is_refused(kind: str) -> None:
    with pytest.raises(UntrustedModel, match=r"so it is not loaded: [^.]+\.$"):
        pickles.imports(UNREADABLE[kind])


@pytest.mark.parametrize("method", [compression.zlib.compress, compression.bz2.compress,
                                    compression.lzma.compress])  # fmt: skip
def test_a_compressed_file_that_grows_too_large_is_refused_while_it_grows(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "FREE_BYTES", 2**16)
    bomb = method(b"\x8e" + (2**23).to_bytes(8, "little") + bytes(2**23) + b".")
    with pytest.raises(UntrustedModel, match=r"larger than it may be|which no model does"):
        pickles.imports(bomb)
    with pytest.raises(compression.ArtifactError, match="which no model does"):
        compression.opened(bomb).read()


def test_a_pickle_in_a_pickle_without_end_is_refused() -> None:
    array: Any = 1
    for _ in range(25):
        outer = np.empty(1, dtype=object)
        outer[0] = array
        array = outer
    assert pickles.imports(dumped(array)).refused == ()  # plain pickles within joblib's
    loop = dumped(np.array([None], dtype=object))
    start = loop.index(b"\x80", 1)
    with pytest.raises(UntrustedModel):
        pickles.imports(loop[:start] * 30)


@given(st.sampled_from([dumped(OBJECTS["forest"]), dumped(OBJECTS["arrays"])]),
       st.integers(0), st.binary(max_size=4))  # fmt: skip
def test_an_altered_pickle_is_read_or_refused_with_a_sentence(
    content: bytes, place: int, change: bytes
) -> None:
    place %= len(content)
    altered = content[:place] + change + content[place + len(change) :]
    try:
        assert pickles.imports(altered)
    except UntrustedModel as error:
        assert str(error).endswith(".")


def test_reading_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "never_imported.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    found = pickles.imports(b"cnever_imported\nf\n(tR.")
    assert found.others == ("never_imported.f",)
    assert "never_imported" not in sys.modules


def test_of_many_names_the_first_are_said() -> None:
    assert pickles.listed(tuple("abcdefghijkl")) == "a, b, c, d, e, f, g, h, i, j and 2 more"
