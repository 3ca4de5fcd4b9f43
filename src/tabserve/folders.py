"""What the folder that is served holds: names, versions, and which of them was proven last."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tabserve import releases, repository
from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError, NotFound, OperatorError
from tabserve.settings import PROVEN


class Folders:
    """path: a version's folder, a name's folder or a repository.

    run_dir: where the workers of one server keep which version was proven last.
    """

    def __init__(self, path: Path, run_dir: Path | None) -> None:
        self.path = path
        self.is_alone = repository.has_manifest(path)
        self._proven = None if run_dir is None or self.is_alone else run_dir / PROVEN

    def by_name(self, known: Iterable[str]) -> list[tuple[str, Path]]:
        """known: the names that are served. One whose versions are gone is served on from memory.

        Raises ArtifactError where there is none.
        """
        folders = repository.name_folders(self.path)
        is_of_one_name = folders == [self.path]
        # Wherever the code of a model may go; a path that is refused is told as it was given.
        self.path = self.path.absolute()
        if is_of_one_name:
            # The folder of a name may be called anything: it may be mounted.
            name = next(iter(known), None) or _name_in(self.path)
            return [(name, self.path)]
        return [(folder.name, folder.absolute()) for folder in folders]

    def state(self, name: str, folder: Path, others: Iterable[str]) -> Any:
        """Another one where something is to be done. others: versions that clients asked for."""
        there = repository.versions(folder)
        asked = [repository.identity(folder / each) for each in others]
        try:
            live, plan = repository.live(folder), releases.read_plan(folder)
        except ArtifactError as error:
            return name, there, asked, str(error)
        tried = [live.version] if plan is None else [live.version, plan.version]
        return (
            name,
            there,
            asked,
            live,
            plan,
            [repository.identity(folder / each) for each in tried],
        )

    def note_proven(self, name: str, version: str) -> None:
        """For workers that start anew."""
        if self._proven is None:
            return
        with suppress(OSError):
            self._proven.mkdir(exist_ok=True)
            unfinished = self._proven / f".{name}.{os.getpid()}"
            unfinished.write_text(version)
            unfinished.replace(self._proven / name)

    def is_noted(self, name: str) -> bool:
        return self._proven is None or (self._proven / name).exists()

    def proven_before(self, name: str, folder: Path) -> str | None:
        """The version that a worker of this server proved last, if it is still there."""
        if self._proven is None:
            return None
        try:
            version = (self._proven / name).read_text()
        except OSError:
            return None
        return version if version in repository.versions(folder) else None

    def reason(self, error: Exception) -> str:
        """What everybody may be told of why a version was refused: places within the folder, and
        not where it is.
        """
        if not isinstance(error, OperatorError):
            return "The model cannot be loaded; the server's own log says why."
        text = str(error)
        for root in (str(self.path.resolve()), str(self.path)):
            text = text.replace(f"{root}/", "")
        return text


def artifact_of(folder: Path, version: str, name: str) -> Artifact:
    """Raises NotFound, and ArtifactError where it is another than its folders say."""
    if version not in repository.versions(folder):
        raise NotFound(f"There is no version {version} of {name}.")
    artifact = Artifact(folder / version)
    found = artifact.manifest
    if (found.name, found.version) != (name, version):
        raise ArtifactError(
            f"Expected {name} {version} in {artifact.folder}, found {found.name} {found.version}. "
            "Name the folders of a repository as the models were packed: NAME/VERSION."
        )
    return artifact


def _name_in(folder: Path) -> str:
    return Artifact(folder / repository.live(folder).version).manifest.name
