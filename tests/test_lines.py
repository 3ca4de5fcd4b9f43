"""The log's lines of one request: by column they are what they are one by one."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabserve.lines import _MANY, _PIECE, Lines

texts = st.text(max_size=8) | st.sampled_from(
    ["%b", "%", '"', "\\", "\n", ",\n,", "},\n,{", "]", "\u2028", '{"event":"forged"}\r\n']
)
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | texts
    | st.dictionaries(texts, st.lists(texts, max_size=2), max_size=2)
)


@st.composite
def many(draw: Any) -> tuple[Lines, list[dict[str, Any]]]:
    """Lines, and what they are to say."""
    n_lines = draw(st.integers(_MANY, _MANY + 4))
    columns = st.dictionaries(texts, st.lists(values, min_size=n_lines, max_size=n_lines))
    fields = st.dictionaries(texts.map("echo {}".format), values, max_size=2)
    common = draw(st.dictionaries(texts.map("common {}".format), values, min_size=1))
    ids, features, result = (
        draw(st.lists(texts, min_size=n_lines, max_size=n_lines)),
        *(draw(columns) for _ in range(2)),
    )
    echoes = draw(st.none() | st.lists(fields, min_size=n_lines, max_size=n_lines))
    more = draw(
        st.dictionaries(st.integers(0, n_lines - 1), st.fixed_dictionaries({"warnings": values}))
    )
    expected = [
        common
        | {
            "prediction_id": ids[i],
            "features": {name: column[i] for name, column in features.items()}
            | (echoes[i] if echoes else {}),
            "result": {name: column[i] for name, column in result.items()},
        }
        | more.get(i, {})
        for i in range(n_lines)
    ]
    return Lines(common, ids, features, result, echoes, more), expected


def part(lines: Lines, place: int) -> Lines:
    def of(columns: Any) -> dict[str, Any]:
        return {name: column[place : place + 1] for name, column in columns.items()}

    return replace(
        lines,
        prediction_ids=lines.prediction_ids[place : place + 1],
        features=of(lines.features),
        result=of(lines.result),
        echoes=lines.echoes and lines.echoes[place : place + 1],
        more={0: lines.more[place]} if place in lines.more else {},
    )


@given(many())
def test_lines_by_column_are_those_one_by_one(drawn: tuple[Lines, list[dict[str, Any]]]) -> None:
    lines, expected = drawn
    together = b"".join(lines.encoded())
    assert together == b"".join(orjson.dumps(line) + b"\n" for line in expected)
    assert together.count(b"\n") == len(expected)
    alone = [part(lines, place).encoded() for place in range(len(expected))]
    assert together == b"".join(text for pieces in alone for text in pieces)


@pytest.mark.parametrize("n_lines", [1, _MANY])
def test_what_is_hidden_is_in_no_line(n_lines: int) -> None:
    lines = Lines(
        common={"path": "/predict"},
        prediction_ids=["i"] * n_lines,
        features={"age": [3] * n_lines},
        result={"risk": [0.5] * n_lines, "band": ["Low"] * n_lines},
        echoes=[{"name": "Ada", "path": "/home/ada", "team": "a"}] * n_lines,
        more={},
    )
    (text,) = lines.without({"age", "name", "path", "risk"}).encoded()
    assert [orjson.loads(line) for line in text.splitlines()] == [
        {
            "path": "/predict",
            "prediction_id": "i",
            "features": {"team": "a"},
            "result": {"band": "Low"},
        }
    ] * n_lines


def test_many_lines_are_several_pieces_of_whole_ones() -> None:
    n_lines = 2 * _PIECE + 1
    lines = Lines({"a": 1}, list(map(str, range(n_lines))), {}, {"b": [1] * n_lines}, None, {})
    pieces = lines.encoded()
    assert [piece.count(b"\n") for piece in pieces] == [_PIECE, _PIECE, 1]
    found = [orjson.loads(line)["prediction_id"] for line in b"".join(pieces).splitlines()]
    assert found == lines.prediction_ids
