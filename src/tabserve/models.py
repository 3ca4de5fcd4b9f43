"""The models that one server serves: which version of each is live."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tabserve import repository
from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError, ModelNotReady, OperatorError
from tabserve.folders import Folders, artifact_of
from tabserve.named import NamedModel
from tabserve.served import ServedModel

logger = logging.getLogger("tabserve")

Make = Callable[[Artifact, str], ServedModel]


class Models:
    """path: a version's folder, a name's folder or a repository.

    make: an artefact and its name -> the model, not yet loaded.
    default: of several names that of the routes without a name.
    run_dir: where the workers of one server keep which version was proven last: one that starts
    anew begins with it, as the others did, whatever has come since.
    on_refused: told of the error for which a version that was live at the start will never be.
    Raises ArtifactError, and what `make` raises.
    """

    def __init__(
        self,
        path: Path,
        make: Make,
        *,
        default: str | None,
        run_dir: Path | None,
        on_refused: Callable[[Exception], None],
    ) -> None:
        self.make = make
        self.folders = Folders(path, run_dir)
        self._on_refused = on_refused
        self.on_change: Callable[[], None] = lambda: None
        self.named: Mapping[str, NamedModel] = {}
        self.catch_up()
        self._default = default
        if default is not None and default not in self.named:
            raise ArtifactError(
                f"The default model is to be {default}, which is not there; there are "
                f"{', '.join(self.named)}."
            )

    @property
    def are_ready(self) -> bool:
        return all(named.live.is_ready for named in self.named.values())

    @property
    def is_stuck(self) -> bool:
        """Whether one of them takes longer for a call than anybody waits for it."""
        return any(model.is_stuck for model in self._models)

    @property
    def default(self) -> NamedModel | None:
        """That of the routes without a name: the only one, or the one that was chosen."""
        if self._default is None and len(self.named) > 1:
            return None
        return self.named[self._default or next(iter(self.named))]

    @property
    def first(self) -> NamedModel:
        """The default one, or where there is none whichever comes first."""
        return self.default or next(iter(self.named.values()))

    def preload(self) -> None:
        """Load the live versions as they are now, for processes that are forked from this one.

        Raises what refuses one.
        """
        self.catch_up()
        for named in self.named.values():
            try:
                named.live.preload()
            except OperatorError:
                self._tell_which(named.name, named.version)
                raise

    def catch_up(self) -> None:
        """Before they are loaded: have the versions that are live now, which may be others than
        those that were preloaded.
        """
        self.named = {named.name: named for named in self._found()}

    def wait(self, timeout_s: float | None = None) -> None:
        """Until each live version is ready. Raises what refused one, or ModelNotReady."""
        left_s = countdown(timeout_s)
        for named in list(self.named.values()):
            try:
                named.live.wait(left_s())
            except ModelNotReady:
                raise ModelNotReady(f"{named.name} was not ready within {timeout_s} s.") from None

    def close(self, timeout_s: float | None = None) -> None:
        """Finish what is queued, if all of it together takes no longer."""
        left_s = countdown(timeout_s)
        for named in self.named.values():
            if named.trial is not None:
                named.trial.close()
                self.named = {**self.named, named.name: replace(named, trial=None, planned=None)}
        for model in self._models:
            model.end()
        for model in self._models:
            model.close(left_s())

    def put(self, named: NamedModel) -> None:
        """In the place of what its name was."""
        self.named = {**self.named, named.name: named}
        self.note_proven(named)
        self.on_change()

    def note_proven(self, named: NamedModel) -> None:
        if named.live.is_ready:
            self.folders.note_proven(named.name, named.version)

    def keep_notes(self) -> None:
        """Note again which versions were proven, where that was deleted."""
        for named in self.named.values():
            if not self.folders.is_noted(named.name):
                self.note_proven(named)

    @property
    def _models(self) -> list[ServedModel]:
        """Those that answer requests, of all names."""
        return [model for named in self.named.values() for model in named.models.values()]

    def _found(self) -> Iterator[NamedModel]:
        """Those that were there before stay, unless another version is live."""
        if self.folders.is_alone and self.named:
            yield from self.named.values()
        elif self.folders.is_alone:
            artifact = Artifact(self.folders.path.absolute())
            name, version = artifact.manifest.name, artifact.manifest.version
            model = self._first(artifact, name)
            yield NamedModel(name, self.folders.path.parent, model, version, None, (version,))
        else:
            for name, folder in self.folders.by_name(self.named):
                yield self._found_in(folder, name)

    def _found_in(self, folder: Path, name: str) -> NamedModel:
        wanted = self.folders.proven_before(name, folder) or repository.live(folder).version
        identity = repository.identity(folder / wanted)
        before = self.named.get(name)
        if before is not None and (before.version, before.identity) == (wanted, identity):
            return before
        model = self._first(artifact_of(folder, wanted, name), name)
        versions = tuple(repository.versions(folder))
        return NamedModel(name, folder, model, wanted, identity, versions)

    def _first(self, artifact: Artifact, name: str) -> ServedModel:
        model = self.make(artifact, name)

        def refused(error: Exception) -> None:
            self._tell_which(name, artifact.manifest.version)
            self._on_refused(error)

        model.on_refused = refused
        return model

    def _tell_which(self, name: str, version: str) -> None:
        """Of several: the error that refuses one speaks of "the model"."""
        if len(self.named) > 1:
            logger.error("%s %s cannot be served", name, version)


def countdown(timeout_s: float | None) -> Callable[[], float | None]:
    """Gives how much of the time is left; None where it has no end."""
    if timeout_s is None:
        return lambda: None
    ends = time.monotonic() + timeout_s
    return lambda: max(0.0, ends - time.monotonic())
