"""The folder of artefacts: names, versions, and which of them a path means."""

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tabserve.artifact import MANIFEST, Artifact
from tabserve.errors import ArtifactError

# In the folder of a name: which of its versions is live.
LIVE = "live.json"

# At the top of each ext4 disk, such as a volume of Kubernetes, where root alone may look into it.
_OF_THE_DISK = "lost+found"

State = TypeVar("State", bound=BaseModel)


class Live(BaseModel):
    """What LIVE holds. previous: the versions that were live before, the last one first.

    allow_breaking: whether it may break the clients of the one before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    previous: tuple[str, ...] = ()
    allow_breaking: bool = False


def find(path: str | Path) -> Artifact:
    """The artefact that PATH means: a version's folder, the live version of a name's folder, or
    that of the only name in a repository.

    Raises ArtifactError where there is none, or more than one name.
    """
    folder = Path(path)
    if folder.is_symlink():  # it was the operator who named it; links below it are not followed
        folder = folder.resolve()
    if has_manifest(folder):
        return Artifact(folder)
    folders = name_folders(folder)
    if len(folders) > 1:
        listed = ", ".join(str(name) for name in folders)
        raise ArtifactError(f"{folder} holds several models; name one of {listed}.")
    return Artifact(folders[0] / live(folders[0]).version)


def name_folders(path: Path) -> list[Path]:
    """The folders of names that PATH means: itself, or those in a repository.

    Raises ArtifactError where there is none, or both: of a version that was put beside the names
    nobody can say what it is to be.
    """
    folders = [
        folder for folder in _subfolders(path) if versions(folder) and not has_manifest(folder)
    ]
    strays = versions(path)
    if strays and folders:
        raise ArtifactError(
            f"{path} holds folders of names ({', '.join(folder.name for folder in folders)}), and "
            f"beside them versions ({', '.join(strays)}). Move each into the folder of its name."
        )
    if strays:
        return [path]
    if not folders:
        raise ArtifactError(
            f"Expected a packed model at {path} (a folder with a {MANIFEST}, NAME/VERSION below "
            "it, or VERSION below it), found none. Make one with tabserve pack."
        )
    return folders


def versions(folder: Path) -> list[str]:
    """Of a name's folder, the highest first; without those that are being written.

    Raises ArtifactError where the folder, or one in it, may not be looked into.
    """
    found = [version.name for version in _subfolders(folder) if has_manifest(version)]
    return sorted(found, key=version_key, reverse=True)


def has_manifest(folder: Path) -> bool:
    """Raises ArtifactError where the folder may not be looked into."""
    try:
        return (folder / MANIFEST).exists()
    except PermissionError as error:
        raise _closed(folder, error) from None


def live(folder: Path) -> Live:
    """Of a name's folder: what its LIVE says, else the highest version.

    Raises ArtifactError where there is no such version.
    """
    there = versions(folder)
    if not there:
        raise ArtifactError(f"Expected a version in {folder}, found none.")
    found = read_live(folder)
    if found is None:
        return Live(version=there[0])
    if found.version not in there:
        raise ArtifactError(
            f"{folder / LIVE} says that {found.version} is live, which is not there; there are "
            f"{', '.join(there)}."
        )
    return found


def read_live(folder: Path) -> Live | None:
    """Raises ArtifactError where it cannot be read."""
    return read_state(
        folder / LIVE,
        Live,
        "does not say which version is live; say it with tabserve promote NAME VERSION",
    )


def read_state(path: Path, kind: type[State], otherwise: str) -> State | None:
    """What a file of a name's folder says; None where there is none.

    otherwise: what is wrong with a file that says something else. Raises ArtifactError.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error.strerror}.") from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, found["loc"])) or "the file itself"
        raise ArtifactError(f"{path} {otherwise}: {found['msg']} at {place}.") from None


def identity(version: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Another one where a file of the version was written or replaced."""
    try:
        with os.scandir(version) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return ()
    return tuple(
        sorted((name, stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
    )


def version_key(version: str) -> tuple[Any, ...]:
    """Sorts versions as semver.org does: numbers as numbers, 1.0.0-rc.1 before 1.0.0. A leading "v"
    says nothing.
    """
    release, dash, rest = version.removeprefix("v").partition("-")
    numbers = [_identifier(part, number=1) for part in release.partition("+")[0].split(".")]
    numbers += [_identifier("0", number=1)] * (8 - len(numbers))  # 1.2 is 1.2.0
    # Among pre-releases a number stands before text; in the release text ("0rc1") before a number.
    return numbers, not dash, [_identifier(part, number=-1) for part in rest.split(".")]


def _identifier(text: str, number: int) -> tuple[int, int, str]:
    return (number, int(text), "") if text.isdecimal() else (0, 0, text)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(
            Path(entry.path)
            for entry in os.scandir(folder)
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(".")
            and entry.name != _OF_THE_DISK
        )
    except PermissionError as error:
        raise _closed(folder, error) from None
    except OSError:
        return []


def _closed(folder: Path, error: PermissionError) -> ArtifactError:
    return ArtifactError(
        f"Cannot look into {folder}: {error.strerror}. Let the server's user read it, or move it "
        "elsewhere."
    )
