"""Pieces to outputs: by tables where the model is a lowered forest, else by its engine."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tabserve.artifact import GRAPH, REFUSED, Artifact
from tabserve.loading import LoadedModel
from tabserve.lowered import ROUNDED, coded
from tabserve.output import Renderer
from tabserve.scoring.forest import read_forest
from tabserve.scoring.rows import Coded, Piece
from tabserve.scoring.tables import Tables
from tabserve.types import Array, Columns, Engine, Outputs

# Below it the engine is as quick, and chunks of so few rows would never pay for tables.
_ROWS_FOR_TABLES = 4096
# One row in so many is computed twice.
_COMPARED_EVERY = 1000


def predictor(artifact: Artifact, loaded: LoadedModel, n_rows: int) -> Callable[[Piece], Outputs]:
    """The quickest that there is for about so many rows, which processes forked later share."""
    if loaded.manifest.lowered is not None and n_rows >= _ROWS_FOR_TABLES:
        forest = read_forest(artifact.read(GRAPH))
        if forest is not None:
            has_refused = REFUSED in loaded.manifest.files
            return _Tabled(loaded, Tables(forest, n_rows), has_refused).predict
    return lambda piece: loaded.engine.predict(piece.plain())


class _Tabled:
    """What tables give is compared with the engine, on rows of each new one and on some of every
    chunk; a difference ends their use.
    """

    def __init__(self, loaded: LoadedModel, tables: Tables, has_refused: bool) -> None:
        manifest = loaded.manifest
        assert manifest.lowered is not None
        self._engine: Engine = loaded.engine
        self._tables: Tables | None = tables
        self._lowered = manifest.lowered
        self._signature = manifest.signature
        parts = Renderer(manifest.targets, manifest.output).parts
        self._outputs = manifest.lowered.linked(manifest.targets, parts)
        # From there on the engine looks whether the model would refuse the row.
        self._limit = manifest.lowered.safe_below if has_refused else np.inf

    def predict(self, piece: Piece) -> Outputs:
        if self._tables is None or len(piece.rows) < _ROWS_FOR_TABLES:
            return self._engine.predict(piece.plain())
        matrix = self._matrix(piece)
        scores, left, fresh = self._tables.scores(matrix)
        if not self._tables.is_of_use:
            self._tables = None
            return self._engine.predict(piece.plain())
        is_left = np.zeros(len(scores), dtype=np.bool_)
        is_left[left] = True
        if np.isfinite(self._limit):
            is_left |= (np.abs(matrix) >= self._limit).any(axis=1)
        left = np.flatnonzero(is_left)
        scores[left] = 0.0
        outputs = self._outputs([scores[:, np.newaxis]])
        compared = np.unique(np.concatenate([fresh, np.arange(0, len(scores), _COMPARED_EVERY)]))
        compared = compared[~is_left[compared]]
        found = self._engine.predict(_plain(piece, np.concatenate([left, compared])))
        for part, values in found.items():
            if not np.array_equal(outputs[part][compared], values[len(left) :]):
                self._tables = None
                return self._engine.predict(piece.plain())
            outputs[part][left] = values[: len(left)]
        return outputs

    def _matrix(self, piece: Piece) -> Array:
        """As Lowered.matrix, with text looked up once a value and not once a row."""
        matrix = np.empty((len(piece.rows), len(self._signature.features)))
        for i, (name, codes) in enumerate(self._lowered.codes(self._signature)):
            column: Any = piece.columns[name]
            if isinstance(column, Coded):
                assert codes is not None
                column = np.array(coded(column.values, codes)).take(column.places)
            elif codes is not None:
                column = coded(column, codes)
            elif self._signature.features[i].dtype in ROUNDED:
                column = column.astype(ROUNDED[self._signature.features[i].dtype])
            matrix[:, i] = column
        return matrix


def _plain(piece: Piece, rows: Array) -> Columns:
    taken = {name: column.take(rows) for name, column in piece.columns.items()}
    return Piece(rows, taken).plain()
