"""A fitted tabular model becomes a production REST API."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabserve.errors import TabserveError
    from tabserve.output import Bands, Output
    from tabserve.packing import pack
    from tabserve.service import Service
    from tabserve.settings import Settings

__all__ = ["Bands", "Output", "Service", "Settings", "TabserveError", "__version__", "pack"]

_HOMES = {
    "Bands": "tabserve.output",
    "Output": "tabserve.output",
    "Service": "tabserve.service",
    "Settings": "tabserve.settings",
    "TabserveError": "tabserve.errors",
    "pack": "tabserve.packing",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: packing needs scikit-learn, serving may not."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tabserve")
    if name not in _HOMES:
        raise AttributeError(f"module 'tabserve' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
