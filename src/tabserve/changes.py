"""The changes of what is served while it answers: from one version to the next, and trials.

All of it is done in one thread, beside the requests: a version is loaded, warmed, proven and
compared with the live one there, and takes its place in one step.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tabserve import heap, releases, repository
from tabserve.candidates import Candidates, opened
from tabserve.errors import ArtifactError, ModelNotReady, NotFound, OperatorError, ReleaseError
from tabserve.jobs import Jobs, done
from tabserve.metrics import RolloutMetrics
from tabserve.models import Models, countdown
from tabserve.named import NamedModel, Refusal
from tabserve.releases import Plan
from tabserve.served import ServedModel, refusal_sentence
from tabserve.trials import Trials

logger = logging.getLogger("tabserve")

T = TypeVar("T")

# So often the folders are looked at. What is found is acted on once it was the same twice, so that
# a version that is being copied is not taken for a broken one.
_POLL_S = 0.5


class Changes:
    """`refresh` and all that stands below it is called in the thread of this object, by `do`."""

    def __init__(
        self, models: Models, *, allow_breaking: bool, watch: bool, metrics: RolloutMetrics
    ) -> None:
        self._models = models
        self._folders = models.folders
        self._candidates = Candidates(models.make, allow_breaking=allow_breaking)
        self._trials = Trials(self._candidates, models.folders, metrics)
        self._is_alone = self._folders.is_alone
        self.is_watched = watch and not self._is_alone
        self._jobs = Jobs("tabserve-models", self._load_live, self._look_around, _POLL_S)
        self._asked: set[tuple[str, str]] = set()
        # By name and version: the identity of what was refused, and why.
        self._refused_versions: dict[tuple[str, str], tuple[Any, str]] = {}
        self._seen: Any = None
        self._is_settled = False
        self._has_replaced = False

    def start(self) -> None:
        """Begin to load the live versions, if nobody did; returns at once."""
        if len(self._models.named) == 1:
            self._models.first.live.start()
        if not self._is_alone:
            self._jobs.start()

    def close(self, timeout_s: float | None = None) -> None:
        """Finish what is queued here and for the models, if all of it together takes no longer;
        `start` loads anew.
        """
        left_s = countdown(timeout_s)
        self._jobs.end(left_s())
        self._seen = None
        self._models.close(left_s())

    def do(self, action: Callable[[], T]) -> "Future[T]":
        """What the action comes to, done in the thread of this object."""
        # One version alone has no thread, and comes to no more than a refusal.
        return done(action) if self._is_alone else self._jobs.do(action)

    def ask_for(self, name: str, version: str) -> ModelNotReady:
        """Load a version that is not live; gives back what to answer until then."""
        refused = self._refused_versions.get((name, version))
        if refused is not None:
            return ModelNotReady(refused[1])
        if (name, version) not in self._asked:
            self._asked.add((name, version))
            self.do(lambda: self._open(name, version))
        return ModelNotReady(f"Version {version} of {name} is being loaded.")

    def model_of(self, name: str, version: str) -> ServedModel:
        """The model of any version on disk, which need not be loaded."""
        named = self._models.named[name]
        return named.models.get(version) or self._candidates.made(name, named.folder, version)

    # For the thread of this object.

    def refresh(self, name: str | None = None, *, again: bool = False) -> None:
        """Look at the folders, and make live what is to be.

        again: try what was refused as well.
        """
        for found, folder in self._folders.by_name(self._models.named):
            if name is None or found == name:
                self._refresh(found, folder, again)
                self._refresh_trial(found, again)
        self._asked.clear()

    def promote(self, name: str, version: str, *, allow_breaking: bool = False) -> None:
        """Load and prove it, say in the folder that it is live, and make it so.

        Raises NotFound, ReleaseError, and what refuses the version; then nothing was changed.
        """
        folder = self._in_folder(name).folder
        self._prepare(name, version, allow_breaking=allow_breaking)
        releases.make_live(folder, version, allow_breaking=allow_breaking)
        self.reload(name)

    def rollback(self, name: str) -> None:
        """The version live that was live before, once it is loaded and proven.

        Raises ReleaseError, and what refuses the version; then nothing was changed.
        """
        folder = self._in_folder(name).folder
        releases.rollback(folder, lambda version: self._prepare(name, version, allow_breaking=True))
        self.reload(name)

    def reload(self, name: str) -> None:
        """What the folder says now. Raises ReleaseError."""
        self._in_folder(name)
        self.refresh(name, again=True)
        named = self._models.named[name]
        for refusal in (named.refusal, named.trial_refusal):
            if refusal is not None:
                raise ReleaseError(refusal.reason)

    def roll_out(self, name: str, plan: Plan | None) -> None:
        """Try a version, or none any more."""
        named = self._in_folder(name)
        if plan is None:
            releases.stop(named.folder)
        else:
            releases.begin(named.folder, plan)
        self.reload(name)

    def _in_folder(self, name: str) -> NamedModel:
        if self._is_alone:
            raise ReleaseError("One version is served here, and no folder of a name.")
        if name not in self._models.named:
            raise NotFound(f"There is no model {name}.")
        return self._models.named[name]

    def _prepare(self, name: str, version: str, *, allow_breaking: bool) -> None:
        """Load and prove a version that is about to be made the live one."""
        named = self._models.named[name]
        if version == named.version:
            return
        model = self._candidates.beside(named, version, allow_breaking=allow_breaking)
        try:
            model.wait()
        except OperatorError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a library raises on this model
            logger.error("%s %s is not made live: %s", name, version, refusal_sentence(error))
            raise ReleaseError(self._folders.reason(error)) from None
        self._put(named.with_opened(version, model))

    def _load_live(self) -> None:
        for named in list(self._models.named.values()):
            named.live.start()
            with suppress(Exception):  # whoever waits is told
                named.live.wait()
            self._models.note_proven(named)

    def _look_around(self) -> None:
        if self._has_replaced:  # the last requests of what was replaced are answered by now
            self._has_replaced = False
            heap.give_back()
        if self.is_watched:
            try:
                self._poll()
            except Exception:  # what watches must outlive whatever it sees
                logger.exception("The folder of models cannot be looked at")

    def _poll(self) -> None:
        try:
            seen = [
                self._folders.state(name, folder, self._asked_for(name))
                for name, folder in self._folders.by_name(self._models.named)
            ]
        except ArtifactError as error:  # for the moment at least; what is served goes on
            if self._seen != str(error):
                logger.warning("No change is looked for: %s", error)
            self._seen = str(error)
            return
        if seen != self._seen:
            self._seen, self._is_settled = seen, False
        elif not self._is_settled:
            self._is_settled = True
            self.refresh()

    def _asked_for(self, name: str) -> list[str]:
        """Its versions, but for the live one, that are loaded or were refused."""
        named = self._models.named.get(name)
        refused = [version for of, version in self._refused_versions if of == name]
        return [*(named.opened if named is not None else ()), *refused]

    def _refresh(self, name: str, folder: Path, again: bool) -> None:
        named = self._models.named.get(name)
        there = tuple(repository.versions(folder))
        if named is not None and named.versions != there:
            kept = {version: named.opened[version] for version in named.opened if version in there}
            named = replace(named, versions=there, opened=MappingProxyType(kept))
            self._put(named)
        self._refused_versions = {
            (of, version): refused
            for (of, version), refused in self._refused_versions.items()
            if of != name or refused[0] == repository.identity(folder / version)
        }
        for version in () if named is None else named.opened:
            self._open(name, version)
        named = self._models.named.get(name)
        try:
            wanted = repository.live(folder)
        except ArtifactError as error:
            self._refuse(name, "", error, tried=str(error))
            return
        identity = repository.identity(folder / wanted.version)
        if named is not None and (named.version, named.identity) == (wanted.version, identity):
            if named.refusal is not None:
                self._put(replace(named, refusal=None, refused=None))
            return
        tried = (wanted, identity)
        if named is not None and named.refused == tried and not again:
            return
        try:
            self._switch(name, folder, wanted, identity)
        except Exception as error:  # noqa: BLE001 - the old one goes on, and all are told
            self._refuse(name, wanted.version, error, tried)

    def _switch(self, name: str, folder: Path, wanted: repository.Live, identity: Any) -> None:
        named, version = self._models.named.get(name), wanted.version
        others: dict[str, ServedModel] = {}
        if named is None:
            model = self._candidates.begun(name, folder, version)
        else:
            others |= named.opened
            is_allowed = (
                wanted.allow_breaking
                or not named.live.is_ready  # nobody can be its client
                # A worker that starts anew may meet several steps as one.
                or version == self._folders.proven_before(name, folder)
            )
            model = self._candidates.beside(named, version, allow_breaking=is_allowed)
        model.wait()
        others.pop(version, None)
        if named is not None and named.trial is not None:
            named.trial.close()
        versions = tuple(repository.versions(folder))
        self._put(
            NamedModel(name, folder, model, version, identity, versions, MappingProxyType(others))
        )
        self._has_replaced = named is not None
        if named is None and self._models.default is None and len(self._models.named) == 2:
            logger.warning(
                "Several models are served now, and /predict is none of them: say --default-model"
            )
        before = "new" if named is None else f"before {named.version}"
        logger.info("%s %s is live (%s)", name, version, before)

    def _refuse(self, name: str, version: str, error: Exception, tried: Any) -> None:
        """version: empty where nothing says which is to be live."""
        what = f"{name} {version} is not made live" if version else f"{name} stays as it is"
        logger.error("%s: %s", what, refusal_sentence(error))
        named = self._models.named.get(name)
        if named is not None:
            refusal = Refusal(version, self._folders.reason(error))
            self._put(replace(named, refusal=refusal, refused=tried))

    def _refresh_trial(self, name: str, again: bool) -> None:
        named = self._models.named.get(name)
        if named is None or not named.live.is_ready:
            return
        found = self._trials.as_planned(named, again=again)
        if found is not named:
            self._put(found)

    def _open(self, name: str, version: str) -> None:
        """Unless it is loaded already, and was not packed again since."""
        named = self._models.named[name]
        if version == named.version or opened(named, version) is not None:
            return
        identity = repository.identity(named.folder / version)
        try:
            model = self._candidates.made(name, named.folder, version)
            model.wait()
        except Exception as error:  # noqa: BLE001 - told to those who ask for it
            logger.error("%s %s cannot be served: %s", name, version, refusal_sentence(error))
            self._refused_versions[name, version] = identity, self._folders.reason(error)
            return
        finally:
            self._asked.discard((name, version))
        self._put(named.with_opened(version, model))

    def _put(self, named: NamedModel) -> None:
        self._refused_versions = {
            key: refused for key, refused in self._refused_versions.items() if key[0] != named.name
        }
        self._models.put(named)
