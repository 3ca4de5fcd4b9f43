"""What a skops file would have its reader take into memory, counted before anything is parsed.

It is a zip archive with a `schema.json` and one file for each array.
"""

import io
import json
import zipfile
from typing import Any

from tabserve import compression
from tabserve.errors import ArtifactError, UntrustedModel

SCHEMA = "schema.json"
MAX_SCHEMA_BYTES = 2**27
# Each tree of a forest has two arrays.
MAX_ENTRIES = 100_000

# Of the others, bzip2's expands a piece as far as it likes before it is asked to stop.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check(content: bytes, name: str) -> None:
    """Raises ArtifactError for too many or too large files, UntrustedModel for what is no skops
    file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check(archive, name, compression.limit(len(content)))
    except ArtifactError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a hostile archive makes zipfile raise
        raise UntrustedModel(
            f"{name} is no skops file that can be read, or not a whole one: {error}."
        ) from None


def modules(content: bytes) -> set[str]:
    """The packages whose types a file that was checked names."""
    found: set[str] = set()

    def note(node: dict[str, Any]) -> dict[str, Any]:
        module = node.get("__module__")
        if isinstance(module, str):
            found.add(module.partition(".")[0])
        return {}

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        json.loads(archive.read(SCHEMA), object_hook=note)
    return found


def _check(archive: zipfile.ZipFile, name: str, limit: int) -> None:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise ArtifactError(f"{name} holds {len(entries)} files; expected at most {MAX_ENTRIES}.")
    sizes = {entry.filename: entry.file_size for entry in entries}
    if len(sizes) != len(entries):
        raise ArtifactError(f"{name} holds several files of one name.")
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise ArtifactError(f"{name} is compressed in another way than by deflate.")
    total = sum(sizes.values())
    if total > limit:
        raise ArtifactError(
            f"{name} would become {total} bytes when it is unpacked; expected at most {limit}."
        )
    if sizes.get(SCHEMA, 0) > MAX_SCHEMA_BYTES:
        raise ArtifactError(
            f"{SCHEMA} in {name} has {sizes[SCHEMA]} bytes; expected at most {MAX_SCHEMA_BYTES}."
        )
    read = _bytes_read(archive.read(SCHEMA), sizes)
    if read > limit:  # a file that is named many times is read as often
        raise ArtifactError(
            f"{name} would have {read} bytes read from it; expected at most {limit}."
        )


def _bytes_read(schema: bytes, sizes: dict[str, int]) -> int:
    """As many bytes are read for what the schema names."""
    total = 0

    def count(node: dict[str, Any]) -> None:
        nonlocal total
        named = node.get("file")
        if isinstance(named, str):
            total += sizes.get(named, 0)

    json.loads(schema, object_hook=count)
    return total
