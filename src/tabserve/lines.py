"""What the log says of the predictions of one request, by column: the lines of a batch differ in a
few values only, and are put together as text from those.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

# Lines from which text by columns is made in less time than a dict for each.
_MANY = 8
# Lines in one piece of text: what looks through it keeps the interpreter's lock, for 0.2 ms.
_PIECE = 256
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY
# Between two values: in JSON there is none, since strings have it escaped.
_BREAK = orjson.Fragment(b"\n")


@dataclass(slots=True)
class Lines:
    """common: what each begins with, at least something. features, result: columns by name.
    echoes: by line, what its features end with. more: by place, what some lines end with.
    """

    common: dict[str, Any]
    prediction_ids: Sequence[str]
    features: Mapping[str, Sequence[Any]]
    result: Mapping[str, Sequence[Any]]
    echoes: Sequence[dict[str, Any]] | None
    more: Mapping[int, dict[str, Any]]

    def without(self, hidden: Collection[str]) -> "Lines":
        """Without these features, echoes and results."""
        echoes = self.echoes and [_without(echo, hidden) for echo in self.echoes]
        features, result = _without(self.features, hidden), _without(self.result, hidden)
        return replace(self, features=features, result=result, echoes=echoes)

    def encoded(self) -> list[bytes]:
        """JSON, in pieces of whole lines."""
        n_lines = len(self.prediction_ids)
        if n_lines < _MANY:
            return [encoded(self._line(place)) for place in range(n_lines)]
        lines = self._by_column()
        return [b"".join(lines[start : start + _PIECE]) for start in range(0, n_lines, _PIECE)]

    def _line(self, place: int) -> dict[str, Any]:
        features = {name: column[place] for name, column in self.features.items()}
        if self.echoes is not None:
            features |= self.echoes[place]
        line = {
            **self.common,
            "prediction_id": self.prediction_ids[place],
            "features": features,
            "result": {name: column[place] for name, column in self.result.items()},
        }
        return line | self.more[place] if place in self.more else line

    def _by_column(self) -> list[bytes]:
        columns = [_texts(self.prediction_ids), *map(_texts, self.features.values())]
        echoed, ending = b"", b"}"
        if self.echoes is not None:
            comma = b"," if self.features else b""
            columns.append([comma + text if text else b"" for text in _inner(self.echoes)])
            echoed = b"%b"
        columns += map(_texts, self.result.values())
        if self.more:
            more = (self.more.get(place, {}) for place in range(len(self.prediction_ids)))
            columns.append([b"," + text if text else b"" for text in _inner(more)])
            ending = b"%b}"
        form = b'%b,"prediction_id":%%b,"features":{%b%b},"result":{%b}%b\n' % (
            _json(self.common)[:-1].replace(b"%", b"%%"),
            _form(self.features),
            echoed,
            _form(self.result),
            ending,
        )
        return [form % row for row in zip(*columns, strict=True)]


def encoded(line: Mapping[str, Any]) -> bytes:
    return orjson.dumps(line, option=_OPTIONS | orjson.OPT_APPEND_NEWLINE, default=str)


def _form(names: Collection[str]) -> bytes:
    """An object's fields, their values left open."""
    return b",".join(_json(name).replace(b"%", b"%%") + b":%b" for name in names)


def _texts(column: Sequence[Any]) -> list[bytes]:
    """Each value as JSON, all of them encoded at once."""
    parts: list[Any] = [_BREAK] * (2 * len(column) - 1)
    parts[::2] = column
    return _json(parts)[1:-1].split(b",\n,")


def _inner(objects: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> list[bytes]:
    """Their fields, without the braces."""
    return [text[1:-1] for text in _texts(list(objects))]


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=_OPTIONS, default=str)


def _without(named: Mapping[str, Any], hidden: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name not in hidden}
