"""A folder of the user's modules: which of its files an artefact carries, and which it does not."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tabserve import reading
from tabserve.carried import PREFIX, is_plain_path, module_names
from tabserve.errors import ArtifactError, PackError

# Far more than a model's own modules: a home folder, say, was given by mistake.
MOST_FILES = 1000
MOST_LOOKED_AT = 20_000
MOST_FILE_BYTES = 2**20
MOST_BYTES = 2**24

# Folders that hold no module of the user's, by what lies in them or what they are called.
_ENVIRONMENT = "pyvenv.cfg"
_ARTEFACT = "manifest.json.sha256"
_FOREIGN = re.compile(r"__pycache__|node_modules|site-packages|.*\.(egg-info|dist-info)")
# Names of data that others should not read.
_SECRET = re.compile(
    r"(.*[._-])?(keys?|secrets?|credentials?|passwords?|passwd|tokens?|htpasswd|id_(rsa|ed25519))"
    r"([._-].*)?|.*\.(pem|key|p12|pfx|jks|kdbx|keystore)",
    re.IGNORECASE,
)


@dataclass
class CodeFolder:
    """files: contents by path within the folder. left_out: why, by path."""

    files: dict[str, bytes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """For people."""
        taken = f"Carried {len(self.files)} file(s): {_listed(list(self.files))}."
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(name)
        left = "; ".join(f"{_listed(names)} ({why})" for why, names in reasons.items())
        return f"{taken} Left out: {left}." if left else taken


def read(folder: Path) -> CodeFolder:
    """Modules (*.py), and data that lies in a package, beside or below an `__init__.py`; nothing
    that is hidden, compiled, installed, large, or called as secrets are.

    Raises PackError.
    """
    if not folder.is_dir():
        raise PackError(f"Expected a folder of modules at {folder}.")
    found = CodeFolder()
    for name, why in _judged(folder):
        if why:
            found.left_out[name] = why
            continue
        if not is_plain_path(PREFIX + name):
            raise PackError(f"{folder} holds {name!r}, which is no plain name of a file.")
        try:
            found.files[name] = reading.read(folder, name, MOST_FILE_BYTES)
        except (OSError, ArtifactError) as error:
            raise PackError(f"Cannot carry {name}: {error}") from None
        if len(found.files) > MOST_FILES or sum(map(len, found.files.values())) > MOST_BYTES:
            raise PackError(
                f"{folder} holds more than {MOST_FILES} files or {MOST_BYTES} bytes of modules; "
                "give a folder with the model's own modules only."
            )
    clashes = module_names(found.files) & sys.stdlib_module_names
    if clashes:
        raise PackError(f"{folder} has a module {min(clashes)}, as Python itself; rename it.")
    return found


def _judged(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file that is not hidden, with why it is left out, or nothing. Folders that hold no
    module of the user's are left out as a whole.
    """
    n_looked_at, packages = 0, set()
    for place, folders, names in os.walk(folder):
        here = Path(place)
        below = here.relative_to(folder)
        n_looked_at += len(names)
        if n_looked_at > MOST_LOOKED_AT:
            raise PackError(
                f"{folder} holds more than {MOST_LOOKED_AT} files; give a folder with the model's "
                "own modules only."
            )
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if _is_foreign(here / name)]:
            folders.remove(name)
            if name != "__pycache__":
                yield (below / name).as_posix() + "/", "installed or generated"
        if "__init__.py" in names or below.parent in packages:
            packages.add(below)
        for name in sorted(name for name in names if not name.startswith(".")):
            yield (below / name).as_posix(), _why_not(here / name, below in packages)


def _is_foreign(folder: Path) -> bool:
    is_named_so = _FOREIGN.fullmatch(folder.name) is not None
    is_made = (folder / _ENVIRONMENT).exists() or (folder / _ARTEFACT).exists()
    return is_named_so or folder.is_symlink() or is_made


def _why_not(path: Path, is_in_package: bool) -> str:
    if path.suffix == ".py":
        return ""
    if path.suffix in (".pyc", ".pyo"):
        return "compiled"
    if _SECRET.fullmatch(path.name):
        return "called as secrets are"
    if not is_in_package:
        return "no module, and not in a package"
    if path.is_symlink() or not path.is_file():
        return "no ordinary file"
    if path.stat().st_size > MOST_FILE_BYTES:
        return f"more than {MOST_FILE_BYTES} bytes"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
