"""Valid records as the model's values; where they, and what is told of them, stand in the body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from tabserve.errors import InputProblem, InvalidInput
from tabserve.refusal import refusal
from tabserve.request_class import input_names
from tabserve.types import Values

# Told of one record.
MAX_WARNINGS = 20

# How rows were sent: as one record, as a list of them, or as a list for each field.
Form = Literal["record", "list", "columns"]


@dataclass(slots=True)
class Records:
    """Valid records: the model's features and, row by row, the fields that are no feature."""

    values: Values
    n_rows: int
    echoes: list[dict[str, Any]] | None
    form: Form
    # By row, what is unusual in it, with its place in the body.
    warnings: dict[int, list[InputProblem]] | None = None
    # Where the rows stand in the body, if others were left out of it; each then fails alone.
    places: Sequence[int] | None = None

    def part(self, rows: Sequence[int]) -> "Records":
        return Records(
            values={
                name: column[rows]
                if isinstance(column, np.ndarray)
                else [column[row] for row in rows]
                for name, column in self.values.items()
            },
            n_rows=len(rows),
            echoes=None if self.echoes is None else [self.echoes[row] for row in rows],
            form=self.form,
            warnings={
                new: self.warnings[row] for new, row in enumerate(rows) if row in self.warnings
            }
            if self.warnings
            else None,
            places=None if self.places is None else [self.places[row] for row in rows],
        )


class Places:
    """From a place in the values, (row, feature) or () for any, to the one in the body.

    field_of: by feature, the field of the request class.
    rows: those that the values' rows are in the body, where others were left out of it.
    """

    def __init__(self, request_class: type[BaseModel], field_of: Mapping[str, str]) -> None:
        self._request_class = request_class
        self._field_of = field_of

    def wire_name(self, field: str) -> str:
        return input_names(self._request_class, field)[0]

    def placed(
        self, error: InvalidInput, form: Form, rows: Sequence[int] | None = None
    ) -> InvalidInput:
        return refusal([self._in_body(found, form, rows) for found in error.problems])

    def by_row(
        self, warnings: Sequence[InputProblem], form: Form, rows: Sequence[int] | None = None
    ) -> dict[int, list[InputProblem]] | None:
        """Warnings with their places in the body, the first ones of each row."""
        if not warnings:
            return None
        return {
            row: [self._in_body(warning, form, rows) for warning in found[:MAX_WARNINGS]]
            for row, found in grouped(warnings).items()
        }

    def _in_body(self, found: InputProblem, form: Form, rows: Sequence[int] | None) -> InputProblem:
        loc = found["loc"]
        if loc and rows is not None:
            loc = (rows[loc[0]], *loc[1:])
        return {**found, "loc": ("body", *self._place(loc, form))}

    def _place(self, loc: tuple[Any, ...], form: Form) -> tuple[int | str, ...]:
        if not loc:
            return ()
        row, *names = loc
        wire_names = [self.wire_name(self._field_of.get(name, name)) for name in names]
        if form == "columns":
            return ("columns", *wire_names, row)
        return tuple(wire_names) if form == "record" else (row, *wire_names)


def as_in_columns(problems: list[InputProblem]) -> list[InputProblem]:
    """Places of a list of records, ("body", row, field), as those of columns."""
    return [
        {**found, "loc": ("body", "columns", *found["loc"][2:], *found["loc"][1:2])}
        for found in problems
    ]


def grouped(problems: Sequence[InputProblem]) -> dict[int, list[InputProblem]]:
    """By row."""
    by_row: dict[int, list[InputProblem]] = {}
    for found in problems:
        by_row.setdefault(found["loc"][0], []).append(found)
    return by_row
