"""Records to answers, those of several requests with one call of the engine."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from tabserve.artifact import Manifest
from tabserve.decoding import RecordDecoder, Records
from tabserve.errors import InvalidInput
from tabserve.output import Prediction, Renderer
from tabserve.signature import Signature
from tabserve.types import Engine, Values, new_ids, timestamp


class Predictor:
    """on_call: told the rows of each call of the engine; on_answered: those that were answered."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        decoder: RecordDecoder,
        renderer: Renderer,
        on_call: Callable[[int], None],
        on_answered: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._manifest = manifest
        self._decoder = decoder
        self._renderer = renderer
        self._on_call = on_call
        self._on_answered = on_answered

    def __call__(self, requests: Sequence[Records]) -> list[list[Prediction]]:
        """The answers of each request, in the order of its rows, each answer with its id.

        Raises InvalidInput, with places in the body of the first, for what only the model can tell,
        BadModelOutput, and whatever else the model raises.
        """
        n_rows = sum([records.n_rows for records in requests])
        self._on_call(n_rows)
        try:
            outputs = self._engine.predict(_joined(self._manifest.signature, requests))
        except InvalidInput as error:
            raise self._decoder.placed(error, requests[0].form) from None
        answers = self._renderer.render(outputs, n_rows)
        self._complete(answers, requests)
        self._on_answered(n_rows)
        if n_rows == len(requests):
            return [[answer] for answer in answers]
        bounds = pairwise(accumulate((records.n_rows for records in requests), initial=0))
        return [answers[start:end] for start, end in bounds]

    def _complete(self, answers: list[Prediction], requests: Sequence[Records]) -> None:
        if self._decoder.has_echoes:
            echoes = chain.from_iterable([records.echoes or () for records in requests])
            for answer, echo in zip(answers, echoes, strict=True):
                answer.update(echo)
        version, now = self._manifest.version, timestamp(time.time())
        for answer, prediction_id in zip(answers, new_ids(len(answers)), strict=True):
            answer["model_version"] = version
            answer["prediction_id"] = prediction_id
            answer["prediction_timestamp"] = now


def _joined(signature: Signature, requests: Sequence[Records]) -> Values:
    if len(requests) == 1:
        return requests[0].values
    parts = [records.values for records in requests]
    if any(isinstance(column, np.ndarray) for part in parts for column in part.values()):
        columns = [signature.arrays(part) for part in parts]
        return {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    return {name: list(chain.from_iterable([part[name] for part in parts])) for name in parts[0]}
