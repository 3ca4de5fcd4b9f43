"""Sessions of onnxruntime, for files that were checked."""

from typing import Any

import onnxruntime

from tabserve import onnxfile
from tabserve.errors import ArtifactError

VERSION = str(onnxruntime.__version__)


def session(content: bytes, name: str) -> Any:
    """name: of the file, for the sentence of the ArtifactError that this raises."""
    onnxfile.check(content, name)
    options = onnxruntime.SessionOptions()
    # One thread: the workers are the parallelism, and a team's barrier costs more than it gains.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # for one row, planning the memory takes as long as a node
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"{name} is no graph that onnxruntime can compute: {error}") from error
