"""Objects of the user's own modules, named as module:attr."""

import importlib
import sys
from typing import Any

from tabserve.errors import CannotImport, OperatorError


def imported(spec: str) -> Any:
    """The attribute of a module that is installed or lies in the working directory.

    Raises CannotImport, or what TabServe itself raised while the module was imported.
    """
    module, _, attribute = spec.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except OperatorError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CannotImport(f"Cannot import {spec}, expected module:name: {error}.") from error
    except Exception as error:
        raise CannotImport(
            f"Cannot import {spec}: the module raises {type(error).__name__}: {error}."
        ) from error
