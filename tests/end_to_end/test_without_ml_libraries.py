"""A lowered model is served where nothing is installed but what `pip install tabserve` brings."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tabserve.repository import find
from tests.installing import environment_of

ML_LIBRARIES = ["sklearn", "scipy", "pandas", "joblib", "skops", "onnx", "xgboost", "lightgbm"]
MOST_MIB = 250


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    python, size = environment_of(tmp_path_factory.mktemp("bare"), ["tabserve"])
    print(f"The base install takes {size / 2**20:.0f} MiB.")
    assert 10 < size / 2**20 < MOST_MIB
    return python


def test_the_base_install_has_no_ml_library(bare_python: str) -> None:
    code = f"import importlib.util as u; print([n for n in {ML_LIBRARIES} if u.find_spec(n)])"
    answer = subprocess.run([bare_python, "-c", code], capture_output=True, check=True, env={})
    assert answer.stdout == b"[]\n"
    assert sys.executable != bare_python


def test_a_lowered_model_is_served_without_any(
    serve: Callable[..., Any], repository: Path, bare_python: str
) -> None:
    artifact = find(repository)
    assert artifact.manifest.engine == "onnx"
    server = serve(str(repository), python=bare_python, env={"PYTHONPATH": ""})
    server.wait_until_ready()

    golden = artifact.golden()
    answers = [server.post("/predict", row) for row in golden.rows[:5]]
    assert {answer.status_code for answer in answers} == {200}
    (numbers,) = golden.outputs.values()
    name = artifact.manifest.output.name
    declared = artifact.manifest.output.round
    assert [orjson.loads(answer.content)[name] for answer in answers] == [
        round(number, declared) for number in numbers[:5]
    ]


def test_what_packs_a_model_of_scikit_learn_needs_no_other_extra() -> None:
    absent = ["xgboost", "lightgbm", "catboost", "skl2onnx", "yaml", "pyarrow", "aiohttp"]
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:])); "
        "from tabserve import checking, choosing, packing, sources, unpacked"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *absent], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
