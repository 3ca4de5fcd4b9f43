"""Loading the model of an artefact, warmed and proven on its golden rows."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from tabserve import carried, heap, libraries, parity
from tabserve.artifact import (
    GOLDEN,
    GRAPH,
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
