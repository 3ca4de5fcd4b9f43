"""A function or class of the user's, named as module:attr."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from tabserve import inference
from tabserve.artifact import Exactness, ModelFormat
from tabserve.engines.function import FunctionEngine, callable_of
from tabserve.errors import BadModelOutput, PackError
from tabserve.feature import Unknown
from tabserve.output import Target
from tabserve.sample import columns_of, framed
from tabserve.signature import Signature
from tabserve.types import Engine, Outputs, Parts


class Function:
    """spec: module:attr, by which a server imports it. found: what that is."""

    exactness: Exactness = "close"
    lowerable = None

    def __init__(self, spec: str, found: Any) -> None:
        self.spec = spec
        self.name_of_type = spec
        self.found = found
        self._function = callable_of(found)
        if not callable(self._function):
            raise PackError(
                f"Expected a tabserve.Service, a fitted model, a function, or a class with predict "
                f"at {spec}, found {type(found).__name__}."
            )

    @classmethod
    def of(cls, found: Any) -> Self:
        """Raises PackError for what has no name in a module."""
        name = getattr(found, "__qualname__", None)
        if name is None:
            raise PackError(
                f"Expected a fitted scikit-learn estimator, or a function or class of a module, "
                f"got {type(found).__name__}."
            )
        return cls(f"{found.__module__}:{name}", found)

    def rows(self, data: Any) -> Any:
        rows = data if isinstance(data, pd.DataFrame) else framed(data)
        if len(rows) == 0:
            raise PackError("The sample data has no rows.")
        return rows.rename(columns=str)

    def usual_rows(self) -> Any:
        raise PackError(f"{self.spec} does not say what it takes; give sample rows with --data.")

    def signature(
        self, rows: Any, unknown: Mapping[str, Unknown], extra_fields: Literal["refuse", "ignore"]
    ) -> Signature:
        return inference.signature_of(None, rows, "frame", unknown, extra_fields)

    def targets(self, rows: Any, target: Any | None) -> tuple[Target, ...]:
        """By what it answers to the sample: text and booleans are classes."""
        signature = self.signature(rows, {}, "refuse")
        engine = FunctionEngine(self._function, signature, (), {})
        try:
            answers = engine.answers(columns_of(rows, signature))
        except BadModelOutput as error:
            raise PackError(f"{self.spec} cannot be packed. {error}") from None
        return tuple(_target(name, values) for name, values in answers.items())

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def engine(self, signature: Signature, targets: tuple[Target, ...], parts: Parts) -> Engine:
        return FunctionEngine(self._function, signature, targets, parts)

    def outputs(self, engine: Engine, rows: Any) -> Outputs:
        return engine.predict(columns_of(rows, self.signature(rows, {}, "refuse")))

    def files(self) -> dict[ModelFormat, bytes]:
        return {}

    def packed(
        self,
        files: Mapping[ModelFormat, bytes],
        signature: Signature,
        targets: tuple[Target, ...],
        parts: Parts,
    ) -> Engine:
        """A class is made anew, as the server does."""
        return FunctionEngine(callable_of(self.found), signature, targets, parts)

    def libraries(self) -> dict[str, str]:
        return {"numpy": np.__version__}


def _target(name: str, values: list[Any]) -> Target:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return Target(name=name, kind="number")
    kinds = set(map(type, values))
    if kinds not in ({str}, {bool}):
        raise PackError(
            f"Expected numbers, text or booleans as answers{f' of {name}' * bool(name)}, got "
            f"{', '.join(sorted(kind.__name__ for kind in kinds))}."
        )
    return Target(name=name, kind="classes", classes=tuple(sorted(set(values))), is_open=True)
