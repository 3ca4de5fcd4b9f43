"""A model by its name, as it is served at a moment: its versions, and what became of others."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tabserve.rollout import Trial
from tabserve.served import ServedModel
from tabserve.types import timestamp


@dataclass(frozen=True)
class Refusal:
    """Why a version was not made the live one, or is not tried. reason: for everybody, without a
    path.
    """

    version: str
    reason: str
    at: str = field(default_factory=lambda: timestamp(time.time()))


@dataclass(frozen=True)
class NamedModel:
    """version: of the live model, as its folder is called. versions: those on disk, the highest
    first. opened: others that were asked for.
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

    @property
    def models(self) -> dict[str, ServedModel]:
        """Those that answer requests, by version."""
        return {self.version: self.live, **self.opened}

    def with_opened(self, version: str, model: ServedModel) -> "NamedModel":
        return replace(self, opened=MappingProxyType({**self.opened, version: model}))
