"""A starting project, copied from the files in `project/` beside this one.

They are a project as they stand: its name there is `delivery`, and copying puts the wanted one in
its place.
"""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tabserve.errors import NewProjectError

# In the files, in place of the project's name, and as a class has it.
_NAME, _CLASS = "delivery", "Delivery"
# Whatever a wheel or a repository would not take by its own name.
_RENAMED = {"gitignore": ".gitignore", "dockerignore": ".dockerignore"}
# What the project depends on by that name: it would be installed in the place of it.
_NEEDED = frozenset({"tabserve", "httpx", "pytest"})
_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,39}")


def start(folder: Path, name: str | None = None) -> Path:
    """Make the project in the folder, which may be there if it is empty; gives the folder back.

    name: of the model; the folder's where left out. Raises NewProjectError.
    """
    name = name or re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    if not _PLAIN.fullmatch(name):
        raise NewProjectError(
            f"Expected a name of small letters, digits and _ that begins with a letter, got "
            f"{name!r}; say another with --name."
        )
    if name in _NEEDED:
        raise NewProjectError(f"The project depends on {name}; say another name with --name.")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise NewProjectError(f"Expected an empty folder or a new one, got {folder}.")
        folder.mkdir(parents=True, exist_ok=True)
        _copy(files(__name__) / "project", folder, name)
    except OSError as error:
        raise NewProjectError(f"Cannot write {folder}: {error.strerror}.") from None
    return folder


def _copy(source: Traversable, folder: Path, name: str) -> None:
    for entry in source.iterdir():
        if entry.name.startswith(("__pycache__", ".")):
            continue
        target = folder / _RENAMED.get(entry.name, _named(entry.name, name))
        if entry.is_dir():
            target.mkdir()
            _copy(entry, target, name)
        else:
            target.write_text(_named(entry.read_text("utf-8"), name), "utf-8")


def _named(text: str, name: str) -> str:
    as_class = "".join(part.capitalize() for part in name.split("_"))
    return text.replace(_CLASS, as_class).replace(_NAME, name)
