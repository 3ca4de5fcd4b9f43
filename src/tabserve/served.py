"""One model being served: signature, engine, batcher, and what watches them."""

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel

from tabserve import loading
from tabserve.artifact import Artifact, Manifest
from tabserve.batching import Batcher
from tabserve.decoding import RecordDecoder
from tabserve.errors import ModelNotReady, OperatorError
from tabserve.lines import Lines
from tabserve.loading import LoadedModel
from tabserve.metrics import Metrics
from tabserve.moments import texts_of_moments
from tabserve.output import WARNINGS, Renderer
from tabserve.predictor import Outcome, Predictor
from tabserve.records import Records
from tabserve.signature import Feature
from tabserve.types import Array, Computation

_LOADING = "The model is being loaded."


class ServedModel:
    """Loads in its own thread, so that probes are answered meanwhile.

    One that nobody can reach any more ends by itself, as soon as its last request is answered.

    request_class: the user's own, or None for one made from the signature.
    workers: processes that share this machine's CPUs.
    stuck_after_s: of a call by when nobody waits for it any more.
    Raises ArtifactError and RequestClassError for what the manifest alone shows.
    """

    def __init__(
        self,
        artifact: Artifact,
        metrics: Metrics,
        *,
        request_class: type[BaseModel] | None,
        allow_pickle: bool,
        allow_code: bool,
        workers: int,
        max_queue: int,
        max_queue_rows: int,
        max_wait_s: float,
        max_rows: int,
        max_depth: int,
        stuck_after_s: float,
    ) -> None:
        self.manifest = artifact.manifest
        self.renderer = Renderer(self.manifest.targets, self.manifest.output)
        self.decoder = RecordDecoder(
            self.manifest.signature, request_class, self.renderer.fields, max_rows, max_depth
        )
        self._features = self.manifest.signature.features
        self._names = [feature.name for feature in self._features]
        self._may_warn = self.manifest.signature.may_warn
        self._told_of = {"model": self.manifest.name, "model_version": self.manifest.version}
        self._artifact = artifact
        self._metrics = metrics
        self._loading: Any = {
            "allow_pickle": allow_pickle,
            "allow_code": allow_code,
            "workers": workers,
        }
        self._queue_bounds: dict[str, Any] = {
            "max_queue": max_queue,
            "max_queue_rows": max_queue_rows,
            "max_wait_s": max_wait_s,
        }
        self._stuck_after_s = stuck_after_s
        # Told of the error for which the model will never be served.
        self.on_refused: Callable[[Exception], None] = lambda error: None
        self.on_ready: Callable[[], None] = lambda: None
        self.pause: Callable[[], None] = lambda: None  # while it is loaded, again and again
        self.identity: Any = None  # of its files, where they may change: see repository.identity
        self._answered = metrics.predictions.labels(self.manifest.name, self.manifest.version)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._finish: Callable[[], LoadedModel] | None = None
        self._loaded: LoadedModel | None = None
        self._batcher: Batcher | None = None
        self._predictor: Predictor | None = None
        self._inline_rows = 0
        self._refusal: Exception | None = None
        self._why_not_ready = _LOADING

    def preload(self) -> None:
        """Load what processes that are forked from this one may share. Raises what `wait` does."""
        if self._finish is None:
            self._finish = loading.preload(self._artifact, **self._loading)

    def start(self) -> None:
        """Begin to load, if nobody did; returns at once."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._load, name="tabserve-load", daemon=True)
                    thread.start()
                    self._thread = thread  # now that others may wait for it

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the model can answer. Raises what refused it, or ModelNotReady at the timeout."""
        self.start()
        assert self._thread is not None
        self._thread.join(timeout_s)
        if self._refusal is not None:
            raise self._refusal
        if self._batcher is None:
            raise ModelNotReady(f"The model was not ready within {timeout_s} s.")

    @property
    def is_ready(self) -> bool:
        return self._loaded is not None

    @property
    def loaded(self) -> LoadedModel:
        """Raises ModelNotReady."""
        loaded = self._loaded  # read once: `close` may forget it meanwhile
        if loaded is None:
            raise ModelNotReady(self._why_not_ready)
        return loaded

    @property
    def answering(self) -> LoadedModel:
        """One that is loaded, and not stuck. Raises ModelNotReady."""
        if self.is_stuck:
            raise ModelNotReady("The model has not returned from a call within the deadline.")
        return self.loaded

    @property
    def predictor(self) -> Predictor:
        """Raises ModelNotReady."""
        predictor = self._predictor
        if predictor is None:
            raise ModelNotReady(self._why_not_ready)
        return predictor

    def answers(self, records: Records, deadline: float) -> "Future[list[Any]] | Computation":
        """The answers to records, in time: what a handler waits for. Of rows that fail alone there
        is the error in place of the answer.

        Raises ModelNotReady, Overloaded. It fails with DeadlineExceeded, InvalidInput,
        BadModelOutput, and whatever else the model raises.
        """
        predictor, batcher = self._predictor, self._batcher  # `close` may forget them meanwhile
        if predictor is not None and records.n_rows <= self._inline_rows:
            return Computation(predictor, records)
        if batcher is None:
            raise ModelNotReady(self._why_not_ready)
        return batcher.submit(records, deadline)

    @property
    def is_stuck(self) -> bool:
        """Whether the model takes longer for one call than anybody waits for it."""
        batcher = self._batcher
        return batcher is not None and batcher.computing_s > self._stuck_after_s

    def count_row_errors(self, codes: Iterable[str]) -> None:
        counter = self._metrics.row_errors
        for code in codes:
            counter.labels(self.manifest.name, self.manifest.version, code).inc()

    def log_lines(self, records: Records, outcomes: Sequence[Outcome]) -> Lines:
        """What the log says of each prediction that was made."""
        answers = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        if len(answers) < len(outcomes):
            made = [row for row, outcome in enumerate(outcomes) if isinstance(outcome, dict)]
            records = records.part(made)
        values = records.values
        return Lines(
            common=self._told_of,
            prediction_ids=[answer["prediction_id"] for answer in answers],
            features={
                name: _listed(feature, column)
                if isinstance(column := values[name], np.ndarray)
                else column
                for feature, name in zip(self._features, self._names, strict=True)
            },
            result={
                name: [answer[name] for answer in answers] for name in self.renderer.own_fields
            },
            echoes=records.echoes,
            more={
                row: {WARNINGS: answer[WARNINGS]}
                for row, answer in enumerate(answers)
                if WARNINGS in answer
            }
            if self._may_warn
            else {},
        )

    @property
    def logged_fields(self) -> set[str]:
        """The names under "features" and "result" of the log's lines."""
        return set(self._names) | set(self.decoder.echo_schema()) | set(self.renderer.own_fields)

    def end(self) -> None:
        """Take nothing more, and finish what is queued; returns at once."""
        if self._batcher is not None:
            self._batcher.end()

    def close(self, timeout_s: float | None = None) -> None:
        """Finish what is queued, if that takes no longer, and forget the model; `start` loads it
        anew.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
        batcher = self._batcher
        self._thread = self._loaded = self._batcher = self._predictor = self._refusal = None
        self._why_not_ready = _LOADING
        if batcher is not None:
            batcher.close(timeout_s)

    def _load(self) -> None:
        try:
            finish = self._finish or partial(
                loading.load, self._artifact, pause=self.pause, **self._loading
            )
            loaded = finish()
        except Exception as error:  # noqa: BLE001 - kept, and told to whoever waits
            self._refusal = error
            self._why_not_ready = "The model was refused; the server's own log says why."
            self.on_refused(error)
            return
        self._predictor = Predictor(
            loaded.engine,
            loaded.manifest,
            self.decoder,
            self.renderer,
            on_call=partial(self._metrics.later, self._metrics.batch_rows.observe),
            on_answered=partial(self._metrics.later, self._answered.inc),
            on_warning=_count_by_type(self._metrics, self.manifest),
        )
        self._batcher = Batcher(
            self._predictor,
            joinable=loaded.manifest.parity.joinable,
            **self._queue_bounds,
            on_queued=self._metrics.queue_depth.inc,  # it is that of all models
        )
        self._inline_rows = loaded.inline_rows
        self._loaded = loaded
        # Not counted by hand: whoever waits for an answer of this model holds it.
        weakref.finalize(self, self._batcher.end).atexit = False
        self.on_ready()


def _count_by_type(metrics: Metrics, manifest: Manifest) -> Callable[[str], None]:
    """Not a method: a model that its own predictor held would not end with its last request."""
    return lambda kind: metrics.warnings.labels(manifest.name, manifest.version, kind).inc()


def _listed(feature: Feature, column: Array) -> Sequence[Any]:
    """As Python values, None where missing."""
    listed: list[Any] = column.tolist()
    if column.dtype.kind == "M":
        return texts_of_moments(column)
    if column.dtype.kind != "f":
        return listed
    # An integer that may be missing is a float to the model.
    exact = int if feature.type == "integer" else float
    return [None if value != value else exact(value) for value in listed]


def refusal_sentence(error: Exception) -> str:
    """What the operator is told: never a traceback for what TabServe itself refused."""
    if isinstance(error, OperatorError):
        return str(error)
    found = f"The model cannot be loaded: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        found += (
            ". Install it where the model is served, or pack the model again with --code FOLDER."
        )
    return found
