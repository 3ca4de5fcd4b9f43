"""Which imports of a pickle no model needs, so that loading it would be a mistake.

A help, and not a wall: a pickle is a program, and what the libraries that it may import can be made
to do nobody has listed. So a pickle is loaded only where its operator says so, and then only after
this.
"""

import sys
from dataclasses import dataclass

from tabserve.errors import ArtifactError, UntrustedModel
from tabserve.opcodes import CannotFollow, Imported, imported

# Of Python's own modules a model needs no more; all others are refused.
_HARMLESS = {
    "builtins": "object list dict set frozenset tuple int float complex bool str bytes bytearray "
    "slice range abs len max min round sum sorted Ellipsis NotImplemented Exception ValueError",
    "_codecs": "encode",
    "_operator": "abs add mul neg pos sub truediv",
    "array": "array _array_reconstructor",
    "collections": "OrderedDict defaultdict deque Counter",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "functools": "partial",
    "itertools": "count",
    "logging": "getLogger",
    "math": "ceil cos exp expm1 fabs floor log log10 log1p log2 pow sin sqrt tan",
    "operator": "itemgetter",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "re": "_compile",
    "types": "SimpleNamespace",
    "uuid": "UUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
_HARMLESS_OF = {module: frozenset(names.split()) for module, names in _HARMLESS.items()}

# What any module reaches through those that it has imported itself.
_NEVER_A_PART = frozenset(
    {
        "builtins", "ctypes", "importlib", "os", "pickle", "posix", "runpy", "shutil", "socket",
        "subprocess", "sys", "__builtins__", "__globals__", "__import__", "__subclasses__",
    }
)  # fmt: skip
# Parts of the libraries that read files, build or run code, and libraries that do nothing else.
_NEVER_UNDER = (
    "cloudpickle", "dill", "joblib.externals", "joblib.numpy_pickle_compat", "numpy.ctypeslib",
    "numpy.distutils", "numpy.f2py", "numpy.testing", "pandas.core.computation", "pandas.io",
    "pip", "scipy.io", "setuptools", "sklearn.datasets",
)  # fmt: skip
# Names under which the libraries read and write files or run text, wherever they stand.
_NEVER_CALLED = frozenset(
    {
        "NDArrayWrapper", "ZNDArrayWrapper", "call", "check_output", "dump", "dumps", "eval",
        "exec", "exec_command", "fromfile", "genfromtxt", "load", "loads", "loadtxt", "memmap",
        "open", "open_memmap", "popen", "read_csv", "read_pickle", "run", "runstring", "save",
        "savetxt", "savez", "savez_compressed", "system", "to_csv", "to_pickle", "tofile",
    }
)  # fmt: skip

# Those that models are made of.
_LIBRARIES = frozenset(
    {
        "catboost", "joblib", "lightgbm", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "skops",
        "xgboost",
    }
)  # fmt: skip

# Of a list of names as many are said.
_MOST_NAMES = 10


@dataclass(frozen=True)
class Imports:
    """Of a pickle, each as module.name.

    refused: no model needs them, and they can do anything.
    others: of modules that are neither Python's nor of a library that models are made of.
    """

    names: tuple[str, ...]
    refused: tuple[str, ...]
    others: tuple[str, ...]


def imports(content: bytes) -> Imports:
    """What a pickle or a joblib file would import; nothing of it is loaded.

    Raises UntrustedModel for what cannot be followed to its end.
    """
    try:
        found = imported(content)
    except (CannotFollow, ArtifactError) as reason:
        raise UntrustedModel(
            "The model's pickle cannot be read to its end without loading it, so it is not loaded: "
            f"{str(reason).rstrip('.')}."
        ) from None
    return Imports(
        names=tuple(".".join(one) for one in found),
        refused=tuple(".".join(one) for one in found if _is_refused(one)),
        others=tuple(".".join(one) for one in found if _root(one) not in _KNOWN),
    )


def refuse_dangerous(content: bytes) -> None:
    """Raises UntrustedModel, naming what the pickle would import that no model needs."""
    if refused := imports(content).refused:
        raise UntrustedModel(
            f"The model is a pickle that imports {listed(refused)}, which can run anything and "
            "which no model needs; it is not loaded. If you made it yourself, keep that in a "
            "function of a module that the server can import."
        )


def listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(name[:200] for name in names[:_MOST_NAMES]) + more


_KNOWN = _LIBRARIES | sys.stdlib_module_names


def _root(found: Imported) -> str:
    return found.module.partition(".")[0]


def _is_refused(found: Imported) -> bool:
    module, name = found
    if _root(found) in sys.stdlib_module_names:
        return name not in _HARMLESS_OF.get(module, ())
    parts = f"{module}.{name}".split(".")
    return (
        not _NEVER_A_PART.isdisjoint(parts)
        or parts[-1] in _NEVER_CALLED
        or any(f"{module}.{name}.".startswith(f"{place}.") for place in _NEVER_UNDER)
    )
