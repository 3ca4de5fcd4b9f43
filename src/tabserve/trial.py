"""Loading a model in a process of its own: what it costs there, and whatever becomes of it.

A library that crashes on a file takes that process with it and not this one.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from tabserve import parity, repository
from tabserve.artifact import Artifact
from tabserve.errors import OperatorError, UntrustedModel

# A model that takes longer is not one to serve.
_PATIENCE_S = 600
# Rows of the batch that is timed, as many as one request usually has at most.
_BATCH_ROWS = 1000
_TIMED_CALLS = 5
_ENOUGH_S = 0.5


class Trial(BaseModel):
    """refusal: "trust", "golden rows" or "loading" where it was not loaded, and `text` why.

    difference: the largest of the golden rows. load_s: seconds until it was proven.
    row_us, batch_us: microseconds of one row, and of batch_rows in one call.
    worker_mib: what a worker that serves it takes by itself (PSS), of which model_mib came with the
    model and its libraries; None where the system does not say.
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


def run(artifact: Artifact, *, allow_pickle: bool, allow_code: bool) -> Trial:
    """Never raises for what the model does."""
    flags = [str(int(allow_pickle)), str(int(allow_code))]
    command = [sys.executable, "-m", "tabserve.trial", str(artifact.folder), *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603 - this very program
            command, env=environment, capture_output=True, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return Trial(refusal="loading", text=f"It was not loaded within {_PATIENCE_S} s.")
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return Trial(refusal="loading", text=f"The process that loaded it ended with {how}.")
    # The last one: a library may print as well.
    return Trial.model_validate(orjson.loads(lines[-1]))


def measured(folder: Path, allow_pickle: bool, allow_code: bool) -> Trial:
    """What the process does."""
    from tabserve import connection, service, web  # noqa: F401 - what a worker holds beside it
    from tabserve.web import fastapi  # noqa: F401

    before = _pss_mib()
    began = time.perf_counter()
    try:
        artifact = Artifact(folder)
        loaded = repository.load(artifact, allow_pickle=allow_pickle, allow_code=allow_code)
    except UntrustedModel as error:
        return Trial(refusal="trust", text=str(error))
    except OperatorError as error:
        return Trial(refusal="golden rows", text=str(error))
    except Exception as error:  # noqa: BLE001 - whatever a library raises on this file
        return Trial(refusal="loading", text=f"{type(error).__name__}: {error}")
    load_s = time.perf_counter() - began
    after = _pss_mib()
    if artifact.manifest.parity.unproven:
        return Trial(load_s=load_s, worker_mib=after)
    rows = artifact.golden().rows
    many = (rows * (_BATCH_ROWS // len(rows) + 1))[:_BATCH_ROWS]
    signature = artifact.manifest.signature
    return Trial(
        difference=loaded.difference,
        load_s=load_s,
        row_us=_least_us(loaded.engine, parity.columns_of(signature, rows[:1])),
        batch_us=_least_us(loaded.engine, parity.columns_of(signature, many)),
        worker_mib=after,
        model_mib=None if after is None or before is None else after - before,
    )


def _least_us(engine: Any, columns: Any) -> float:
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
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    folder, *allowed = sys.argv[1:]
    print(measured(Path(folder), *(flag == "1" for flag in allowed)).model_dump_json())
