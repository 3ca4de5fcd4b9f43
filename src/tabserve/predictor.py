"""Records to answers, those of several requests with one call of the engine."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Protocol

import numpy as np

from tabserve.artifact import Manifest
from tabserve.decoding import RecordDecoder
from tabserve.errors import BadModelOutput, InputProblem, Internal, InvalidInput
from tabserve.output import Prediction, Renderer
from tabserve.records import Records
from tabserve.signature import Signature
from tabserve.types import Engine, Outputs, Values, new_ids, timestamp

# What becomes of a row: its answer, or why there is none.
Outcome = Prediction | Exception

# Of the model, to find the rows of one request that it fails on.
MOST_CALLS = 64


# Values, outputs, rows and seconds of one call of the model.
Observer = Callable[[Values, Outputs, int, float], None]


class HasValues(Protocol):
    @property
    def values(self) -> Values: ...


class Predictor:
    """on_call: told the rows of each call of the engine; on_answered: those that were answered;
    on_warning: the type of each warning.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        decoder: RecordDecoder,
        renderer: Renderer,
        on_call: Callable[[int], None],
        on_answered: Callable[[int], None],
        on_warning: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._alone = threading.Lock()
        self._predict = engine.predict if engine.reentrant else partial(self._in_turn, engine)
        self._signature = manifest.signature
        # Attributes of pydantic's classes take three times as long to find.
        self._version = manifest.version
        self._may_warn = manifest.signature.may_warn
        self._has_echoes = decoder.has_echoes
        self._decoder = decoder
        self._renderer = renderer
        self._on_call = on_call
        self._on_answered = on_answered
        self._on_warning = on_warning
        # Told what is computed for requests, where another version is compared with this one.
        self.observer: Observer | None = None

    def __call__(self, requests: Sequence[Records]) -> Sequence[Sequence[Outcome]]:
        """The answers of each request, in the order of its rows, each answer with its id.

        Raises InvalidInput, with places in the body of the first, for what only the model can tell,
        BadModelOutput, and whatever else the model raises; in place of the answers of rows that
        fail alone, it gives back the error.
        """
        try:
            return self._answers(requests)
        except Exception as error:
            if len(requests) == 1 and requests[0].places is not None:
                return [_Apart(self._answers, self._placed).outcomes(requests[0])]
            if isinstance(error, InvalidInput):
                raise self._placed(error, requests[0]) from None
            raise

    def compute(self, values: Values) -> Outputs:
        """For nobody's request, in any thread; raises whatever the model raises."""
        return self._predict(values)

    def _in_turn(self, engine: Engine, values: Values) -> Outputs:
        """An engine that only one thread may call at a time."""
        with self._alone:
            return engine.predict(values)

    def _placed(self, error: InvalidInput, records: Records) -> InvalidInput:
        return self._decoder.placed(error, records.form, records.places)

    def _answers(self, requests: Sequence[Records]) -> list[list[Prediction]]:
        is_one = len(requests) == 1
        n_rows = requests[0].n_rows if is_one else sum([records.n_rows for records in requests])
        self._on_call(n_rows)
        values = joined(self._signature, requests)
        if self.observer is None:
            outputs = self._predict(values)
        else:
            began = time.perf_counter()
            outputs = self._predict(values)
            self.observer(values, outputs, n_rows, time.perf_counter() - began)
        answers = self._renderer.render(outputs, n_rows)
        self._complete(answers, requests)
        self._on_answered(n_rows)
        if is_one:
            return [answers]
        if n_rows == len(requests):
            return [[answer] for answer in answers]
        bounds = pairwise(accumulate((records.n_rows for records in requests), initial=0))
        return [answers[start:end] for start, end in bounds]

    def _complete(self, answers: list[Prediction], requests: Sequence[Records]) -> None:
        if self._has_echoes:
            self._echo(answers, requests)
        version, now = self._version, timestamp(time.time())
        for answer, prediction_id in zip(answers, new_ids(len(answers)), strict=True):
            answer["model_version"] = version
            answer["prediction_id"] = prediction_id
            answer["prediction_timestamp"] = now
        if self._may_warn:
            self._warn(answers, requests)

    def _echo(self, answers: list[Prediction], requests: Sequence[Records]) -> None:
        start = 0
        for records in requests:
            for row, echo in enumerate(records.echoes or ()):
                answers[start + row].update(echo)
            start += records.n_rows

    def _warn(self, answers: list[Prediction], requests: Sequence[Records]) -> None:
        start = 0
        for records in requests:
            for row, warnings in (records.warnings or {}).items():
                answers[start + row]["warnings"] = warnings
                for warning in warnings:
                    self._on_warning(warning["type"])
            start += records.n_rows


class _Apart:
    """The rows of one request, of which some cannot be computed: those fail, and no other.

    An error that names its rows costs one more call of the model. For any other error the rows are
    halved, with at most MOST_CALLS, since others wait for the model too; past that, the rows of
    which it is not known yet fail as well.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Records]], list[list[Prediction]]],
        placed: Callable[[InvalidInput, Records], InvalidInput],
    ) -> None:
        self._compute = compute
        self._placed = placed
        self._calls_left = MOST_CALLS

    def outcomes(self, records: Records) -> list[Outcome]:
        """By row."""
        if self._calls_left == 0:
            return [Internal("Too many of the records cannot be computed.")] * records.n_rows
        self._calls_left -= 1
        try:
            return list(self._compute([records])[0])
        except Exception as error:  # noqa: BLE001 - each is the answer of the row that it came from
            failed = self._failed(error, records)
        if not failed:
            middle = records.n_rows // 2
            halves = (range(middle), range(middle, records.n_rows))
            return [found for half in halves for found in self.outcomes(records.part(half))]
        others = [row for row in range(records.n_rows) if row not in failed]
        outcomes = self.outcomes(records.part(others)) if others else []
        found = failed | dict(zip(others, outcomes, strict=True))
        return [found[row] for row in range(records.n_rows)]

    def _failed(self, error: Exception, records: Records) -> dict[int, Outcome]:
        """By row, where it is known."""
        if isinstance(error, BadModelOutput) and error.rows:
            reason = BadModelOutput("The model's answer for this record is not a finite number.")
            return dict.fromkeys(error.rows, reason)
        if isinstance(error, InvalidInput):
            if records.n_rows == 1:
                problems = [{**found, "loc": found["loc"] or (0,)} for found in error.problems]
                return {0: self._placed(InvalidInput(problems), records)}
            by_row: dict[int, list[InputProblem]] = {}
            for found in error.problems:
                if found["loc"]:
                    by_row.setdefault(found["loc"][0], []).append(found)
            return {
                row: self._placed(InvalidInput(found), records) for row, found in by_row.items()
            }
        return {0: error} if records.n_rows == 1 else {}


def joined(signature: Signature, requests: Sequence[HasValues]) -> Values:
    """The rows of several requests one after the other."""
    if len(requests) == 1:
        return requests[0].values
    parts = [records.values for records in requests]
    if any(isinstance(column, np.ndarray) for part in parts for column in part.values()):
        columns = [signature.arrays(part) for part in parts]
        return {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    return {name: list(chain.from_iterable([part[name] for part in parts])) for name in parts[0]}
