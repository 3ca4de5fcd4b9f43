"""Loading a model in a process of its own: what it costs there, and whatever becomes of it.

A library that crashes on a file takes that process with it and not this one.
"""

import gc
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from tabserve import loading, parity
from tabserve.artifact import Artifact
from tabserve.errors import OperatorError, UntrustedModel
from tabserve.loading import LoadedModel
from tabserve.signature import Signature
from tabserve.types import Columns, Engine

# A model that takes longer is not one to serve.
_PATIENCE_S = 600
# Rows of the batch that is timed, as many as one request usually has at most.
_BATCH_ROWS = 1000
_TIMED_CALLS = 5
_ENOUGH_S = 0.5


class Measured(BaseModel):
    """refusal: "trust", "golden rows" or "loading" where it was not loaded, and `text` why.

    difference: the largest of the golden rows. load_s: seconds until it was proven.
    row_us, batch_us: microseconds of one row, and of batch_rows in one call.
    worker_mib: what a worker that serves it takes by itself (PSS), of which model_mib came with the
    model and its libraries; forked_mib: what each worker takes beside the first where they are
    forked from one that has loaded the model. None where the system does not say, or they are not.
    """

    model_config = ConfigDict(extra="forbid")

    refusal: Literal["trust", "golden rows", "loading"] | None = None
    text: str = ""
    difference: float = 0.0
    load_s: float = 0.0
    row_us: float = 0.0
    batch_us: float = 0.0
    batch_rows: int = _BATCH_ROWS
    worker_mib: float | None = None
    model_mib: float | None = None
    forked_mib: float | None = None


def apart(artifact: Artifact, *, allow_pickle: bool, allow_code: bool) -> Measured:
    """In a process of its own. Never raises for what the model does."""
    flags = [str(int(allow_pickle)), str(int(allow_code))]
    command = [sys.executable, "-m", "tabserve.measuring", str(artifact.folder), *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603 - this very program
            command, env=environment, capture_output=True, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return Measured(refusal="loading", text=f"It was not loaded within {_PATIENCE_S} s.")
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return Measured(refusal="loading", text=f"The process that loaded it ended with {how}.")
    # The last one: a library may print as well.
    return Measured.model_validate(orjson.loads(lines[-1]))


def here(folder: Path, allow_pickle: bool, allow_code: bool) -> Measured:
    """In this process, which is there for that alone."""
    from tabserve import connection, service, web  # noqa: F401 - what a worker holds beside it
    from tabserve.web import fastapi  # noqa: F401

    before = _pss_mib()
    forked = None
    allowed: Any = {"allow_pickle": allow_pickle, "allow_code": allow_code}
    began = time.perf_counter()
    try:
        artifact = Artifact(folder)
        finish = loading.preload(artifact, **allowed)
        load_s = time.perf_counter() - began
        rows = _rows(artifact)
        one = parity.columns_of(artifact.manifest.signature, rows[:1])
        if loading.is_shared(artifact):
            forked = _forked_mib(finish, one)
        began = time.perf_counter()
        loaded = finish()
    except UntrustedModel as error:
        return Measured(refusal="trust", text=str(error))
    except OperatorError as error:
        return Measured(refusal="golden rows", text=str(error))
    except Exception as error:  # noqa: BLE001 - whatever a library raises on this file
        return Measured(refusal="loading", text=f"{type(error).__name__}: {error}")
    load_s += time.perf_counter() - began
    after = _pss_mib()
    many = (rows * (_BATCH_ROWS // len(rows) + 1))[:_BATCH_ROWS]
    batch = parity.columns_of(artifact.manifest.signature, many)
    return Measured(
        difference=loaded.difference,
        load_s=load_s,
        row_us=_least_us(loaded.engine, one),
        batch_us=_least_us(loaded.engine, batch),
        worker_mib=after,
        model_mib=None if after is None or before is None else after - before,
        forked_mib=forked,
    )


def _rows(artifact: Artifact) -> list[dict[str, Any]]:
    if artifact.manifest.parity.unproven:
        return [_made_up(artifact.manifest.signature)]
    return artifact.golden().rows


def _made_up(signature: Signature) -> dict[str, Any]:
    """A row of what the model itself says is usual, where it came without rows."""
    return {
        feature.name: feature.typical[0] if feature.typical else None
        for feature in signature.features
    }


def _least_us(engine: Engine, columns: Columns) -> float:
    """Of several calls: others use the machine too."""
    samples = []
    for _ in range(_TIMED_CALLS):
        began = time.perf_counter()
        engine.predict(columns)
        samples.append(time.perf_counter() - began)
        if sum(samples) > _ENOUGH_S:
            break
    return 1e6 * min(samples)


def _pss_mib() -> float | None:
    return _mib("Pss")


def _mib(*kinds: str) -> float | None:
    """Of this process, the sum of some lines of the kernel's."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    told = [line.split() for line in lines]
    return sum(int(words[1]) / 1024 for words in told if words[0].rstrip(":") in kinds)


def _forked_mib(finish: Callable[[], LoadedModel], row: Columns) -> float | None:
    """What a process takes by itself that is forked from this one and answers."""
    receiver, sender = os.pipe()
    gc.freeze()  # as the server does: to look for garbage writes to what is shared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses one thread
        child = os.fork()
    if child == 0:
        try:
            engine = finish().engine
            for _ in range(_TIMED_CALLS):
                engine.predict(row)
            os.write(sender, str(_mib("Private_Clean", "Private_Dirty")).encode())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as told:
        text = told.read()
    os.waitpid(child, 0)
    return None if text in ("", "None") else float(text)


if __name__ == "__main__":
    folder, *allowed = sys.argv[1:]
    print(here(Path(folder), *(flag == "1" for flag in allowed)).model_dump_json())
