"""CSV, NDJSON and Parquet, row by row in chunks of a fixed number, so that a run can be resumed.

The first process cuts the file, the others parse what it cut off.
"""

import csv
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tabserve.errors import MissingExtra, ScoreError
from tabserve.types import Array

try:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtra("pyarrow", "score") from None

Format = Literal["csv", "ndjson", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip

_BLOCK_BYTES = 4 * 2**20
# Where nothing but the file's size is known.
_USUAL_ROW_BYTES = 100
# Of one row; a file that has a longer one is no text file of rows.
_MAX_ROW_BYTES = 64 * 2**20


def format_of(path: Path) -> Format:
    """By its suffix. Raises ScoreError."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ScoreError(
            f"Expected a file named {', '.join('*' + suffix for suffix in _SUFFIXES)}, got {path}."
        )
    return found


@dataclass(frozen=True)
class Chunk:
    """content: what `parsed` takes. share: of the input, up to the end of this chunk."""

    number: int
    first_row: int
    n_rows: int
    content: bytes
    share: float


@dataclass(frozen=True)
class Source:
    """path: exists. columns: all that the file has, in order; empty for NDJSON."""

    path: Path
    format: Format
    columns: list[str]

    @classmethod
    def opened(cls, path: Path) -> "Source":
        """Raises ScoreError."""
        format = format_of(path)
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ScoreError(f"{path} is no ordinary file, which can be read more than once.")
        try:
            if format == "parquet":
                columns = list(pq.read_schema(path).names)
            else:
                with path.open("rb") as file:
                    columns = _header(file) if format == "csv" else []
        except UnicodeDecodeError:
            raise ScoreError(
                f"Cannot read {path} as csv: its header is not UTF-8 text. Save it as UTF-8, and "
                "unpack it where it is compressed."
            ) from None
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise ScoreError(f"Cannot read {path} as {format}: {_sentence(error)}") from None
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise ScoreError(f"{path} has several columns named {', '.join(repeated)}.")
        return cls(path, format, columns)

    @property
    def about_n_rows(self) -> int:
        if self.format == "parquet":
            return int(pq.read_metadata(self.path).num_rows)
        return self.path.stat().st_size // _USUAL_ROW_BYTES

    def chunks(
        self, n_rows: int, columns: list[str], categories: Collection[str] = ()
    ) -> Iterator[Chunk]:
        """columns: those that are used, of a table. categories: those of few different texts, which
        Parquet holds once. Raises ScoreError.
        """
        try:
            if self.format == "parquet":
                yield from self._row_groups(n_rows, columns, categories)
            else:
                yield from self._lines(n_rows)
        except (OSError, pa.ArrowException) as error:
            raise ScoreError(f"Cannot read {self.path}: {_sentence(error)}") from None

    def _row_groups(
        self, n_rows: int, columns: list[str], categories: Collection[str]
    ) -> Iterator[Chunk]:
        schema = pq.read_schema(self.path)
        texts = [name for name in categories if _is_text(schema.field(name).type)]
        with pq.ParquetFile(
            self.path, pre_buffer=False, buffer_size=2**20, read_dictionary=texts
        ) as file:
            total = max(1, file.metadata.num_rows)
            first = 0
            batches = file.iter_batches(n_rows, columns=columns, use_threads=False)
            for number, batch in enumerate(batches):
                end = first + batch.num_rows
                yield Chunk(number, first, batch.num_rows, _sent(batch), end / total)
                first = end

    def _lines(self, n_rows: int) -> Iterator[Chunk]:
        size = max(1, self.path.stat().st_size)
        quoted = self.format == "csv"
        with self.path.open("rb") as file:
            if quoted:
                _header(file)
            first = 0
            for number, (content, n) in enumerate(_cut(file, n_rows, quoted)):
                yield Chunk(number, first, n, content, file.tell() / size)
                first += n


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def plain_type(kind: Any) -> Any:
    """In place of the views of text and bytes that Polars writes, of which Arrow takes no rows;
    also within lists and structs.
    """
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        made = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return made(kind.value_field.with_type(plain_type(kind.value_type)))
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def parsed_table(content: bytes) -> Any:
    """Of Parquet."""
    table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
    plain = pa.schema([field.with_type(plain_type(field.type)) for field in table.schema])
    return table if plain == table.schema else table.cast(plain)


def parsed_lines(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line not in (b"", b"\r")]


def parsed_cells(content: bytes, columns: list[str], used: list[str]) -> tuple[Any, dict[int, str]]:
    """Of CSV: the used columns as text, and what is wrong with the rows that are none, which are
    left out.
    """
    try:
        return _cells(content, columns, used, pa.string())
    except pa.ArrowInvalid:  # text that is not UTF-8: in which rows, is seen without decoding it
        return _decoded(*_cells(content, columns, used, pa.binary()))


def _cells(
    content: bytes, columns: list[str], used: list[str], kind: Any
) -> tuple[Any, dict[int, str]]:
    broken: dict[int, str] = {}

    def on_broken(row: Any) -> str:
        found = "cell" if row.actual_columns == 1 else "cells"
        broken[row.number - 1] = (
            f"Expected {row.expected_columns} cells, found {row.actual_columns} {found}"
        )
        return "skip"

    table = pa.csv.read_csv(
        io.BytesIO(content),
        read_options=pa.csv.ReadOptions(
            column_names=columns, use_threads=False, block_size=len(content) + 1
        ),
        parse_options=pa.csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=on_broken, ignore_empty_lines=True
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, kind),
            include_columns=used,
            strings_can_be_null=False,
            check_utf8=True,
        ),
    )
    return table, broken


def _decoded(table: Any, broken: dict[int, str]) -> tuple[Any, dict[int, str]]:
    """Cells of bytes as text, without the rows that are no UTF-8."""
    rows = np.delete(np.arange(table.num_rows + len(broken)), list(broken))
    good = np.ones(table.num_rows, dtype=np.bool_)
    for name in table.column_names:
        for place, cell in enumerate(table[name].to_pylist()):
            try:
                cell.decode()
            except UnicodeDecodeError:
                good[place] = False
                broken[int(rows[place])] = f"Expected UTF-8 text in {name}"
    table = table.filter(pa.array(good))
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names])), broken


def _sent(batch: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def _header(file: Any) -> list[str]:
    """Of a CSV file, which then stands at its first row."""
    line = b""
    while line.count(b'"') % 2 or not line.strip():
        more = file.readline(_MAX_ROW_BYTES)
        if not more:
            raise csv.Error("it has no header line")
        line = line + more if line.strip() else more
    text = line.decode("utf-8-sig").rstrip("\r\n")
    if "\r" in text and '"' not in text:
        raise csv.Error("its lines end in CR alone; save it with LF or CR LF at their ends")
    return next(csv.reader([text]))


def _cut(file: Any, n_rows: int, quoted: bool) -> Iterator[tuple[bytes, int]]:
    """Pieces of n_rows lines, and how many each has: the last one may have less. Empty lines do
    not count, and line breaks within quotes are none.
    """
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        rest += block
        ends = _line_ends(rest, quoted)
        start = 0
        while len(ends) >= n_rows:
            end = int(ends[n_rows - 1]) + 1
            yield rest[start:end], n_rows
            ends, start = ends[n_rows:], end
        rest = rest[start:]
        if len(rest) > _MAX_ROW_BYTES and not len(ends):
            raise ScoreError(f"Expected rows, found a line of more than {_MAX_ROW_BYTES} bytes.")
    if rest.strip(b"\r\n"):
        rest = rest.rstrip(b"\r\n") + b"\n"
        yield rest, len(_line_ends(rest, quoted))


def _line_ends(text: bytes, quoted: bool) -> Array:
    """Where the lines end that are not empty."""
    characters = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    if quoted and b'"' in text:
        quotes = np.flatnonzero(characters == ord('"'))
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    lengths = np.diff(ends, prepend=-1)
    is_empty = lengths == 1
    is_empty |= (lengths == 2) & (characters[ends - 1] == ord("\r"))
    found: Array = ends[~is_empty]
    return found


def _sentence(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__
