"""The answers of a run: a part for each chunk, which stays if the run ends early, then one file.

Beside OUT, in the folder OUT.partial, so that the last step is a rename within one file system.
"""

import fcntl
import io
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path as FilePath
from typing import Any

import orjson

from tabserve.errors import MissingExtra, ScoreError
from tabserve.output import WARNINGS
from tabserve.scoring.answers import Path
from tabserve.scoring.keeping import as_text, type_of
from tabserve.scoring.reading import Format
from tabserve.scoring.scorer import Scored

try:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

_PLAN = "plan.json"
# Of the folder, which the process holds that began or resumed the run.
_LOCK = "lock"


class Parts:
    """Of one run. schema: by path, of all columns of OUT in their order. as_json: those that come
    as JSON, and whose type is that of all their values.
    """

    def __init__(
        self,
        out: FilePath,
        rejects: FilePath,
        format: Format,
        schema: dict[Path, Any],
        as_json: Collection[Path] = (),
    ) -> None:
        self._out = out
        self._rejects = rejects
        self._format = format
        self._schema = schema
        self._as_json = as_json
        self._arrow = pa.schema([(".".join(path), kind) for path, kind in schema.items()])
        self.folder = out.with_name(out.name + ".partial")
        self._locked: Any = None

    def begin(self, plan: dict[str, Any], resume: bool) -> None:
        """plan: what the parts were made from; only for the same one a run is resumed.

        Raises ScoreError.
        """
        self._refuse_what_csv_cannot_hold()
        path = self.folder / _PLAN
        try:
            is_there = self.folder.exists()
            self.folder.mkdir(exist_ok=True)
            self._lock()  # before anything is said of a run that another process may be doing
            if is_there:
                if not resume:
                    raise ScoreError(
                        f"{self.folder} holds the parts of a run that was interrupted: go on with "
                        "--resume, or delete the folder."
                    )
                known = _loaded(path)
                changed = sorted(key for key in plan if known and known.get(key) != plan[key])
                if changed:
                    raise ScoreError(
                        f"The run in {self.folder} cannot be resumed: its {', '.join(changed)} "
                        "differ(s) from this one's. Delete the folder to begin anew."
                    )
                if known is not None:
                    return
                # What is left where a run was killed while it removed its parts: some of them.
                for part in self.folder.glob("[0-9]*.*"):
                    part.unlink()
            _write(path, orjson.dumps(plan))
        except OSError as error:
            raise ScoreError(f"Cannot write {self.folder}: {error.strerror}.") from None

    def close(self) -> None:
        """What is left of the folder is another run's."""
        if self._locked is not None:
            self._locked.close()

    def _lock(self) -> None:
        """Until `close`, or this process ends. Raises ScoreError."""
        self._locked = (self.folder / _LOCK).open("wb")
        try:
            # By record, so that processes that are forked do not hold it longer than this one.
            fcntl.lockf(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScoreError(
                f"Another run writes {self.folder}: wait until it is done, or end it."
            ) from None

    def done(self, number: int) -> tuple[int, int] | None:
        """Rows with an answer and rejects of a part that there is; None where there is none."""
        found = self._done(number)
        return None if found is None else (found["scored"], found["rejected"])

    def _done(self, number: int) -> dict[str, Any] | None:
        return _loaded(self._path(number, "done"))

    def write(self, number: int, scored: Scored) -> tuple[int, int]:
        """In an order in which what is killed leaves no part that seems whole.

        Raises ScoreError.
        """
        with self._written(self.folder):
            return self._write(number, scored)

    def _write(self, number: int, scored: Scored) -> tuple[int, int]:
        n_scored = len(next(iter(scored.columns.values()))) if scored.columns else 0
        if scored.rejects:
            lines = b"".join(_rejects(scored))
            _write(self._path(number, "rejects"), lines)
        kinds: dict[str, list[str]] = {}
        if n_scored:
            columns = scored.columns
            if self._format != "ndjson":
                columns, kinds = self._as_text(columns)
            _write(self._path(number, "rows"), self._encoded(columns))
        n_rejected = len(scored.rejects)
        done = {"scored": n_scored, "rejected": n_rejected, "kinds": kinds}
        _write(self._path(number, "done"), orjson.dumps(done))
        return n_scored, n_rejected

    def finish(self, n_parts: int) -> None:
        """OUT and the rejects of all parts, each there whole or not at all; the parts go.

        Raises ScoreError.
        """
        with self._written(self._out):
            self._join_all(n_parts)

    def _join_all(self, n_parts: int) -> None:
        whole, rejects = self.folder / "out", self.folder / "rejects"
        if self._format == "parquet":
            self._join_parquet(whole, n_parts)
        else:
            header = _header_of(self._arrow) if self._format == "csv" else b""
            self._join(whole, header, n_parts, "rows")
        self._join(rejects, b"", n_parts, "rejects")
        if rejects.stat().st_size:
            rejects.replace(self._rejects)
        else:
            self._rejects.unlink(missing_ok=True)
        whole.replace(self._out)
        (self.folder / _PLAN).unlink()  # first: some of the parts alone are to be no run
        shutil.rmtree(self.folder)

    @contextmanager
    def _written(self, path: FilePath) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # such as a full disk
            raise ScoreError(
                f"Cannot write {path}: {error.strerror or error}. What is done is kept: go on with "
                "--resume once that is mended."
            ) from None

    def _path(self, number: int, kind: str) -> FilePath:
        return self.folder / f"{number:06}.{kind}"

    def _as_text(self, columns: dict[Path, Any]) -> tuple[dict[Path, Any], dict[str, list[str]]]:
        """What is JSON as text, and of which kinds it is, by name."""
        texts, kinds = dict(columns), {}
        for path in self._as_json:
            texts[path], found = as_text(columns[path])
            kinds[".".join(path)] = sorted(found)
        return texts, kinds

    def _refuse_what_csv_cannot_hold(self) -> None:
        """Such as lists."""
        for path, kind in self._schema.items() if self._format == "csv" else ():
            try:
                _header_of(pa.schema([(".".join(path), kind)]))
            except pa.ArrowException:
                raise ScoreError(
                    f"A CSV cannot hold column {'.'.join(path)}, which is of type {kind}: name OUT "
                    "*.ndjson or *.parquet, or do not keep it."
                ) from None

    def _encoded(self, columns: dict[Path, Any]) -> bytes:
        if self._format != "parquet":
            columns = {path: _decoded(path, column) for path, column in columns.items()}
        if self._format == "ndjson":
            return b"".join(_ndjson(columns, {*self._as_json, (WARNINGS,)}))
        arrays = [
            _chunkless(columns[path]).cast(kind, safe=False)
            if columns[path].type != kind
            else columns[path]
            for path, kind in self._schema.items()
        ]
        sink = io.BytesIO()
        if self._format == "csv":
            arrays = [
                array.cast(pa.string()) if pa.types.is_dictionary(array.type) else array
                for array in arrays
            ]
            names = [".".join(path) for path in self._schema]
            options = pa.csv.WriteOptions(include_header=False)
            pa.csv.write_csv(pa.table(arrays, names=names), sink, options)
        else:
            table = pa.table(arrays, schema=self._arrow)
            pq.write_table(table, sink, **_parquet_options(self._arrow))
        return sink.getvalue()

    def _join(self, path: FilePath, header: bytes, n_parts: int, kind: str) -> None:
        with path.open("wb") as file:
            file.write(header)
            for number in range(n_parts):
                with suppress(FileNotFoundError), self._path(number, kind).open("rb") as part:
                    shutil.copyfileobj(part, file)
            _flush(file)

    def _join_parquet(self, path: FilePath, n_parts: int) -> None:
        schema = self._joined_schema(n_parts)
        with (
            path.open("wb") as file,
            pq.ParquetWriter(file, schema, **_parquet_options(schema)) as writer,
        ):
            for number in range(n_parts):
                with suppress(FileNotFoundError):
                    part = self._path(number, "rows")
                    table = pq.read_table(part, schema=self._arrow, use_threads=False)
                    writer.write_table(table.cast(schema))
            writer.close()
            _flush(file)

    def _joined_schema(self, n_parts: int) -> Any:
        """With the types that all parts can have."""
        schema = self._arrow
        done = [self._done(number) or {} for number in range(n_parts)] if self._as_json else []
        for (name,) in self._as_json:
            kinds = {kind for found in done for kind in found.get("kinds", {}).get(name, ())}
            schema = schema.set(schema.get_field_index(name), pa.field(name, type_of(kinds)))
        return schema


def _parquet_options(schema: Any) -> dict[str, Any]:
    """A dictionary for text alone: of numbers that are all different it takes most of the time."""
    integers = {field.name for field in schema if pa.types.is_integer(field.type)}
    numbers = {field.name for field in schema if pa.types.is_floating(field.type)} | integers
    return {
        "compression": "zstd",
        "use_dictionary": [field.name for field in schema if field.name not in numbers],
        "column_encoding": dict.fromkeys(integers, "DELTA_BINARY_PACKED"),
    }


def _header_of(schema: Any) -> bytes:
    """Of CSV. Raises ArrowException where it cannot hold a type."""
    sink = io.BytesIO()
    plain = [
        pa.field(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type)
        for field in schema
    ]
    pa.csv.write_csv(pa.schema(plain).empty_table(), sink)
    return sink.getvalue()


def _decoded(path: Path, column: Any) -> Any:
    """Bytes as the text that they are, as in Parquet of writers that do not say that it is text."""
    kind = column.type
    if pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.binary())
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return column
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        raise ScoreError(
            f"Column {'.'.join(path)} holds bytes that are no UTF-8 text: name OUT *.parquet, or "
            "do not keep it."
        ) from None


def _chunkless(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _ndjson(columns: dict[Path, Any], as_json: set[Path]) -> Iterator[bytes]:
    """Nested as the API's answers are, and what is JSON as it is; without warnings where there are
    none.
    """
    listed = [
        [text and orjson.Fragment(text) for text in column.to_pylist()]
        if path in as_json
        else column.to_pylist()
        for path, column in columns.items()
    ]
    paths = list(columns)
    for values in zip(*listed, strict=True):
        record: dict[str, Any] = {}
        for path, value in zip(paths, values, strict=True):
            inner = record
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            if value is not None or path != (WARNINGS,):
                inner[path[-1]] = value
        yield orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)


def _rejects(scored: Scored) -> Iterator[bytes]:
    for row, (code, detail) in scored.rejects.items():
        line = {"row": row, "error": code, "detail": detail}
        yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _loaded(path: FilePath) -> dict[str, Any] | None:
    """None where there is none."""
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found


def _write(path: FilePath, content: bytes) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.write(content)
    beside.replace(path)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
