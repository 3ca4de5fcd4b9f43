"""Sessions of onnxruntime, for files that were checked."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tabserve import onnxfile
from tabserve.errors import ArtifactError, TabserveError

# From 1.29 on it tells Microsoft of each process and model that it loads, which it begins to do
# when it is imported; hashing the model for that takes longer than reading it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

VERSION = str(onnxruntime.__version__)

# Of what onnxruntime says: its code, the place in its sources, and the condition there.
_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"\S*/\S+:\d+ .*(?:was false\.|[\])])( |$)")
_MOST_CHARS = 300


def session(content: bytes, name: str) -> Any:
    """name: of the file, for the sentence of the ArtifactError that this raises."""
    onnxfile.check(content, name)
    options = onnxruntime.SessionOptions()
    # One thread: the workers are the parallelism, and a team's barrier costs more than it gains.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # for one row, planning the memory takes as long as a node
    options.log_severity_level = 4  # what it prints at lower ones it raises as well
    with refusing(name):
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Raises ArtifactError, naming the file, for whatever onnxruntime raises within it."""
    try:
        yield
    except TabserveError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{name} is no graph that onnxruntime can compute: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """Without the places in its sources, which are paths."""
    text = _CODE.sub("", str(error).partition("\n")[0])
    return f"{_PLACE.sub('', text).strip().rstrip('.')[:_MOST_CHARS]}."
