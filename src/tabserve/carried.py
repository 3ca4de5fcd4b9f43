"""Modules of the user's that an artefact carries, and the modules that a model needs."""

import importlib.abc
import importlib.machinery
import importlib.util
import pickle
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tabserve.errors import PackError

# Where they lie in the artefact's folder.
PREFIX = "code/"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

# A process has one sys.modules, and two versions may have modules of the same name.
_loading = threading.Lock()


def is_plain_path(name: str) -> bool:
    """Whether it is the name of a carried file, which cannot lead out of its folder."""
    parts = name.removeprefix(PREFIX).split("/")
    return name.startswith(PREFIX) and all(
        _PART.fullmatch(part) and ".." not in part for part in parts
    )


def module_names(files: Iterable[str]) -> frozenset[str]:
    """Those that carried files can be imported as, without what is inside packages."""
    return frozenset(
        name.partition("/")[0].removesuffix(".py") for name in files if name.endswith(".py")
    )


@contextmanager
def importable(files: Mapping[str, bytes], folder: Path) -> Iterator[None]:
    """Within it the carried modules are imported, from the very bytes given, ahead of any other of
    the same name. Later they stay importable until another version brings its own.

    folder: where the files lie, for tracebacks and for modules that read what lies beside them.
    """
    if not files:
        yield
        return
    names = module_names(files)
    with _loading:
        for module in [m for m in sys.modules if m.partition(".")[0] in names]:
            del sys.modules[module]
        sys.meta_path[:] = [
            finder
            for finder in sys.meta_path
            if not (isinstance(finder, _Carried) and finder.names & names)
        ]
        sys.meta_path.insert(0, _Carried(files, folder))
        yield


class _Carried(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def __init__(self, files: Mapping[str, bytes], folder: Path) -> None:
        self.names = module_names(files)
        self._files = files
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        name = self._file_of(fullname)
        if name is None:
            return None
        spec = importlib.util.spec_from_loader(
            fullname,
            self,
            origin=str(self._folder / name),
            is_package=name.endswith("__init__.py"),
        )
        assert spec is not None
        spec.has_location = True  # so that the module has a __file__
        return spec

    def get_code(self, fullname: str) -> CodeType:
        name = self._file_of(fullname)
        assert name is not None
        return self.source_to_code(self._files[name], str(self._folder / name))

    def get_source(self, fullname: str) -> str | None:
        name = self._file_of(fullname)
        return None if name is None else importlib.util.decode_source(self._files[name])

    def is_package(self, fullname: str) -> bool:
        return (self._file_of(fullname) or "").endswith("__init__.py")

    def _file_of(self, fullname: str) -> str | None:
        base = fullname.replace(".", "/")
        for name in (f"{base}/__init__.py", f"{base}.py"):
            if name in self._files:
                return name
        return None


def refuse_unimportable(model: Any, names: frozenset[str]) -> None:
    """names: of the carried modules.

    Raises PackError where the model refers to what a server has no way to import.
    """
    for found in _references(model):
        _refuse_unimportable(str(found.__module__), found.__qualname__, names)


def refuse_unimportable_imports(imports: Iterable[tuple[str, str]], names: frozenset[str]) -> None:
    """imports: of a pickle, as module and name. As `refuse_unimportable`."""
    for module, name in imports:
        _refuse_unimportable(module, name, names)


def _refuse_unimportable(module: str, name: str, names: frozenset[str]) -> None:
    top = module.partition(".")[0]
    if top in names:
        return
    if module == "__main__" or "<" in name:
        raise PackError(
            f"The model refers to {name} in {module}, which a server cannot import. Move it "
            "to the top level of a module, say features.py in a folder of its own, import it "
            "from there, fit the model again, and pack it with --code FOLDER."
        )
    if not _can_be_imported(top):
        raise PackError(
            f"The model refers to {name} of the module {module}, which a server cannot "
            "import: it is neither installed nor in the working directory. Install it, or "
            "pack with --code FOLDER, the folder that it lies in."
        )


def _can_be_imported(top: str) -> bool:
    """As a server would that is started here: not from beside a script that packs."""
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return True
    if importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd()), *sys.path[1:]]):
        return True
    # Those of editable installs have finders of their own.
    others = [f for f in sys.meta_path if f is not importlib.machinery.PathFinder]
    return any(
        finder.find_spec(top, None) is not None
        for finder in others
        if not isinstance(finder, _Carried)
    )


def _references(model: Any) -> list[Any]:
    """The classes and functions that a pickle of the model would name."""
    pickler = _Pickler(BytesIO(), protocol=pickle.HIGHEST_PROTOCOL)
    try:
        pickler.dump(model)
    except Exception:  # noqa: BLE001 - whatever cannot be pickled: who writes it says so
        return pickler.found
    return pickler.found


class _Pickler(pickle.Pickler):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.found: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType):
            self.found.append(obj)
        return NotImplemented
