"""A file of a folder, read whole: no link is followed, nothing but a file is opened, and no more is
read than it may hold.
"""

import os
import stat
from pathlib import Path

from tabserve.errors import ArtifactError

# O_NONBLOCK: to open a pipe would otherwise wait for who writes to it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


def read(folder: Path, name: str, most_bytes: int) -> bytes:
    """name: of a file in the folder, or a path below it.

    Raises ArtifactError for a link, a pipe, a device and a file that is too large; OSError for what
    cannot be read.
    """
    *between, last = name.split("/")
    path = folder
    for part in ("", *between, last):
        path /= part
        if path.is_symlink():
            raise ArtifactError(
                f"{path} is a link; tabserve follows none. Put what it leads to in its place."
            )
    # What was looked at may be another by now: the flags say the same again.
    place = os.open(folder, _FOLDER)
    try:
        for part in between:
            inner = os.open(part, _FOLDER, dir_fd=place)
            os.close(place)
            place = inner
        opened = os.open(last, _FILE, dir_fd=place)
    finally:
        os.close(place)
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{folder / name} is no ordinary file.")
        if found.st_size > most_bytes:
            raise ArtifactError(
                f"{folder / name} has {found.st_size} bytes; expected at most {most_bytes}."
            )
        with open(opened, "rb", closefd=False) as file:
            return file.read(found.st_size)
    finally:
        os.close(opened)
