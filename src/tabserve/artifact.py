"""The artefact: the folder NAME/VERSION with a manifest, the model's file and the golden rows.

Nothing of it is executed here, and no byte of a file is handed on before its hash was compared.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from tabserve import carried, reading
from tabserve.errors import ArtifactError, PackError
from tabserve.lowered import Lowered
from tabserve.output import Output, Target
from tabserve.signature import Signature
from tabserve.types import Array, Moment, Outputs

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Of the manifest, as `sha256sum -c` reads it: the manifest holds those of all other files.
SEAL = "manifest.json.sha256"
GOLDEN = "golden.jsonl"
GRAPH = "model.onnx"
REFUSED = "refused.onnx"

# Limits on what is read: far above any model of tables, and below what would take the memory of a
# server that holds others. A feature that may be null has a golden row of its own.
MAX_MANIFEST_BYTES = 2**25
MAX_GOLDEN_BYTES = 2**28
MAX_GOLDEN_ROWS = 20_000
MAX_MODEL_BYTES = 2**32
MAX_FILES = 1000

# Of what a library says of a file: it may repeat what stands there.
_MOST_CHARS = 300

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Exactness = Literal["bits", "close", "tolerance"]
# Of a tolerance: above it, a number would say little.
MAX_TOLERANCE = 0.1
ModelFormat = Literal["skops", "joblib", "ubj", "txt", "cbm", "onnx"]


class Metric(BaseModel):
    """data: names the data set that the value was measured on."""

    model_config = ConfigDict(extra="forbid")

    name: str
    value: FiniteFloat
    data: str


class Tried(BaseModel):
    """An engine that packing tried. why: not used, where it is not equal.

    converter: what made the graph, where that was not TabServe's own exact lowering.
    max_difference: the largest absolute one, over all rows and batch sizes.
    row_us: microseconds that one row took when packing.
    """

    model_config = ConfigDict(extra="forbid")

    engine: Literal["native", "onnx", "function"]
    converter: Literal["skl2onnx"] | None = None
    equal: bool
    why: str | None = None
    max_difference: float | None = None
    row_us: float | None = None


class Parity(BaseModel):
    """What packing found when it compared the engines with the original model.

    exactness: "bits" (equal), "close" (within 1e-12 x scale) or "tolerance" (within that x scale).
    unproven: there was no sample to take golden rows from.
    n_rows, n_hard_rows: golden rows, and rows made to be hard for a lowered graph, which were drawn
    from n_hard_rows_known where a wide model has too many.
    max_difference: the largest absolute one of the engine used.
    joinable: whether the answers stay in the class when rows of several requests are computed as
    one batch.
    """

    model_config = ConfigDict(extra="forbid")

    exactness: Exactness
    tolerance: float | None = Field(default=None, gt=0, le=MAX_TOLERANCE)
    unproven: bool = False
    n_rows: int
    n_hard_rows: int = 0
    n_hard_rows_known: int = 0
    batch_sizes: list[int]
    max_difference: float
    joinable: bool
    cpu: str
    tried: list[Tried] = []

    @model_validator(mode="after")
    def _one_class(self) -> Self:
        if (self.exactness == "tolerance") != (self.tolerance is not None):
            raise ValueError("expected a tolerance in the class of that name, and in no other")
        return self

    @property
    def shown_class(self) -> str:
        """For people."""
        return self.exactness if self.tolerance is None else f"tolerance {self.tolerance:g}"


class Manifest(BaseModel):
    """model_files: the fitted model's, with the format of each: scikit-learn's part, and a booster
    of another library in its own.
    function: of the user's, as module:attr, in place of model_files.
    files: sha256 of every other file, by its name in the folder.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    name: str
    version: str
    created: Moment
    model_type: str
    model_files: dict[str, ModelFormat] = Field(max_length=MAX_FILES)
    function: str | None = None
    engine: Literal["native", "onnx", "function"] = "native"
    lowered: Lowered | None = None
    signature: Signature
    targets: tuple[Target, ...] = Field(min_length=1)
    output: Output | None = None
    metrics: list[Metric] = []
    training_date: Moment
    parity: Parity
    libraries: dict[str, str]
    files: dict[str, str] = Field(max_length=MAX_FILES)

    @field_validator("name", "version")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        return plain_name(value)

    @field_validator("files", "model_files")
    @classmethod
    def _plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not carried.is_plain_path(name):
                plain_name(name)
        return value

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if bool(self.model_files) == (self.function is not None):
            raise ValueError("expected model_files or a function")
        return self


def plain_name(value: str) -> str:
    """The value itself; ValueError unless it may safely be a file's name and part of a URL."""
    if not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(f"expected letters, digits, '.', '_' or '-', got {value!r}")
    return value


class GoldenRows(BaseModel):
    """Input rows as JSON records, and the outputs of the original model on them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    rows: list[dict[str, Any]]
    outputs: dict[str, Array]

    def to_bytes(self) -> bytes:
        """One JSON line per row; a float64 is written so that it reads back to the same bits."""
        listed = {part: array.tolist() for part, array in self.outputs.items()}
        return b"".join(
            orjson.dumps(
                {"row": row, "outputs": {part: values[i] for part, values in listed.items()}},
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for i, row in enumerate(self.rows)
        )

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        written = text.splitlines()
        if len(written) > MAX_GOLDEN_ROWS:
            raise ValueError(f"{len(written)} rows, expected at most {MAX_GOLDEN_ROWS}")
        lines = [orjson.loads(line) for line in written]
        parts = lines[0]["outputs"] if lines else {}
        outputs: Outputs = {
            part: np.array([line["outputs"][part] for line in lines], dtype=_dtype(part))
            for part in parts
        }
        return cls(rows=[line["row"] for line in lines], outputs=outputs)


def _dtype(part: str) -> type[np.generic]:
    return np.object_ if part.rpartition(".")[2] == "label" else np.float64


class Artifact:
    """An artefact on disk, its manifest read and valid. Raises ArtifactError with a sentence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = reading.read(folder, MANIFEST, MAX_MANIFEST_BYTES)
            sealed = seal(content)
            if reading.read(folder, SEAL, len(sealed)) != sealed:
                raise ArtifactError(
                    f"{folder / MANIFEST} was changed after packing: its sha256 is not that in "
                    f"{SEAL}. Pack the model again, or restore the file."
                )
            self.manifest = Manifest.model_validate_json(content)
        except OSError as error:
            raise ArtifactError(
                f"Expected an artefact with {MANIFEST} and {SEAL} at {folder}: {error.strerror}."
            ) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file itself"
            raise ArtifactError(
                f"{folder / MANIFEST} is no manifest of format {FORMAT_VERSION}: "
                f"{first['msg'][:_MOST_CHARS]} at {place[:_MOST_CHARS]}. Pack the model again with "
                "this version of tabserve."
            ) from None

    def read(self, name: str) -> bytes:
        """The file's bytes; ArtifactError unless their sha256 is the manifest's."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise ArtifactError(f"{self.folder / MANIFEST} names no file {name!r}.")
        try:
            content = reading.read(self.folder, name, most_bytes(name))
        except OSError as error:
            raise ArtifactError(f"Cannot read {self.folder / name}: {error.strerror}.") from None
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ArtifactError(
                f"{self.folder / name} was changed after packing: expected sha256 {expected}, "
                f"found {found}. Pack the model again, or restore the file."
            )
        return content

    def carried(self) -> dict[str, bytes]:
        """The user's modules, by path within their folder."""
        return {
            name.removeprefix(carried.PREFIX): self.read(name)
            for name in self.manifest.files
            if name.startswith(carried.PREFIX)
        }

    def strangers(self) -> list[str]:
        """What lies in the folder and is not named in the manifest. Links are not followed."""
        known = {MANIFEST, SEAL, *self.manifest.files}
        folders = {str(above) for name in known for above in PurePosixPath(name).parents}
        found, waiting = [], [""]
        while waiting:
            below = waiting.pop()
            for entry in os.scandir(self.folder / below):
                name = below + entry.name
                if name in folders and entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif name not in known:
                    found.append(name)
        return sorted(found)

    def golden(self) -> GoldenRows:
        try:
            return GoldenRows.from_bytes(self.read(GOLDEN))
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            told = str(error).partition("\n")[0][:_MOST_CHARS]
            raise ArtifactError(f"{self.folder / GOLDEN} cannot be read: {told}.") from None


def most_bytes(name: str) -> int:
    """That a file of an artefact may have, beside the manifest."""
    return MAX_GOLDEN_BYTES if name == GOLDEN else MAX_MODEL_BYTES


def _refuse_too_large(name: str, n_bytes: int, most: int) -> None:
    if n_bytes > most:
        raise PackError(f"{name} would have {n_bytes} bytes; expected at most {most}.")


def seal(manifest: bytes) -> bytes:
    """What SEAL holds for the bytes of a manifest."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def write(out: Path, manifest: Manifest, files: Mapping[str, bytes], replace: bool) -> Path:
    """Write NAME/VERSION below `out` in one step, and give its folder back.

    manifest.files is filled in. Raises PackError where the version exists and `replace` is off:
    a version that was served must stay what it was.
    """
    folder = out / manifest.name / manifest.version
    if folder.exists() and not replace:
        raise PackError(
            f"{folder} exists already; choose another version, or say --replace to overwrite it."
        )
    for name, content in files.items():
        _refuse_too_large(name, len(content), most_bytes(name))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = manifest.model_copy(update={"files": hashes})
    described = (manifest.model_dump_json(indent=2) + "\n").encode()
    _refuse_too_large(MANIFEST, len(described), MAX_MANIFEST_BYTES)
    # Beside its place, so that the last step is a rename within one file system; the leading dot
    # keeps a reader of the repository from taking it for a version.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".packing-", dir=folder.parent) as beside:
            unfinished = Path(beside, "new")
            unfinished.mkdir()
            for name, content in files.items():
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / name).write_bytes(content)
            (unfinished / MANIFEST).write_bytes(described)
            (unfinished / SEAL).write_bytes(seal(described))
            if folder.exists():
                folder.rename(Path(beside, "old"))  # to remove it here would take several steps
            unfinished.rename(folder)
    except OSError as error:
        raise PackError(f"Cannot write {folder}: {error.strerror}.") from error
    return folder
