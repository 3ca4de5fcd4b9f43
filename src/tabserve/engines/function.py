"""A function of the user's: columns in, an array or records out."""

import asyncio
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tabserve.errors import BadModelOutput
from tabserve.output import Target
from tabserve.signature import Signature
from tabserve.types import Array, Columns, Outputs, Parts, Values, n_rows


def callable_of(found: Any) -> Callable[[Columns], Any]:
    """What computes: the function itself, or `predict` of an object; of a class, one is made."""
    made = found() if isinstance(found, type) else found
    predict: Callable[[Columns], Any] = getattr(made, "predict", made)
    return predict


class FunctionEngine:
    """function: takes a dict of arrays, shape (n_rows,), by feature; it may be async."""

    name = "function"
    reentrant = False

    def __init__(
        self,
        function: Callable[[Columns], Any],
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
    ) -> None:
        self._function = function
        self._signature = signature
        self._targets = targets
        self._parts = parts
        self._loop: asyncio.AbstractEventLoop | None = None
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        ):
            # One for all calls: what the function keeps open belongs to it.
            self._loop = asyncio.new_event_loop()
            weakref.finalize(self, self._loop.close)

    def predict(self, values: Values) -> Outputs:
        """Raises BadModelOutput, and whatever the function raises."""
        columns = self._signature.arrays(values)
        answers = self.answers(columns)
        outputs: Outputs = {}
        for target in self._targets:
            if target.name not in answers:
                raise BadModelOutput(f"The function's answer has no {target.name!r}.")
            answer = answers[target.name]
            part = "value" if target.kind == "number" else "label"
            outputs[target.part(part)] = _typed(answer, target)
        return outputs

    def answers(self, columns: Columns) -> dict[str, list[Any]]:
        """By name, "" where there is only one. Raises BadModelOutput."""
        found = self._function(columns)
        if self._loop is not None:
            found = self._loop.run_until_complete(found)
        return _by_name(found, n_rows(columns))


def _by_name(found: Any, rows: int) -> dict[str, list[Any]]:
    if isinstance(found, list | tuple) and found and all(isinstance(x, Mapping) for x in found):
        names = found[0].keys()
        if any(record.keys() != names for record in found):
            raise BadModelOutput("The function's records have different fields.")
        named = {str(name): [_plain(record[name]) for record in found] for name in names}
    elif isinstance(found, Mapping):
        named = {str(name): _listed(values) for name, values in found.items()}
    else:
        array = np.asarray(found)
        if array.ndim == 2 and array.shape[1] != 1:
            named = {f"output_{i}": column.tolist() for i, column in enumerate(array.T)}
        else:
            named = {"": array.reshape(-1).tolist() if array.ndim == 2 else _listed(array)}
    for name, values in named.items():
        if len(values) != rows:
            raise BadModelOutput(
                f"The function answered {len(values)} values{f' of {name}' * bool(name)} for "
                f"{rows} rows."
            )
    return named


def _plain(value: Any) -> Any:
    """A scalar of numpy's as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(values: Any) -> list[Any]:
    """As Python values."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise BadModelOutput(f"The function answered an array of the shape {array.shape}.")
    listed: list[Any] = array.tolist()
    return listed


def _typed(values: list[Any], target: Target) -> Array:
    if target.kind == "number":
        try:
            return np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise BadModelOutput("The function answered something that is no number.") from None
    kind = type(target.classes[0])
    if any(type(value) is not kind for value in values):
        expected = "text" if kind is str else "true or false"
        raise BadModelOutput(f"The function answered something that is not {expected}.")
    return np.array([*values, None], dtype=object)[:-1]
