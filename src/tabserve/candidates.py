"""Versions that are loaded while the live one answers: to take its place, or beside it."""

import logging
import time
from functools import partial
from pathlib import Path

from tabserve import releases, repository
from tabserve.folders import artifact_of
from tabserve.models import Make
from tabserve.named import NamedModel
from tabserve.served import ServedModel

logger = logging.getLogger("tabserve")

# A version that is loaded beside requests rests so long after each row that it computes.
_PAUSE_S = 0.0005


class Candidates:
    """None is loaded yet; whoever waits for one is told what refuses it."""

    def __init__(self, make: Make, *, allow_breaking: bool) -> None:
        self._make = make
        self._allow_breaking = allow_breaking

    def made(self, name: str, folder: Path, version: str) -> ServedModel:
        """One that lets requests go first while it is loaded. Raises what `artifact_of` does."""
        identity = repository.identity(folder / version)  # of no later moment than what is read
        model = self._make(artifact_of(folder, version, name), name)
        model.identity = identity
        model.pause = partial(time.sleep, _PAUSE_S)
        return model

    def begun(self, name: str, folder: Path, version: str) -> ServedModel:
        """One that is about to be loaded."""
        model = self.made(name, folder, version)
        # Not before: what a client names and nobody packed could be a key, or look like a line.
        logger.info("%s %s is being loaded", name, version)
        return model

    def beside(
        self, named: NamedModel, version: str, *, allow_breaking: bool = False
    ) -> ServedModel:
        """One that may answer the clients of the live version. Raises ReleaseError where it would
        break them.
        """
        model = opened(named, version) or self.begun(named.name, named.folder, version)
        if not (allow_breaking or self._allow_breaking):
            releases.refuse_breaking(named.live.manifest, model.manifest)
        return model


def opened(named: NamedModel, version: str) -> ServedModel | None:
    """The one that was loaded beside the live one, unless it was packed again since."""
    model = named.opened.get(version)
    if model is not None and model.identity == repository.identity(named.folder / version):
        return model
    return None
