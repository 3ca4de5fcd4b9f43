"""A batch row by row: each bad row is told what is wrong with it, and the others are taken."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from tabserve.acceptance import Acceptance
from tabserve.errors import InputProblem, InvalidInput
from tabserve.records import Form, Records, as_in_columns, grouped
from tabserve.refusal import problems_of, refusal

# With more in all, a batch is refused as a whole: to list them takes seconds.
_MOST_PROBLEMS = 200_000
_TOO_MANY_PROBLEMS: InputProblem = {
    "loc": ("body",),
    "msg": f"Input should have at most {_MOST_PROBLEMS} problems to be reported row by row",
    "type": "too_many_problems",
}


@dataclass(slots=True)
class Reported:
    """A batch of which each bad row is told what is wrong with it.

    records: the good ones, None where there are none. refused: the others, by their row.
    """

    records: Records | None
    refused: dict[int, InvalidInput]
    n_rows: int


def reported(
    rows: list[Any], form: Form, one: TypeAdapter[BaseModel], acceptance: Acceptance
) -> Reported:
    """rows: records as they were sent. one: reads a record.

    Raises InvalidInput where there are too many problems.
    """
    refused: dict[int, InvalidInput] = {}
    valid: dict[int, BaseModel] = {}
    n_problems = 0
    for row, record in enumerate(rows):
        try:
            valid[row] = one.validator.validate_json(to_json(record))
        except ValidationError as error:
            n_problems += error.error_count()
            if n_problems > _MOST_PROBLEMS:
                raise refusal([_TOO_MANY_PROBLEMS]) from None
            problems = problems_of(error, ("body", row))
            refused[row] = refusal(as_in_columns(problems) if form == "columns" else problems)
    records = _accepted(valid, rows, form, acceptance, refused)
    return Reported(records, refused, len(rows))


def _accepted(
    valid: dict[int, BaseModel],
    rows: list[Any],
    form: Form,
    acceptance: Acceptance,
    refused: dict[int, InvalidInput],
) -> Records | None:
    """The records that the signature takes too; the others are added to `refused`."""
    while valid:
        places, records = list(valid), list(valid.values())
        values, problems, warnings = acceptance.examined(records, [rows[i] for i in places])
        if not problems:
            echoes = acceptance.echoes.of_records(records)
            by_row = acceptance.places.by_row(warnings, form, places)
            return Records(values, len(records), echoes, form, by_row, places)
        for row, found in grouped(problems).items():
            refused[places[row]] = acceptance.places.placed(InvalidInput(found), form, places)
            del valid[places[row]]
    return None
