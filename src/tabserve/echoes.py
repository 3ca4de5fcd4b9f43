"""The fields of a request that are no feature: validated, and given back with the answer."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tabserve.errors import InputProblem, InvalidInput
from tabserve.request_class import echo_name
from tabserve.validation import problem


class Echoes:
    """fields: of the request class, those that are echoed."""

    def __init__(self, request_class: type[BaseModel], fields: set[str]) -> None:
        self.fields = fields
        self._request_class = request_class

    def of_records(self, records: list[BaseModel]) -> list[dict[str, Any]] | None:
        """By row; None where no field is echoed. Raises InvalidInput."""
        if not self.fields:
            return None
        # Most records have none, and a dump costs more than validation.
        if all(self.fields.isdisjoint(record.model_fields_set) for record in records):
            return [{} for _ in records]
        echoes = [
            {}
            if self.fields.isdisjoint(record.model_fields_set)
            else record.model_dump(
                mode="json", include=self.fields, by_alias=True, exclude_unset=True
            )
            for record in records
        ]
        found = self.inexpressible(records)
        if found:
            raise InvalidInput(found)
        return echoes

    def inexpressible(self, records: list[BaseModel]) -> list[InputProblem]:
        return [
            _inexpressible(row, field)
            for row, record in enumerate(records)
            for field in self.fields
            if not _is_expressible(record.__dict__[field])
        ]

    def of_columns(
        self, columns: Mapping[str, Sequence[Any]], n_rows: int
    ) -> list[dict[str, Any]] | None:
        """columns: by field, those that were sent, others too. As `of_records`."""
        if not self.fields:
            return None
        named = {
            echo_name(self._request_class, field): columns[field]
            for field in self.fields & columns.keys()
        }
        found = [
            _inexpressible(row, name)
            for name, column in named.items()
            for row, value in enumerate(column)
            if not _is_expressible(value)
        ]
        if found:
            raise InvalidInput(found)
        if not named:
            return [{} for _ in range(n_rows)]
        plain = {name: to_jsonable_python(column) for name, column in named.items()}
        return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def _inexpressible(row: int, name: str) -> InputProblem:
    message = "Input should be a finite number of at most 64 bits"
    return problem(row, name, "finite_number", message)


def _is_expressible(value: Any) -> bool:
    """Whether the answer's JSON can say it."""
    if value is None or isinstance(value, str | bytes):
        return True
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, BaseModel):
        value = value.__dict__ | (value.__pydantic_extra__ or {})
    elif dataclasses.is_dataclass(value):
        value = [getattr(value, part.name) for part in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return all(map(_is_expressible, value.values()))
    if isinstance(value, Collection):
        return all(map(_is_expressible, value))
    return True
