"""A body of columns, `{"columns": {"age": [31, 45], …}}`, as a pydantic class of its own.

pydantic-core then reads each column in one go, and no record is made of each row. Where Python code
of the user's looks at records or fields, there must be records.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, create_model
from pydantic.fields import FieldInfo

from tabserve.errors import InputProblem
from tabserve.refusal import refusal, too_many_rows

_NO_BATCH: InputProblem = {
    "loc": ("body",),
    "msg": "Input should be a list of records, or an object with `columns` and nothing else",
    "type": "batch_type",
}
_NOT_COLUMNS: InputProblem = {
    "loc": ("body", "columns"),
    "msg": "Input should have a list of at least one value for each field",
    "type": "columns_type",
}


def columns_adapter(request_class: type[BaseModel], max_rows: int) -> TypeAdapter[Any] | None:
    """Reads a body with a list for each field of the request class; None where it needs records.

    Of each column only the first wrong value is told: a small body can have millions.
    """
    if _calls_python(request_class.__pydantic_core_schema__):
        return None
    fields: dict[str, Any] = {
        name: (_column(field, max_rows), _place(field))
        for name, field in request_class.model_fields.items()
    }
    config = {**request_class.model_config, "json_schema_extra": None, "title": "Columns"}
    columns = create_model("Columns", __config__=ConfigDict(**config), **fields)  # type: ignore[typeddict-item]
    body = create_model("Body", __config__=ConfigDict(extra="forbid"), columns=(columns, ...))
    return TypeAdapter(body)


def _calls_python(schema: Any) -> bool:
    """Whether a function of Python's validates or serializes, by pydantic's own schema."""
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        if isinstance(kind, str) and kind.startswith("function-"):
            return True
        if schema.get("post_init") or schema.get("custom_init"):
            return True
        return any(map(_calls_python, schema.values()))
    return isinstance(schema, list | tuple) and any(map(_calls_python, schema))


def _column(field: FieldInfo, max_rows: int) -> Any:
    value: Any = field.annotation
    for constraint in field.metadata:
        value = Annotated[value, constraint]
    listed: Any = list[value]
    return Annotated[listed, Field(min_length=1, max_length=max_rows), FailFast()]


def _place(field: FieldInfo) -> Any:
    """Under which name the column comes, and whether it has to."""
    if field.is_required():
        return Field(validation_alias=field.validation_alias)
    return Field(default=[], validation_alias=field.validation_alias)


def rows_of_columns(sent: Any, max_rows: int) -> list[dict[str, Any]]:
    """As a list of records. sent: the body, parsed. Raises InvalidInput, TooLarge."""
    if sent.keys() != {"columns"}:
        raise refusal([_NO_BATCH])
    columns = sent["columns"]
    if not isinstance(columns, dict) or not all(isinstance(x, list) for x in columns.values()):
        raise refusal([_NOT_COLUMNS])
    if common_length(columns) > max_rows:
        raise too_many_rows(max_rows)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def common_length(columns: Mapping[str, Sequence[Any]]) -> int:
    """Raises InvalidInput where columns differ in length, or there are none."""
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths or not min(lengths.values()):
        raise refusal([_NOT_COLUMNS])
    most = max(lengths.values())
    message = f"Input should have as many values as the other columns, {most}"
    shorter: list[InputProblem] = [
        {"loc": ("body", "columns", name), "msg": message, "type": "column_length"}
        for name, length in lengths.items()
        if length < most
    ]
    if shorter:
        raise refusal(shorter)
    return most
