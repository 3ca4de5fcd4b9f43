"""The models that one server serves: which versions are live, and the change from one to the next.

All of it is done in one thread, beside the requests: a version is loaded, warmed, proven and
compared with the live one there, and takes its place in one step.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tabserve import heap, releases, repository
from tabserve.artifact import Artifact
from tabserve.errors import ArtifactError, ModelNotReady, NotFound, OperatorError, ReleaseError
from tabserve.folders import Folders, artifact_of
from tabserve.jobs import Jobs, done
from tabserve.metrics import RolloutMetrics
from tabserve.releases import Plan
from tabserve.rollout import Trial
from tabserve.served import ServedModel, refusal_sentence
from tabserve.types import timestamp

logger = logging.getLogger("tabserve")

T = TypeVar("T")

# So often the folders are looked at. What is found is acted on once it was the same twice, so that
# a version that is being copied is not taken for a broken one.
_POLL_S = 0.5

# A version that is loaded beside requests rests so long after each row that it computes.
_PAUSE_S = 0.0005

Make = Callable[[Artifact, str], ServedModel]


@dataclass(frozen=True)
class Refusal:
    """Why a version was not made the live one. reason: for everybody, without a path."""

    version: str
    reason: str
    at: str


@dataclass(frozen=True)
class Named:
    """One name, as it is served at a moment.

    version: of the live model, as its folder is called. versions: those on disk, the highest first.
    opened: others that were asked for.
    """

    name: str
    folder: Path
    live: ServedModel
    version: str
    identity: Any
    versions: tuple[str, ...]
    opened: Mapping[str, ServedModel] = field(default_factory=lambda: MappingProxyType({}))
    refusal: Refusal | None = None
    refused: Any = None  # what was tried and refused, so that it is not tried for ever
    trial: Trial | None = None
    trial_refusal: Refusal | None = None
    planned: Any = None  # what `trial` or its refusal came of


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
        default: str | None = None,
        allow_breaking: bool = False,
        watch: bool = True,
        run_dir: Path | None = None,
        on_refused: Callable[[Exception], None] = lambda error: None,
        metrics: RolloutMetrics,
    ) -> None:
        self._make = make
        self._on_refused = on_refused
        self._metrics = metrics
        self._allow_breaking = allow_breaking
        self._folders = Folders(path, run_dir)
        self._is_alone = self._folders.is_alone
        self.is_watched = watch and not self._is_alone
        self.on_change: Callable[[], None] = lambda: None
        self._refused_versions: dict[tuple[str, str], str] = {}
        self._jobs = Jobs("tabserve-models", self._load_live, self._look_around, _POLL_S)
        self._asked: set[tuple[str, str]] = set()
        self._seen: Any = None
        self._is_settled = False
        self._has_replaced = False
        self.named: Mapping[str, Named] = {}
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
    def default(self) -> Named | None:
        """That of the routes without a name: the only one, or the one that was chosen."""
        if self._default is None and len(self.named) > 1:
            return None
        return self.named[self._default or next(iter(self.named))]

    @property
    def first(self) -> Named:
        """The default one, or where there is none whichever comes first."""
        return self.default or next(iter(self.named.values()))

    def preload(self) -> None:
        """Load the live versions as they are now, for processes that are forked from this one.

        Raises what refuses one.
        """
        self.catch_up()
        for named in self.named.values():
            named.live.preload()

    def catch_up(self) -> None:
        """Before `start`: have the versions that are live now, which may be others than those that
        were preloaded. They are loaded then.
        """
        self.named = {named.name: named for named in self._found()}

    @property
    def is_stuck(self) -> bool:
        """Whether one of them takes longer for a call than anybody waits for it."""
        return any(model.is_stuck for model in self._models)

    @property
    def _models(self) -> list[ServedModel]:
        """Those that answer requests, of all names."""
        return [
            model for named in self.named.values() for model in (named.live, *named.opened.values())
        ]

    def start(self) -> None:
        """Begin to load the live versions, if nobody did; returns at once."""
        if len(self.named) == 1:
            next(iter(self.named.values())).live.start()
        if not self._is_alone:
            self._jobs.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until each live version is ready. Raises what refused one, or ModelNotReady."""
        left_s = _countdown(timeout_s)
        for named in list(self.named.values()):
            try:
                named.live.wait(left_s())
            except ModelNotReady:
                raise ModelNotReady(f"{named.name} was not ready within {timeout_s} s.") from None

    def close(self, timeout_s: float | None = None) -> None:
        """Finish what is queued, if all of it together takes no longer; `start` loads anew."""
        left_s = _countdown(timeout_s)
        self._jobs.end(left_s())
        self._seen = None
        for named in self.named.values():
            if named.trial is not None:
                named.trial.close()
                self.named = {**self.named, named.name: replace(named, trial=None, planned=None)}
        for model in self._models:
            model.end()
        for model in self._models:
            model.close(left_s())

    def keep_notes(self) -> None:
        """Note again which versions were proven, where that was deleted."""
        for named in self.named.values():
            if not self._folders.is_noted(named.name):
                self._note_proven(named)

    def do(self, action: Callable[[], T]) -> "Future[T]":
        """What the action comes to, done in the thread of this object."""
        # One version alone has no thread, and comes to no more than a refusal.
        return done(action) if self._is_alone else self._jobs.do(action)

    def ask_for(self, name: str, version: str) -> ModelNotReady:
        """Load a version that is not live; gives back what to answer until then."""
        reason = self._refused_versions.get((name, version))
        if reason is not None:
            return ModelNotReady(reason)
        if (name, version) not in self._asked:
            self._asked.add((name, version))
            self.do(lambda: self._open(name, version))
        return ModelNotReady(f"Version {version} of {name} is being loaded.")

    def model_of(self, name: str, version: str) -> ServedModel:
        """The model of any version on disk, which need not be loaded."""
        named = self.named[name]
        if version == named.version:
            return named.live
        return named.opened.get(version) or self._made(name, named.folder, version)

    def refresh(self, name: str | None = None, *, again: bool = False) -> None:
        """Look at the folders, and make live what is to be. For the thread of this object.

        again: try what was refused as well.
        """
        for found, folder in self._folders.by_name(self.named):
            if name is None or found == name:
                self._refresh(found, folder, again)
                self._refresh_trial(found, folder, again)
        self._asked.clear()

    def promote(self, name: str, version: str, *, allow_breaking: bool = False) -> None:
        """Load and prove it, say in the folder that it is live, and make it so. For the thread of
        this object.

        Raises NotFound, ReleaseError, and what refuses the version; then nothing was changed.
        """
        folder = self._in_folder(name).folder
        self._prepare(name, version, allow_breaking=allow_breaking)
        releases.make_live(folder, version, allow_breaking=allow_breaking)
        self.reload(name)

    def rollback(self, name: str) -> None:
        """The version live that was live before, once it is loaded and proven. For the thread of
        this object.

        Raises ReleaseError, and what refuses the version; then nothing was changed.
        """
        folder = self._in_folder(name).folder
        releases.rollback(folder, lambda version: self._prepare(name, version, allow_breaking=True))
        self.reload(name)

    def reload(self, name: str) -> None:
        """What the folder says now. For the thread of this object. Raises ReleaseError."""
        self._in_folder(name)
        self.refresh(name, again=True)
        for refusal in (self.named[name].refusal, self.named[name].trial_refusal):
            if refusal is not None:
                raise ReleaseError(refusal.reason)

    def roll_out(self, name: str, plan: Plan | None) -> None:
        """Try a version, or none any more. For the thread of this object."""
        named = self._in_folder(name)
        if plan is None:
            releases.stop(named.folder)
        else:
            releases.begin(named.folder, plan)
        self.reload(name)

    def refusal_reason(self, error: Exception) -> str:
        """What everybody may be told of why a version was refused."""
        if not isinstance(error, OperatorError):
            return "The model cannot be loaded; the server's own log says why."
        return self._folders.without_path(str(error))

    # In the thread of this object.

    def _in_folder(self, name: str) -> Named:
        if self._is_alone:
            raise ReleaseError("One version is served here, and no folder of a name.")
        if name not in self.named:
            raise NotFound(f"There is no model {name}.")
        return self.named[name]

    def _prepare(self, name: str, version: str, *, allow_breaking: bool) -> None:
        """Load and prove a version that is about to be made the live one."""
        named = self.named[name]
        if version == named.version:
            return
        model = named.opened.get(version) or self._candidate(name, named.folder, version)
        if not (allow_breaking or self._allow_breaking):
            releases.refuse_breaking(named.live.manifest, model.manifest)
        try:
            model.wait()
        except OperatorError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a library raises on this model
            logger.error("%s %s is not made live: %s", name, version, refusal_sentence(error))
            raise ReleaseError(self.refusal_reason(error)) from None
        opened = MappingProxyType({**named.opened, version: model})
        self._put(replace(named, opened=opened))

    def _load_live(self) -> None:
        for named in list(self.named.values()):
            named.live.start()
            with suppress(Exception):  # whoever waits is told
                named.live.wait()
            self._note_proven(named)

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
                self._folders.state(name, folder)
                for name, folder in self._folders.by_name(self.named)
            ]
        except ArtifactError:  # nothing is there, for the moment at least
            return
        if seen != self._seen:
            self._seen, self._is_settled = seen, False
        elif not self._is_settled:
            self._is_settled = True
            self.refresh()

    def _refresh(self, name: str, folder: Path, again: bool) -> None:
        named = self.named.get(name)
        there = tuple(repository.versions(folder))
        if named is not None and named.versions != there:
            kept = {version: named.opened[version] for version in named.opened if version in there}
            named = replace(named, versions=there, opened=MappingProxyType(kept))
            self._put(named)
        try:
            wanted = repository.live(folder)
        except ArtifactError as error:
            self._refuse(name, "live", error, tried=str(error))
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
        named = self.named.get(name)
        model = named.opened.get(wanted.version) if named is not None else None
        if model is None:
            model = self._candidate(name, folder, wanted.version)
        if named is not None:
            is_allowed = wanted.allow_breaking or self._allow_breaking
            # A worker that starts anew may meet several steps as one.
            is_allowed = is_allowed or wanted.version == self._folders.proven_before(name, folder)
            if named.live.is_ready and not is_allowed:  # else nobody can be its client
                releases.refuse_breaking(named.live.manifest, model.manifest)
        model.wait()
        opened = dict(named.opened) if named is not None else {}
        opened.pop(wanted.version, None)
        if named is not None and named.trial is not None:
            named.trial.close()
        self._put(
            Named(
                name,
                folder,
                model,
                wanted.version,
                identity,
                tuple(repository.versions(folder)),
                MappingProxyType(opened),
            )
        )
        self._has_replaced = named is not None
        before = "new" if named is None else f"before {named.version}"
        logger.info("%s %s is live (%s)", name, wanted.version, before)

    def _refresh_trial(self, name: str, folder: Path, again: bool) -> None:
        named = self.named.get(name)
        if named is None or not named.live.is_ready:
            return
        plan: Plan | None = None
        try:
            plan = releases.read_plan(folder)
            identity = None if plan is None else repository.identity(folder / plan.version)
            planned = (plan, identity, named.live)
            if named.planned == planned and not (again and named.trial_refusal is not None):
                return
            if named.trial is not None:
                named.trial.close()
            named = replace(named, trial=None, trial_refusal=None, planned=planned)
            if plan is not None:
                model = self._tried(named, plan)
                opened = MappingProxyType({**named.opened, plan.version: model})
                trial = Trial(plan, named.live, model, self._metrics)
                named = replace(named, opened=opened, trial=trial)
                logger.info("%s %s is tried (%s)", name, plan.version, plan.kind)
        except Exception as error:  # noqa: BLE001 - the live one answers alone, and all are told
            version = "" if plan is None else plan.version
            logger.error("%s %s is not tried: %s", name, version, refusal_sentence(error))
            refusal = Refusal(version, self.refusal_reason(error), timestamp(time.time()))
            named = replace(named, trial=None, trial_refusal=refusal)
        self._put(named)

    def _tried(self, named: Named, plan: Plan) -> ServedModel:
        if plan.version == named.version:
            raise ReleaseError(f"{plan.version} of {named.name} is live already.")
        model = named.opened.get(plan.version)
        if model is None:
            model = self._candidate(named.name, named.folder, plan.version)
        if not self._allow_breaking:
            releases.refuse_breaking(named.live.manifest, model.manifest)
        model.wait()
        return model

    def _refuse(self, name: str, version: str, error: Exception, tried: Any) -> None:
        logger.error("%s %s is not made live: %s", name, version, refusal_sentence(error))
        named = self.named.get(name)
        if named is not None:
            refusal = Refusal(version, self.refusal_reason(error), timestamp(time.time()))
            self._put(replace(named, refusal=refusal, refused=tried))

    def _open(self, name: str, version: str) -> None:
        named = self.named[name]
        if version == named.version or version in named.opened:
            return
        try:
            model = self._made(name, named.folder, version)
            model.wait()
        except Exception as error:  # noqa: BLE001 - told to those who ask for it
            logger.error("%s %s cannot be served: %s", name, version, refusal_sentence(error))
            self._refused_versions[name, version] = self.refusal_reason(error)
            return
        finally:
            self._asked.discard((name, version))
        self._put(replace(named, opened=MappingProxyType({**named.opened, version: model})))

    def _candidate(self, name: str, folder: Path, version: str) -> ServedModel:
        """One that is about to be loaded."""
        model = self._made(name, folder, version)
        # Not before: what a client names and nobody packed could be a key, or look like a line.
        logger.info("%s %s is being loaded", name, version)
        return model

    def _made(self, name: str, folder: Path, version: str) -> ServedModel:
        """One that lets requests go first while it is loaded."""
        model = self._make(artifact_of(folder, version, name), name)
        model.pause = partial(time.sleep, _PAUSE_S)
        return model

    def _put(self, named: Named) -> None:
        self.named = {**self.named, named.name: named}
        self._refused_versions = {
            key: reason for key, reason in self._refused_versions.items() if key[0] != named.name
        }
        self._note_proven(named)
        self.on_change()

    # What is on disk.

    def _found(self) -> Iterator[Named]:
        """Those that were there before stay, unless another version is live."""
        if self._is_alone and self.named:
            yield from self.named.values()
        elif self._is_alone:
            artifact = Artifact(self._folders.path)
            name, version = artifact.manifest.name, artifact.manifest.version
            model = self._first(artifact, name)
            yield Named(name, self._folders.path.parent, model, version, None, (version,))
        else:
            for name, folder in self._folders.by_name(self.named):
                yield self._found_in(folder, name)

    def _found_in(self, folder: Path, name: str) -> Named:
        wanted = self._folders.proven_before(name, folder) or repository.live(folder).version
        identity = repository.identity(folder / wanted)
        before = self.named.get(name)
        if before is not None and (before.version, before.identity) == (wanted, identity):
            return before
        model = self._first(artifact_of(folder, wanted, name), name)
        return Named(name, folder, model, wanted, identity, tuple(repository.versions(folder)))

    def _first(self, artifact: Artifact, name: str) -> ServedModel:
        model = self._make(artifact, name)
        model.on_refused = self._on_refused
        return model

    def _note_proven(self, named: Named) -> None:
        if named.live.is_ready:
            self._folders.note_proven(named.name, named.version)


def _countdown(timeout_s: float | None) -> Callable[[], float | None]:
    """Gives how much of the time is left; None where it has no end."""
    if timeout_s is None:
        return lambda: None
    ends = time.monotonic() + timeout_s
    return lambda: max(0.0, ends - time.monotonic())
