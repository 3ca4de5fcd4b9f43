"""Objects of the user's own modules, named as module:attr."""

import importlib
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tabserve.errors import CannotImport, OperatorError, RequestClassError


def imported(spec: str) -> Any:
    """The attribute of a module that is installed or lies in the working directory.

    Raises CannotImport, or what TabServe itself raised while the module was imported.
    """
    module, _, attribute = spec.partition(":")
    try:
        look_in_working_directory()
        return getattr(importlib.import_module(module), attribute)
    except OperatorError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CannotImport(f"Cannot import {spec}, expected module:name: {error}.") from error
    except Exception as error:
        raise CannotImport(
            f"Cannot import {spec}: the module raises {type(error).__name__}: {error}."
        ) from error


def look_in_working_directory() -> None:
    """For modules, as `python -m` does."""
    if not {"", str(Path.cwd())} & {*sys.path}:
        sys.path.insert(0, "")


def request_class(spec: str | None) -> type[BaseModel] | None:
    """The user's own pydantic class. Raises CannotImport, RequestClassError."""
    if spec is None:
        return None
    found = imported(spec)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise RequestClassError(f"Expected a pydantic class at {spec}, found {found!r}.")
    return found


def request_classes(spec: str | None) -> type[BaseModel] | dict[str, type[BaseModel]] | None:
    """One class (module:Class), or those of several models by name (NAME=module:Class, separated
    by commas). Raises CannotImport, RequestClassError.
    """
    if spec is None or "=" not in spec:
        return request_class(spec)
    found: dict[str, type[BaseModel]] = {}
    for part in spec.split(","):
        name, equals, named = (text.strip() for text in part.partition("="))
        own_class = request_class(named) if equals and name and name not in found else None
        if own_class is None:
            raise RequestClassError(
                f"Expected module:Class, or for each model once NAME=module:Class, got {part!r}."
            )
        found[name] = own_class
    return found
