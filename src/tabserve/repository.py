"""The folder of artefacts: which version a path means, and loading one so that it is proven."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tabserve import carried, heap, libraries, parity
from tabserve.artifact import (
    GOLDEN,
    GRAPH,
    MANIFEST,
    REFUSED,
    Artifact,
    GoldenRows,
    Manifest,
    ModelFormat,
)
from tabserve.cpus import usable_cpus
from tabserve.errors import ArtifactError, NotReproduced, UntrustedModel
from tabserve.importing import imported
from tabserve.lowered import Lowered
from tabserve.output import Renderer
from tabserve.types import Engine, Parts

logger = logging.getLogger("tabserve")

# In the folder of a name: which of its versions is live.
LIVE = "live.json"

# At the top of each ext4 disk, such as a volume of Kubernetes, where root alone may look into it.
_OF_THE_DISK = "lost+found"

State = TypeVar("State", bound=BaseModel)

# What may be computed on an event loop: some times what handing it to a thread and back costs.
_INLINE_S = 500e-6
_TIMED_CALLS = 10


@dataclass(frozen=True)
class LoadedModel:
    """A version that has reproduced its golden rows; `difference` is by how much it did not.

    inline_rows: as many may be computed on an event loop: handing them to a thread would take
    longer, and so short a time delays nobody.
    """

    manifest: Manifest
    engine: Engine
    difference: float
    inline_rows: int = 0


class Live(BaseModel):
    """What LIVE holds. previous: the versions that were live before, the last one first.

    allow_breaking: whether it may break the clients of the one before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    previous: tuple[str, ...] = ()
    allow_breaking: bool = False


def find(path: str | Path) -> Artifact:
    """The artefact that PATH means: a version's folder, the live version of a name's folder, or
    that of the only name in a repository.

    Raises ArtifactError where there is none, or more than one name.
    """
    folder = Path(path)
    if folder.is_symlink():  # it was the operator who named it; links below it are not followed
        folder = folder.resolve()
    if has_manifest(folder):
        return Artifact(folder)
    folders = name_folders(folder)
    if len(folders) > 1:
        listed = ", ".join(str(name) for name in folders)
        raise ArtifactError(f"{folder} holds several models; name one of {listed}.")
    return Artifact(folders[0] / live(folders[0]).version)


def name_folders(path: Path) -> list[Path]:
    """The folders of names that PATH means: itself, or those in a repository.

    Raises ArtifactError where there is none, or both: of a version that was put beside the names
    nobody can say what it is to be.
    """
    folders = [
        folder for folder in _subfolders(path) if versions(folder) and not has_manifest(folder)
    ]
    strays = versions(path)
    if strays and folders:
        raise ArtifactError(
            f"{path} holds folders of names ({', '.join(folder.name for folder in folders)}), and "
            f"beside them versions ({', '.join(strays)}). Move each into the folder of its name."
        )
    if strays:
        return [path]
    if not folders:
        raise ArtifactError(
            f"Expected a packed model at {path} (a folder with a {MANIFEST}, NAME/VERSION below "
            "it, or VERSION below it), found none. Make one with tabserve pack."
        )
    return folders


def versions(folder: Path) -> list[str]:
    """Of a name's folder, the highest first; without those that are being written.

    Raises ArtifactError where the folder, or one in it, may not be looked into.
    """
    found = [version.name for version in _subfolders(folder) if has_manifest(version)]
    return sorted(found, key=version_key, reverse=True)


def has_manifest(folder: Path) -> bool:
    """Raises ArtifactError where the folder may not be looked into."""
    try:
        return (folder / MANIFEST).exists()
    except PermissionError as error:
        raise _closed(folder, error) from None


def live(folder: Path) -> Live:
    """Of a name's folder: what its LIVE says, else the highest version.

    Raises ArtifactError where there is no such version.
    """
    there = versions(folder)
    if not there:
        raise ArtifactError(f"Expected a version in {folder}, found none.")
    found = read_live(folder)
    if found is None:
        return Live(version=there[0])
    if found.version not in there:
        raise ArtifactError(
            f"{folder / LIVE} says that {found.version} is live, which is not there; there are "
            f"{', '.join(there)}."
        )
    return found


def read_live(folder: Path) -> Live | None:
    """Raises ArtifactError where it cannot be read."""
    return read_state(
        folder / LIVE,
        Live,
        "does not say which version is live; say it with tabserve promote NAME VERSION",
    )


def read_state(path: Path, kind: type[State], otherwise: str) -> State | None:
    """What a file of a name's folder says; None where there is none.

    otherwise: what is wrong with a file that says something else. Raises ArtifactError.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error.strerror}.") from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, found["loc"])) or "the file itself"
        raise ArtifactError(f"{path} {otherwise}: {found['msg']} at {place}.") from None


def identity(version: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Another one where a file of the version was written or replaced."""
    try:
        with os.scandir(version) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return ()
    return tuple(
        sorted((name, stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
    )


def load(
    artifact: Artifact,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    workers: int = 1,
    pause: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Load the model, warm it and prove it on its golden rows.

    allow_code: to run the user's own modules, which the artefact carries or names.
    workers: processes that share this machine's CPUs. pause: called again and again meanwhile.
    Raises ArtifactError (altered file), UntrustedModel, NotReproduced, MissingExtra.
    """
    return _tried(artifact, _engine(artifact, allow_pickle, allow_code, workers), pause)


def preload(
    artifact: Artifact, *, allow_pickle: bool = False, allow_code: bool = False, workers: int = 1
) -> Callable[[], LoadedModel]:
    """Load what processes that are forked from this one may share, and begin no thread for it:
    OpenMP's do not outlive a fork, and a process that waits for them hangs.

    Gives back what each of them does to finish. A graph is proven already; scikit-learn's own
    estimators are in memory and compute nothing before; of all else there are the imports alone.
    Raises what `load` does.
    """
    manifest = artifact.manifest
    options: Any = {"allow_pickle": allow_pickle, "allow_code": allow_code, "workers": workers}
    if not is_shared(artifact):
        return lambda: load(artifact, **options)
    engine = _engine(artifact, **options)
    if manifest.engine == "onnx":
        loaded = _tried(artifact, engine)
        return lambda: loaded
    heap.give_back()
    return lambda: _tried(artifact, engine)


def is_shared(artifact: Artifact) -> bool:
    """Whether processes that are forked after `preload` share the model, and not imports alone."""
    manifest = artifact.manifest
    if manifest.engine == "onnx":
        return True
    if manifest.function is not None:
        return False
    from tabserve import stored

    return not artifact.carried() and stored.begins_no_threads(_contents(artifact))


def _engine(artifact: Artifact, allow_pickle: bool, allow_code: bool, workers: int) -> Engine:
    manifest = artifact.manifest
    parts = Renderer(manifest.targets, manifest.output).parts
    if manifest.engine != "onnx":
        return _with_own_code(artifact, parts, allow_pickle, allow_code, workers)
    for name in manifest.model_files.keys() - {GRAPH}:
        artifact.read(name)  # not used, and yet not to be another one
    return _graph(artifact, parts, workers)


def _tried(
    artifact: Artifact, engine: Engine, pause: Callable[[], None] = lambda: None
) -> LoadedModel:
    """The engine, warm and proven."""
    manifest = artifact.manifest
    if manifest.parity.unproven:
        logger.warning(
            "%s %s is unproven: it was packed without sample rows, so nothing shows that it "
            "answers here what it did where it was trained",
            manifest.name,
            manifest.version,
        )
        return LoadedModel(manifest, engine, 0.0)
    golden = artifact.golden()
    difference = _proven(engine, manifest, golden, pause)
    heap.give_back()
    inline_rows = int(_INLINE_S / _row_s(engine, manifest, golden)) if engine.reentrant else 0
    return LoadedModel(manifest, engine, difference, inline_rows)


# Engines are imported where they are used: reading a manifest needs none of them, and serving a
# lowered model needs no ML library.


def _graph(artifact: Artifact, parts: Parts, workers: int) -> Engine:
    lowered = artifact.manifest.lowered
    if lowered is None:
        return _onnx_model(artifact, parts)
    return _lowered(artifact, lowered, parts, workers)


def _lowered(artifact: Artifact, lowered: Lowered, parts: Parts, workers: int) -> Engine:
    from tabserve.engines.onnx import OnnxEngine

    manifest = artifact.manifest
    graph = artifact.read(GRAPH)
    refused = artifact.read(REFUSED) if REFUSED in manifest.files else None
    threads = max(1, usable_cpus() // workers)
    signature, targets = manifest.signature, manifest.targets
    with _graph_refused():
        return OnnxEngine(graph, refused, lowered, signature, targets, parts, threads)


def _onnx_model(artifact: Artifact, parts: Parts) -> Engine:
    from tabserve.engines.onnx_model import OnnxModelEngine

    manifest = artifact.manifest
    content = artifact.read(GRAPH)
    with _graph_refused():
        return OnnxModelEngine(content, manifest.signature, manifest.targets, parts, GRAPH)


def _with_own_code(
    artifact: Artifact, parts: Parts, allow_pickle: bool, allow_code: bool, workers: int
) -> Engine:
    function, files = artifact.manifest.function, artifact.carried()
    if (function or files) and not allow_code:
        raise UntrustedModel(
            f"The model runs code of its own{f' ({function})' if function else ''} when it is "
            "loaded. Say --allow-code if you trust the one who made it."
        )
    with carried.importable(files, artifact.folder / carried.PREFIX):
        if function is not None:
            return _function(artifact.manifest, function, parts)
        own = carried.module_names(files)
        return _native(artifact, parts, allow_pickle, own, workers)


def _function(manifest: Manifest, function: str, parts: Parts) -> Engine:
    from tabserve.engines.function import FunctionEngine, callable_of

    found = callable_of(imported(function))
    return FunctionEngine(found, manifest.signature, manifest.targets, parts)


def _native(
    artifact: Artifact, parts: Parts, allow_pickle: bool, own: frozenset[str], workers: int
) -> Engine:
    """own: the modules of the user's whose types are trusted."""
    from tabserve import stored
    from tabserve.engines.native import NativeEngine

    manifest = artifact.manifest
    model = stored.load(_contents(artifact), manifest.targets, allow_pickle, own)
    return NativeEngine(model, manifest.signature, manifest.targets, parts, workers)


def _contents(artifact: Artifact) -> dict[ModelFormat, bytes]:
    files = artifact.manifest.model_files.items()
    return {format: artifact.read(name) for name, format in files}


def _row_s(engine: Engine, manifest: Manifest, golden: GoldenRows) -> float:
    """Seconds that one row takes: the least of several, since others use the machine too."""
    row = parity.columns_of(manifest.signature, golden.rows[:1])
    samples = []
    for _ in range(_TIMED_CALLS):
        began = time.perf_counter()
        engine.predict(row)
        samples.append(time.perf_counter() - began)
    return min(samples)


def _proven(
    engine: Engine, manifest: Manifest, golden: GoldenRows, pause: Callable[[], None]
) -> float:
    """As `_prove`, and says which libraries are of other versions than when it was packed."""
    others = ", ".join(libraries.others(manifest))
    try:
        difference = _prove(engine, manifest, golden, pause)
    except NotReproduced as error:
        raise NotReproduced(
            f"{error} Other versions: {others}." if others else str(error)
        ) from None
    if others:
        logger.warning("%s %s gives its golden outputs with other versions: %s",
                       manifest.name, manifest.version, others)  # fmt: skip
    return difference


def _prove(
    engine: Engine, manifest: Manifest, golden: GoldenRows, pause: Callable[[], None]
) -> float:
    if not golden.rows:
        raise ArtifactError(f"{GOLDEN} has no rows, so the model cannot be proven.")
    report = manifest.parity
    sizes = [1, len(golden.rows)] if report.joinable else [len(golden.rows)]
    with _graph_refused() if engine.name == "onnx" else nullcontext():
        return parity.prove(
            engine, manifest.signature, golden, report.exactness, sizes, report.tolerance, pause
        )


def _graph_refused() -> AbstractContextManager[None]:
    """A graph may be a whole one, and fail when it is computed."""
    from tabserve import runtime

    return runtime.refusing(GRAPH)


def version_key(version: str) -> tuple[Any, ...]:
    """Sorts versions as semver.org does: numbers as numbers, 1.0.0-rc.1 before 1.0.0. A leading "v"
    says nothing.
    """
    release, dash, rest = version.removeprefix("v").partition("-")
    numbers = [_identifier(part, number=1) for part in release.partition("+")[0].split(".")]
    numbers += [_identifier("0", number=1)] * (8 - len(numbers))  # 1.2 is 1.2.0
    # Among pre-releases a number stands before text; in the release text ("0rc1") before a number.
    return numbers, not dash, [_identifier(part, number=-1) for part in rest.split(".")]


def _identifier(text: str, number: int) -> tuple[int, int, str]:
    return (number, int(text), "") if text.isdecimal() else (0, 0, text)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(
            Path(entry.path)
            for entry in os.scandir(folder)
            if entry.is_dir(follow_symlinks=False)
            and not entry.name.startswith(".")
            and entry.name != _OF_THE_DISK
        )
    except PermissionError as error:
        raise _closed(folder, error) from None
    except OSError:
        return []


def _closed(folder: Path, error: PermissionError) -> ArtifactError:
    return ArtifactError(
        f"Cannot look into {folder}: {error.strerror}. Let the server's user read it, or move it "
        "elsewhere."
    )
