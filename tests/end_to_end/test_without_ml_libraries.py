"""A lowered model is served where nothing is installed but what `pip install tabserve` brings."""

import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import orjson
import pytest
from packaging.requirements import Requirement

import tabserve
from tabserve.repository import find

ML_LIBRARIES = ["sklearn", "scipy", "pandas", "joblib", "skops", "onnx", "xgboost", "lightgbm"]
MOST_MIB = 250


def base_install() -> Iterator[Distribution]:
    """TabServe and what it requires without extras, and what that requires."""
    seen: set[tuple[str, str]] = set()
    wanted = [("tabserve", "")]
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if not extra:
            yield distribution(name)
        for line in distribution(name).requires or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": extra}):
                wanted += [(required.name, one) for one in ("", *required.extras)]


def link(installed: Distribution, site_packages: Path) -> int:
    """Into another environment, as it is installed in this one; gives back its bytes."""
    files = [file for file in installed.files or () if ".." not in file.parts]
    for top in {file.parts[0] for file in files}:
        target = Path(str(installed.locate_file(top)))
        if top != "__pycache__" and not (site_packages / top).exists():
            (site_packages / top).symlink_to(target)
    return sum(path.stat().st_size for file in files if (path := Path(file.locate())).exists())


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    size = sum(link(one, site_packages) for one in base_install())
    if not (site_packages / "tabserve").exists():  # installed as a link to its source
        (site_packages / "tabserve").symlink_to(Path(tabserve.__file__).parent)
    print(f"The base install takes {size / 2**20:.0f} MiB.")
    assert 10 < size / 2**20 < MOST_MIB
    return str(folder / "bin/python")


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
