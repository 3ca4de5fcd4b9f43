"""Problems of an input as the client is told them: the first ones, and never the input itself."""

from typing import Any

from pydantic import ValidationError

from tabserve.errors import InputProblem, InvalidInput, InvalidJSON

# More would tell the caller nothing new, and would make a large answer to a bad batch.
MAX_PROBLEMS = 100
MAX_MESSAGE_CHARS = 300

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
    # A key of the input, and so a message too, may be as long as the body.
    listed: list[InputProblem] = [
        {
            "loc": tuple(shortened(part) for part in found["loc"]),
            "msg": shortened(found["msg"]),
            "type": found["type"],
        }
        for found in problems[:MAX_PROBLEMS]
    ]
    if len(problems) > MAX_PROBLEMS:
        message = "Further problems are not listed"
        listed.append({"loc": ("body",), "msg": message, "type": "too_many_problems"})
    kind = InvalidJSON if problems[0]["type"] == "json_invalid" else InvalidInput
    return kind(listed)


def shortened(part: Any) -> Any:
    return part[:MAX_MESSAGE_CHARS] if isinstance(part, str) else part
