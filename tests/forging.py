"""Artefacts altered as one who can write every file of theirs could: seals and hashes agree."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabserve.artifact import MANIFEST, SEAL, seal


def forge_manifest(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    (folder / SEAL).write_bytes(seal(content))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    change(content)
    forge_manifest(folder, json.dumps(content).encode())


def forge(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: digest}))
