"""Environments with only what a project requires, linked from the one that the tests run in."""

import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

import tabserve


def required(requirements: Iterable[str]) -> Iterator[Distribution]:
    """What they require, and what that requires."""
    seen: set[tuple[str, str]] = set()
    wanted = [
        (found.name, extra)
        for found in map(Requirement, requirements)
        for extra in ("", *found.extras)
    ]
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if not extra:
            yield distribution(name)
        for line in distribution(name).requires or ():
            found = Requirement(line)
            if found.marker is None or found.marker.evaluate({"extra": extra}):
                wanted += [(found.name, one) for one in ("", *found.extras)]


def environment_of(folder: Path, requirements: Iterable[str]) -> tuple[str, int]:
    """Its python, and how many bytes it takes."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    size = sum(_link(one, site_packages) for one in required(requirements))
    if not (site_packages / "tabserve").exists():  # installed as a link to its source
        (site_packages / "tabserve").symlink_to(Path(tabserve.__file__).parent)
    return str(folder / "bin/python"), size


def _link(installed: Distribution, site_packages: Path) -> int:
    """As it is installed in this environment; gives back its bytes."""
    files = [file for file in installed.files or () if ".." not in file.parts]
    for top in {file.parts[0] for file in files}:
        target = Path(str(installed.locate_file(top)))
        if top != "__pycache__" and not (site_packages / top).exists():
            (site_packages / top).symlink_to(target)
    return sum(path.stat().st_size for file in files if (path := Path(file.locate())).exists())
