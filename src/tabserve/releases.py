"""Which version is live and which one is tried beside it: files in the folder of a name.

Servers that run watch them. Each is written in one step, by one writer at a time.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tabserve import compatibility, loading, repository
from tabserve.artifact import Artifact, Manifest
from tabserve.errors import ArtifactError, ReleaseError
from tabserve.repository import LIVE, Live

ROLLOUT = "rollout.json"

# Of the versions that were live before, as many are kept.
_MOST_PREVIOUS = 20


class Plan(BaseModel):
    """A version that is tried beside the live one.

    kind: "canary" answers a share of the requests; "shadow" is computed aside and answers none.
    sticky: the field whose value decides who answers, or "api-key"; else each request is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["canary", "shadow"]
    version: str
    share: float = Field(default=1.0, ge=0, le=1)
    sticky: str | None = None


def folder_of(path: Path, name: str) -> Path:
    """Of a name in the repository `path`, which may be the folder itself. Raises ReleaseError."""
    for folder in (path / name, path):
        if repository.versions(folder) and (folder.name == name or _holds(folder, name)):
            return folder
    raise ReleaseError(f"There is no model {name} in {path}.")


def promote(
    folder: Path,
    version: str,
    *,
    allow_breaking: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
) -> Live:
    """Make a version the live one, once it has reproduced its golden rows here.

    Raises ReleaseError, ArtifactError and what loading raises; then nothing was changed.
    """
    artifact = _artifact(folder, version)
    before = _live_now(folder)
    if before is not None and before.version != version and not allow_breaking:
        _refuse_breaking(folder, before.version, artifact)
    loading.load(artifact, allow_pickle=allow_pickle, allow_code=allow_code)
    return make_live(folder, version, allow_breaking=allow_breaking)


def make_live(folder: Path, version: str, *, allow_breaking: bool = False) -> Live:
    """Write that a version is the live one."""
    with _alone(folder):
        before = _live_now(folder)
        previous: tuple[str, ...] = ()
        if before is not None:
            previous = before.previous
            if before.version != version:
                previous = (before.version, *previous)
        live = Live(
            version=version, previous=previous[:_MOST_PREVIOUS], allow_breaking=allow_breaking
        )
        _write(folder / LIVE, live)
    return live


def rollback(folder: Path, prepare: Callable[[str], None] = lambda version: None) -> Live:
    """Make the version live that was live before; where nothing says which, the one below.

    prepare: called with the version before anything is written; nothing is where it raises.
    """
    with _alone(folder):
        written, there = repository.read_live(folder), repository.versions(folder)
        now, *known = there if written is None else (written.version, *written.previous)
        if not known:
            raise ReleaseError(f"No version of {folder.name} was live before {now}.")
        version, *previous = known
        if version not in there:
            raise ReleaseError(
                f"{version} was live before {now} and is gone; there are {', '.join(there)}. "
                f"Say which one with: tabserve promote {folder.name} VERSION"
            )
        _artifact(folder, version)
        prepare(version)
        # Its clients were served before; those of the version that is left are to go back too.
        live = Live(version=version, previous=tuple(previous), allow_breaking=True)
        _write(folder / LIVE, live)
    return live


def plan(
    *, canary: str | None, shadow: str | None, share: float | None, sticky: str | None
) -> Plan:
    """Raises ReleaseError."""
    version = canary or shadow
    if version is None or (canary and shadow):
        raise ReleaseError("Expected a version for a canary or for a shadow, one of them.")
    if shadow is not None and sticky is not None:
        raise ReleaseError("A shadow answers nobody, so nothing can be sticky.")
    kind: Literal["canary", "shadow"] = "canary" if canary else "shadow"
    usual = 0.1 if canary else 1.0
    return Plan(kind=kind, version=version, share=usual if share is None else share, sticky=sticky)


def read_plan(folder: Path) -> Plan | None:
    """Raises ArtifactError where it cannot be read."""
    return repository.read_state(folder / ROLLOUT, Plan, "is no rollout")


def begin(folder: Path, plan: Plan) -> None:
    """Raises ReleaseError, ArtifactError."""
    _artifact(folder, plan.version)
    with _alone(folder):
        now = repository.live(folder)
        if now.version == plan.version:
            raise ReleaseError(f"{plan.version} of {folder.name} is live already.")
        _write(folder / ROLLOUT, plan)


def stop(folder: Path) -> None:
    """The live version alone answers. Raises ReleaseError where nothing is tried."""
    with _alone(folder):
        try:
            (folder / ROLLOUT).unlink()
        except FileNotFoundError:
            raise ReleaseError(f"No version of {folder.name} is tried.") from None


def _artifact(folder: Path, version: str) -> Artifact:
    """One whose files are all what they were when it was packed."""
    there = repository.versions(folder)
    if version not in there:
        raise ReleaseError(
            f"There is no version {version} in {folder}; there are {', '.join(there)}."
        )
    artifact = Artifact(folder / version)
    for name in artifact.manifest.files:
        artifact.read(name)
    return artifact


def _refuse_breaking(folder: Path, live: str, artifact: Artifact) -> None:
    try:
        before = Artifact(folder / live).manifest
    except ArtifactError:
        return  # nobody can be its client
    refuse_breaking(before, artifact.manifest)


def refuse_breaking(live: Manifest, new: Manifest) -> None:
    """Raises ReleaseError where the clients of the live version would be."""
    found = compatibility.breaking(live, new)
    if found:
        listed = "; ".join(f"{change.place}: {change.text}" for change in found)
        raise ReleaseError(
            f"{new.name} {new.version} would break the clients of {live.version} ({listed}). "
            "Promote it with --allow-breaking if they know."
        )


def _live_now(folder: Path) -> Live | None:
    """None where nothing that is there is live."""
    try:
        return repository.live(folder)
    except ArtifactError:
        return None


def _holds(folder: Path, name: str) -> bool:
    try:
        version = repository.versions(folder)[0]
        return Artifact(folder / version).manifest.name == name
    except ArtifactError:
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time, by the kernel's lock on the folder itself."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ReleaseError(f"Cannot open {folder}: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)  # the rename too
    except OSError as error:
        raise ReleaseError(f"Cannot write in {folder}: {error.strerror}.") from None
    finally:
        os.close(descriptor)


def _write(path: Path, content: BaseModel) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    try:
        with unfinished.open("w") as file:
            file.write(content.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
