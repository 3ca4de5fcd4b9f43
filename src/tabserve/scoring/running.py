"""One run of `tabserve score`, from its plan to its report."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tabserve import loading, repository
from tabserve.artifact import MANIFEST, Artifact
from tabserve.cpus import usable_cpus
from tabserve.decoding import RecordDecoder
from tabserve.errors import MissingExtra, ScoreError
from tabserve.importing import request_class
from tabserve.output import Renderer
from tabserve.scoring import engine, reading
from tabserve.scoring.answers import Path as ColumnPath
from tabserve.scoring.keeping import kept
from tabserve.scoring.plan import Plan, Progress
from tabserve.scoring.processes import Processes
from tabserve.scoring.reading import Chunk, Source
from tabserve.scoring.scorer import ROW, Predict, Scored, Scorer
from tabserve.scoring.writing import Parts

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

# Of a chunk, where nothing else is said: as many rows as gain from being scored together, and no
# more values than fit in a few MiB.
_MOST_ROWS, _MOST_VALUES = 2**17, 2**21

# No limit: rows come from a file and not from a stranger.
_MAX_ROWS = 2**31


@dataclass(frozen=True)
class _Done:
    number: int
    n_scored: int
    n_rejected: int
    share: float


def run(plan: Plan, on_progress: Callable[[Progress], None]) -> Progress:
    """Score all rows of plan.source into plan.out.

    Raises ScoreError, also where it was interrupted, and what loading the model raises.
    """
    _refuse_overwriting(plan)
    source = Source.opened(plan.source)
    artifact = repository.find(plan.path)
    work = _Work(plan, source, artifact.folder)
    # Forked processes share what is loaded here; what other libraries load may not survive a fork.
    is_lowered = artifact.manifest.lowered is not None
    if is_lowered:
        work = replace(work, predict=work.loaded())
    scorer = work.scorer(None)
    columns = _columns(plan, source, scorer)
    categories = scorer.checker.categories(source.columns) - {*plan.keep}
    parts = work.parts(scorer)
    n_rows = plan.chunk or _chunk_rows(len(artifact.manifest.signature.features))
    n_parts = 0
    total, began = Progress(), time.monotonic()

    def count(done: _Done, resumed: int = 0) -> Progress:
        return Progress(
            total.n_scored + done.n_scored,
            total.n_rejected + done.n_rejected,
            total.n_resumed + resumed,
            max(total.share, done.share),
            time.monotonic() - began,
        )

    def to_do() -> Any:
        nonlocal n_parts, total
        for chunk in source.chunks(n_rows, columns, categories):
            n_parts += 1
            known = parts.done(chunk.number)
            if known is None:
                yield chunk
            else:
                total = count(_Done(chunk.number, *known, chunk.share), sum(known))

    try:
        parts.begin(_fingerprint(plan, artifact, parts, n_rows), plan.resume)
        n = plan.processes or usable_cpus()
        with Processes[Chunk, _Done](work, n, "fork" if is_lowered else "spawn") as processes:
            for done in processes.results(to_do()):
                total = count(done)
                on_progress(total)
        parts.finish(n_parts)
    except KeyboardInterrupt:
        raise ScoreError(
            f"Interrupted after {total.n_rows:,} rows, which are kept: go on with --resume."
        ) from None
    finally:
        parts.close()
    return count(_Done(0, 0, 0, 1.0))


@dataclass(frozen=True)
class _Work:
    """Calling it gives what scores a chunk, in the process that is to do so.

    predict: None where each process has to load the model.
    """

    plan: Plan
    source: Source
    folder: Path
    predict: Predict | None = None

    def __call__(self) -> Callable[[Chunk], _Done]:
        scorer = self.scorer(self.predict or self.loaded())
        parts = self.parts(scorer)
        columns = list(_columns(self.plan, self.source, scorer))

        def score(chunk: Chunk) -> _Done:
            scored = self._scored(scorer, chunk, columns)
            return _Done(chunk.number, *parts.write(chunk.number, scored), chunk.share)

        return score

    def loaded(self) -> Predict:
        artifact = Artifact(self.folder)
        loaded = loading.load(
            artifact,
            allow_pickle=self.plan.allow_pickle,
            allow_code=self.plan.allow_code,
            workers=self.plan.processes or usable_cpus(),
        )
        return engine.predictor(artifact, loaded, self.source.about_n_rows)

    def scorer(self, predict: Predict | None) -> Scorer:
        """predict: None where nothing is to be scored."""
        manifest = Artifact(self.folder).manifest
        own_class = request_class(self.plan.request)
        fields = (*Renderer(manifest.targets, manifest.output).fields, ROW)
        decoder = RecordDecoder(manifest.signature, own_class, fields, _MAX_ROWS)
        return Scorer(manifest, decoder, predict, decodes_all=own_class is not None)

    def parts(self, scorer: Scorer) -> Parts:
        plan = self.plan
        own = scorer.own_columns
        keep: dict[ColumnPath, Any] = {(name,): self._kept_type(name) for name in plan.keep}
        clashes = sorted({".".join(path) for path in keep} & {".".join(path) for path in own})
        if clashes:
            raise ScoreError(f"The answers have a column {', '.join(clashes)} of their own.")
        schema = {(ROW,): own[(ROW,)], **keep, **own}
        as_json = keep.keys() if self.source.format == "ndjson" else ()
        return Parts(plan.out, plan.rejects_path, reading.format_of(plan.out), schema, as_json)

    def _kept_type(self, name: str) -> Any:
        if self.source.format == "parquet":
            return reading.plain_type(pq.read_schema(self.source.path).field(name).type)
        return pa.string()

    def _scored(self, scorer: Scorer, chunk: Chunk, columns: list[str]) -> Scored:
        keep = list(self.plan.keep)
        numbers = chunk.first_row + np.arange(chunk.n_rows)
        if self.source.format == "ndjson":
            lines = reading.parsed_lines(chunk.content)
            return scorer.lines(lines, numbers, kept(lines, keep))
        if self.source.format == "parquet":
            table = reading.parsed_table(chunk.content)
            return scorer.table(table, numbers, keep, cells_are_text=False)
        table, broken = reading.parsed_cells(chunk.content, self.source.columns, columns)
        if table.num_rows + len(broken) != chunk.n_rows:
            raise ScoreError(
                f"Cannot tell the rows of {self.source.path} apart from row {chunk.first_row} on "
                '(the first is 0): a quote (") is never closed, or one or a CR stands in a cell '
                "that is not quoted. Quote such cells, and write each quote in them twice."
            )
        whole = np.delete(numbers, list(broken))
        scored = scorer.table(table, whole, keep, cells_are_text=True)
        for row, message in broken.items():
            problem = {"loc": ("body",), "msg": message, "type": "csv_row"}
            scored.rejects[int(numbers[row])] = "invalid_input", [problem]
        return Scored(scored.columns, dict(sorted(scored.rejects.items())))


def _refuse_overwriting(plan: Plan) -> None:
    written = plan.out, plan.rejects_path
    if len({path.resolve() for path in (plan.source, *written)}) < 3:
        raise ScoreError("IN, OUT and the file of the rejects must be different files.")
    for path in written:
        if path.is_dir():
            raise ScoreError(f"{path} is a folder; name a file.")
    # A run that is resumed may have written its rejects, and OUT not yet.
    for path in written[:1] if plan.resume else written:
        if path.exists() and not plan.replace:
            raise ScoreError(f"{path} exists already; say --replace to overwrite it.")


def _columns(plan: Plan, source: Source, scorer: Scorer) -> list[str]:
    """Of a table those that are used. Raises ScoreError where one is missing."""
    if source.format == "ndjson":
        return []
    missing = scorer.checker.missing_columns(source.columns)
    missing += [name for name in plan.keep if name not in source.columns]
    if missing:
        raise ScoreError(
            f"{plan.source} has no column {', '.join(missing)}; it has {', '.join(source.columns)}."
        )
    used = {*scorer.checker.columns_of(source.columns).values(), *plan.keep}
    return [name for name in source.columns if name in used]


def _chunk_rows(n_features: int) -> int:
    return max(1, min(_MOST_ROWS, _MOST_VALUES // n_features))


def _fingerprint(plan: Plan, artifact: Artifact, parts: Parts, n_rows: int) -> dict[str, Any]:
    stat = plan.source.stat()
    manifest = (artifact.folder / MANIFEST).read_bytes()
    return {
        "input": f"{plan.source.resolve()}, {stat.st_size} bytes, {stat.st_mtime_ns}",
        "model": hashlib.sha256(manifest).hexdigest(),
        "request class": plan.request,
        "kept columns": list(plan.keep),
        "chunk": n_rows,
    }
