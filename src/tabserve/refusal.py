"""Problems of an input as the client is told them: the first ones, and never the input itself."""

from typing import Any

import orjson
from pydantic import ValidationError

from tabserve.errors import InputProblem, InvalidInput, InvalidJSON, TooLarge

# More would tell the caller nothing new, and would make a large answer to a bad batch.
MAX_PROBLEMS = 100
MAX_MESSAGE_CHARS = 300
# Of the problems as JSON: the whole body of an error is at most 4 KiB, however much was sent.
MAX_PROBLEMS_BYTES = 3500

# Messages in place of those of pydantic's that repeat the input.
_WITHOUT_INPUT = {"union_tag_invalid": "Input has a tag that is none of the expected ones"}


def problems_of(error: ValidationError, root: tuple[int | str, ...]) -> list[InputProblem]:
    """root: where in the body what was validated stands."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {
            "loc": (*root, *found["loc"]),
            "msg": _WITHOUT_INPUT.get(found["type"], found["msg"]),
            "type": found["type"],
        }
        for found in errors
    ]


def refusal(problems: list[InputProblem]) -> InvalidInput:
    kind = InvalidJSON if problems[0]["type"] == "json_invalid" else InvalidInput
    listed: list[InputProblem] = []
    left_bytes = MAX_PROBLEMS_BYTES
    for found in problems[:MAX_PROBLEMS]:
        told = _told(found)
        left_bytes -= len(orjson.dumps(told)) + 1
        if left_bytes < 0:
            break
        listed.append(told)
    if len(listed) < len(problems):
        message = "Further problems are not listed"
        listed.append({"loc": ("body",), "msg": message, "type": "too_many_problems"})
    return kind(listed)


def too_many_rows(max_rows: int) -> TooLarge:
    return TooLarge(f"Expected at most {max_rows} records; send them in several requests.")


def _told(found: InputProblem) -> InputProblem:
    """A key of the input, and so a message too, may be as long as the body, and as deep."""
    loc = tuple(shortened(part) for part in found["loc"])
    told: InputProblem = {"loc": loc, "msg": shortened(found["msg"]), "type": found["type"]}
    if len(orjson.dumps(told)) >= MAX_PROBLEMS_BYTES:
        told["loc"] = loc[:1]
    return told


def shortened(part: Any) -> Any:
    return part[:MAX_MESSAGE_CHARS] if isinstance(part, str) else part
