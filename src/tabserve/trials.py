"""Which version of a name is tried beside the live one: what its folder says, begun and ended."""

import logging
from dataclasses import replace
from typing import Any

from tabserve import releases, repository
from tabserve.candidates import Candidates
from tabserve.errors import ArtifactError, ReleaseError
from tabserve.folders import Folders
from tabserve.metrics import RolloutMetrics
from tabserve.named import NamedModel, Refusal
from tabserve.releases import Plan
from tabserve.rollout import Trial
from tabserve.served import refusal_sentence

logger = logging.getLogger("tabserve")


class Trials:
    def __init__(self, candidates: Candidates, folders: Folders, metrics: RolloutMetrics) -> None:
        self._candidates = candidates
        self._folders = folders
        self._metrics = metrics

    def as_planned(self, named: NamedModel, *, again: bool) -> NamedModel:
        """With the trial that its folder says: the same where that is under way, or was refused.

        again: try what was refused as well.
        """
        try:
            plan = releases.read_plan(named.folder)
        except ArtifactError as error:
            return self._refused(_alone(named, planned=None), "", error)
        identity = None if plan is None else repository.identity(named.folder / plan.version)
        planned = (plan, identity, named.live)
        if named.planned == planned and not (again and named.trial_refusal is not None):
            return named
        named = _alone(named, planned)
        if plan is None:
            return named
        try:
            return self._begun(named, plan)
        except Exception as error:  # noqa: BLE001 - the live one answers alone, and all are told
            return self._refused(named, plan.version, error)

    def _begun(self, named: NamedModel, plan: Plan) -> NamedModel:
        if plan.version == named.version:
            raise ReleaseError(f"{plan.version} of {named.name} is live already.")
        model = self._candidates.beside(named, plan.version)
        model.wait()
        trial = Trial(plan, named.live, model, self._metrics)
        logger.info("%s %s is tried (%s)", named.name, plan.version, plan.kind)
        return replace(named.with_opened(plan.version, model), trial=trial)

    def _refused(self, named: NamedModel, version: str, error: Exception) -> NamedModel:
        logger.error("%s %s is not tried: %s", named.name, version, refusal_sentence(error))
        return replace(named, trial_refusal=Refusal(version, self._folders.reason(error)))


def _alone(named: NamedModel, planned: Any) -> NamedModel:
    """Without a trial."""
    if named.trial is not None:
        named.trial.close()
    return replace(named, trial=None, trial_refusal=None, planned=planned)
