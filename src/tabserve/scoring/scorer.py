"""A chunk of the input to a chunk of the answers: what one process does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tabserve.artifact import Manifest
from tabserve.decoding import RecordDecoder
from tabserve.errors import InputProblem, InvalidInput, MissingExtra
from tabserve.output import WARNINGS
from tabserve.scoring.answers import Path, answer_columns, answer_types, finite
from tabserve.scoring.rows import Checked, Coded, Piece, RowChecker, rejection
from tabserve.types import Array, Outputs, concatenate

try:
    import pyarrow as pa
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

ROW = "row"

Predict = Callable[[Piece], Outputs]

_BAD_OUTPUT = "bad_model_output", "The model's answer is not a finite number."
_ECHO_TYPES = {
    "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "string": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """columns: of the rows that have an answer, by their path. rejects: by the row's number."""

    columns: dict[Path, Any]
    rejects: dict[int, tuple[str, Any]]


class Scorer:
    """predict: None for one that only tells the columns."""

    def __init__(
        self,
        manifest: Manifest,
        decoder: RecordDecoder,
        predict: Predict | None,
        decodes_all: bool,
    ) -> None:
        self.checker = RowChecker(manifest.signature, decoder, decodes_all)
        self._manifest = manifest
        self._decoder = decoder
        self._predict = predict
        self._echo_types = {
            name: _ECHO_TYPES.get(_json_type(schema), pa.string())
            for name, schema in decoder.echo_schema().items()
        }

    @property
    def own_columns(self) -> dict[Path, Any]:
        """Those that do not come from the input as they are, and their types."""
        echoes: dict[Path, Any] = {(name,): kind for name, kind in self._echo_types.items()}
        told: dict[Path, Any] = (
            {(WARNINGS,): pa.string()} if self._manifest.signature.may_warn else {}
        )
        return {(ROW,): pa.int64(), **echoes, **answer_types(self._manifest), **told}

    # numbers: of the rows in the whole input.

    def table(self, table: Any, numbers: Array, keep: list[str], cells_are_text: bool) -> Scored:
        checked = self.checker.table(table, cells_are_text)
        return self._scored(checked, numbers, {name: table[name] for name in keep})

    def lines(self, lines: list[bytes], numbers: Array, kept: dict[str, Any]) -> Scored:
        checked = self.checker.lines(lines, list(kept))
        return self._scored(checked, numbers, kept)

    def _scored(self, checked: Checked, numbers: Array, kept: dict[str, Any]) -> Scored:
        pieces, outputs = [], []
        for piece in _joined(checked.pieces):
            for part, found in self._answered(piece, checked.rejects):
                good = finite(found, len(part.rows))
                if not good.all():
                    bad = part.rows[~good].tolist()
                    checked.rejects.update(dict.fromkeys(bad, _BAD_OUTPUT))
                    part, found = _taken(part, found, np.flatnonzero(good))
                pieces.append(part)
                outputs.append(found)
        rejects = {int(numbers[row]): checked.rejects[row] for row in sorted(checked.rejects)}
        if not pieces:
            return Scored({}, rejects)
        rows = np.concatenate([piece.rows for piece in pieces])
        together = concatenate(outputs)
        echoes = [echo for piece in pieces for echo in piece.echoes or ()]
        if (rows[1:] < rows[:-1]).any():
            order = np.argsort(rows)
            rows = rows[order]
            together = {part: values[order] for part, values in together.items()}
            echoes = [echoes[place] for place in order.tolist()] if echoes else []
        columns: dict[Path, Any] = {(ROW,): pa.array(numbers[rows])}
        for name, column in kept.items():
            columns[(name,)] = column.take(pa.array(rows))
        for name, kind in self._echo_types.items():
            columns[(name,)] = pa.array([_echo(echo.get(name), kind) for echo in echoes], kind)
        columns |= answer_columns(self._manifest, together)
        if self._manifest.signature.may_warn:
            columns[(WARNINGS,)] = _told(rows, checked.warnings)
        return Scored(columns, rejects)

    def _answered(
        self, piece: Piece, rejects: dict[int, tuple[str, Any]]
    ) -> list[tuple[Piece, Outputs]]:
        """Where the model fails, halved until it is found on which row."""
        n_rows = len(piece.rows)
        try:
            assert self._predict is not None
            return [(piece, self._predict(piece))]
        except Exception as error:  # noqa: BLE001 - whatever a library raises, it is this row's
            if n_rows == 1:
                if isinstance(error, InvalidInput):
                    error = self._decoder.placed(error, "record")
                rejects[int(piece.rows[0])] = rejection(error)
                return []
        halves = np.arange(n_rows // 2), np.arange(n_rows // 2, n_rows)
        return [
            answer for half in halves for answer in self._answered(_rows_of(piece, half), rejects)
        ]


def _rows_of(piece: Piece, rows: Array) -> Piece:
    columns = {name: column.take(rows) for name, column in piece.columns.items()}
    echoes = None if piece.echoes is None else [piece.echoes[row] for row in rows.tolist()]
    return Piece(piece.rows[rows], columns, echoes)


def _taken(piece: Piece, outputs: Outputs, rows: Array) -> tuple[Piece, Outputs]:
    return _rows_of(piece, rows), {part: values[rows] for part, values in outputs.items()}


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Those that the decoder read, as one, so that the model is called once."""
    coded = [p for p in pieces if any(isinstance(column, Coded) for column in p.columns.values())]
    read = pieces[len(coded) :]  # the one that arrays showed to be valid is the first
    if len(read) < 2:
        return pieces
    echoes = None
    if read[0].echoes is not None:
        echoes = [echo for piece in read for echo in piece.echoes or ()]
    rows = np.concatenate([piece.rows for piece in read])
    return [*coded, Piece(rows, concatenate([piece.plain() for piece in read]), echoes)]


def _json_type(schema: dict[str, Any]) -> str:
    """Of a field that may be null, that of its other values."""
    kinds = [part.get("type", "") for part in schema.get("anyOf", [schema])]
    named = [kind for kind in kinds if kind != "null"]
    return named[0] if len(named) == 1 else ""


def _told(rows: Array, warnings: dict[int, list[InputProblem]]) -> Any:
    """As JSON, null for most rows."""
    if not warnings:
        return pa.nulls(len(rows), pa.string())
    found = [warnings.get(row) for row in rows.tolist()]
    return pa.array([told and orjson.dumps(told).decode() for told in found], pa.string())


def _echo(value: Any, kind: Any) -> Any:
    if value is None or kind != pa.string() or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
