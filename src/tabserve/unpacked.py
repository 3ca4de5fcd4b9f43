"""`tabserve serve` of a model that is not packed: it is packed into a folder that goes with it."""

import gc
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tabserve import mlflow, server, telling, temporary
from tabserve.errors import InvalidSettings
from tabserve.importing import imported
from tabserve.settings import Settings, flag

logger = logging.getLogger("tabserve")


def serve(flags: Mapping[str, Any]) -> int:
    """Serve what the settings name until a signal ends it; gives back the exit code.

    flags: as for `server.serve`. Raises what that does, and what packing does.
    """
    settings = Settings.load(**flags)
    if not _is_unpacked(settings.path):
        for name, meaning in (("data", "sample rows"), ("target", "the target")):
            if getattr(settings, name) is not None:
                raise InvalidSettings(
                    f"{flag(name)} names {meaning} of a model that is not packed; "
                    f"{settings.path} is."
                )
        return server.serve(flags)
    if settings.reload:
        raise InvalidSettings(f"--reload needs a packed model; pack {settings.path} first.")
    gc.enable()  # fitting and converting leave much behind
    with temporary.folder() as folder:
        with telling.steps_told(also_in_lines=True):
            logger.info("Packing %s in order to serve it", settings.path)
            packed = {"path": str(_packed(settings, folder))}
            logger.info("Serving it")
        # Whoever names a function wants it to run.
        allowed = {"allow_code": True} if _is_named(settings.path) else {}
        return server.serve({**flags, **packed, **allowed})


def _is_unpacked(path: str) -> bool:
    """A file, a folder of MLflow's, or module:attr that is no service."""
    if _is_named(path):
        from tabserve.service import Service

        return not isinstance(imported(path), Service)
    if Path(path).is_dir():
        with suppress(PermissionError):  # told by who looks for packed models
            return Path(path, mlflow.DESCRIPTION).exists()
    return Path(path).suffix in _SUFFIXES


# Those that packing reads, which would import scikit-learn.
_SUFFIXES = frozenset(
    {".skops", ".joblib", ".pkl", ".pickle", ".json", ".ubj", ".txt", ".cbm", ".onnx"}
)


def _is_named(path: str) -> bool:
    return ":" in path and not Path(path).exists()


def _packed(settings: Settings, out: Path) -> Path:
    from tabserve import packing

    return packing.pack_at_once(
        settings.path,
        out,
        data=settings.data,
        target=settings.target,
        allow_pickle=settings.allow_pickle,
    )
