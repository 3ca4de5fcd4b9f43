"""The libraries that a model was packed with, and those that are installed here."""

from functools import cache
from importlib import metadata

from tabserve.artifact import Manifest

# Where a library is imported by another name than it is installed by.
_INSTALLED_AS = {"sklearn": ("scikit-learn",), "xgboost": ("xgboost", "xgboost-cpu")}

# All that serving a graph needs of them.
OF_GRAPHS = frozenset({"numpy", "onnxruntime"})


def installed(library: str) -> str | None:
    """Its version; None where it is not installed."""
    return _version(installed_as(library))


def installed_as(library: str) -> str:
    """What pip calls it, or would."""
    names = _INSTALLED_AS.get(library, (library,))
    return next((name for name in names if _version(name) is not None), names[0])


@cache  # to find one reads its whole description: of 50 models, half of the time to load them
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def others(manifest: Manifest) -> list[str]:
    """Of the libraries that serving the model uses, those of another version here, each told."""
    used = {
        library: packed
        for library, packed in manifest.libraries.items()
        if manifest.engine != "onnx" or library in OF_GRAPHS
    }
    return [
        f"{library} {packed} when packed, {found} here"
        for library, packed in used.items()
        if (found := installed(library)) is not None and found != packed
    ]
