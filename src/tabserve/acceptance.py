"""What the request class took, as the model's values, if the signature takes it too."""

from collections.abc import Callable, Mapping, Sequence
from operator import call, itemgetter
from typing import Any, cast

from pydantic import BaseModel

from tabserve.echoes import Echoes
from tabserve.errors import InputProblem, InvalidInput
from tabserve.records import Form, Places, Records
from tabserve.request_class import fields_of_features, input_names
from tabserve.signature import EXACT_INTEGER_LIMIT, Signature, inexact_as_float, problem
from tabserve.strict import strictly_parsed
from tabserve.types import Columns, Values


class Acceptance:
    """Raises RequestClassError where the class does not fit the signature."""

    def __init__(self, signature: Signature, request_class: type[BaseModel]) -> None:
        self._signature = signature
        self._request_class = request_class
        self.field_of = fields_of_features(signature, request_class)
        self.echoes = Echoes(
            request_class, set(request_class.model_fields) - set(self.field_of.values())
        )
        self.places = Places(request_class, self.field_of)
        # Of a record's fields those of the features, in one call; a second name, so that it gives
        # a tuple also where there is only one.
        names = list(self.field_of.values())
        self._values_of = itemgetter(*names, names[0])
        self._admits = [feature.admits for feature in signature.features]
        self._names = [feature.name for feature in signature.features]

    def of_record(self, record: BaseModel, body: bytes) -> Records:
        """One of which, mostly, no more need be seen than each value at a glance."""
        row = self._values_of(record.__dict__)
        is_usual = all(map(call, self._admits, row))
        if not is_usual or not self.echoes.fields.isdisjoint(record.__pydantic_fields_set__):
            return self.of_records([record], body, "record")
        return Records(dict(zip(self._names, zip(row), strict=False)), 1, None, "record")

    def of_records(self, records: list[BaseModel], body: bytes, form: Form) -> Records:
        """Raises InvalidInput with places in the body."""
        try:
            taken, warnings = self._taken(self._values(records), body, form)
            echoes = self.echoes.of_records(records)
        except InvalidInput as error:
            raise self.places.placed(error, form) from None
        return Records(taken, len(records), echoes, form, self.places.by_row(warnings, form))

    def of_columns(
        self,
        columns: Mapping[str, Sequence[Any]],
        defaults: Mapping[str, Sequence[Any]],
        body: bytes,
        n_rows: int,
    ) -> Records:
        """columns, defaults: by field, what was sent and what was not. As `of_records`."""
        fields = {**columns, **defaults}
        try:
            values = {feature: fields[field] for feature, field in self.field_of.items()}
            taken, warnings = self._taken(values, body, "columns")
            echoes = self.echoes.of_columns(columns, n_rows)
        except InvalidInput as error:
            raise self.places.placed(error, "columns") from None
        return Records(taken, n_rows, echoes, "columns", self.places.by_row(warnings, "columns"))

    def examined(
        self, records: list[BaseModel], sent: list[Any]
    ) -> tuple[Values, list[InputProblem], list[InputProblem]]:
        """The values, with all problems and warnings, at (row, feature).

        sent: the same records as they were sent.
        """
        values = self._values(records)
        inexpressible = self.echoes.inexpressible(records)
        if self._signature.admits(values):
            return values, inexpressible, []
        checked = self._signature.checked(values)
        inexact = self._inexact_integers(checked.columns, lambda: sent)
        return checked.columns, checked.problems + inexact + inexpressible, checked.warnings

    def _values(self, records: list[BaseModel]) -> Mapping[str, Sequence[Any]]:
        rows = [self._values_of(record.__dict__) for record in records]
        return dict(zip(self.field_of, zip(*rows, strict=True), strict=False))

    def _taken(
        self, values: Mapping[str, Sequence[Any]], body: bytes, form: Form
    ) -> tuple[Values, Sequence[InputProblem]]:
        """Values that may go to the model, and what is unusual in them. Raises InvalidInput."""
        if self._signature.admits(values):
            return values, ()
        checked = self._signature.checked(values)
        problems = checked.problems or self._inexact_integers(
            checked.columns, lambda: _parsed_records(body, form)
        )
        if problems:
            raise InvalidInput(problems)
        return checked.columns, checked.warnings

    def _inexact_integers(
        self, columns: Columns, sent: Callable[[], list[Any]]
    ) -> list[InputProblem]:
        suspects = [
            name
            for name, column in columns.items()
            if column.dtype == "float64" and (abs(column) >= EXACT_INTEGER_LIMIT).any()
        ]
        if not suspects:
            return []
        records = sent()
        names = {name: input_names(self._request_class, self.field_of[name]) for name in suspects}
        return [
            problem(
                row,
                name,
                "int_inexact",
                "Input is an integer beyond 2**53, which a float cannot hold exactly",
            )
            for row, record in enumerate(records)
            if isinstance(record, dict)
            for name in suspects
            if any(inexact_as_float(record.get(key)) for key in names[name])
        ]


def _parsed_records(body: bytes, form: Form) -> list[Any]:
    parsed = strictly_parsed(body)
    if form == "columns":
        columns = parsed["columns"]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [parsed] if form == "record" else cast(list[Any], parsed)
