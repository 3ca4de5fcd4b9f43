"""A project that `tabserve new` made, where nothing is installed but what it requires."""

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tabserve import starting
from tests.documentation import blocks
from tests.end_to_end.conftest import environment
from tests.installing import environment_of

RECORD = {"distance_km": 12.5, "parcels": 2, "weight_kg": 8.0, "vehicle": "bike"}


@pytest.mark.slow
def test_a_new_project_runs_as_its_readme_says(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Any]
) -> None:
    starting.start(tmp_path, "shop")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["train"], *extras["test"]]
    python, _ = environment_of(tmp_path_factory.mktemp("clean"), needed)

    (sh, curl) = (block for block in blocks(tmp_path / "README.md") if block.language == "sh")
    assert 'pip install -e ".[train,test]"' in sh.commands()
    ways = {"pytest": ["-m", "pytest"], "python": [], "tabserve": ["-m", "tabserve"]}
    run = [line.split() for line in sh.commands() if line.startswith(("pytest", "python t", "tab"))]
    *commands, (_, _, service) = run
    for program, *arguments in commands:
        done = subprocess.run(
            [python, *ways[program], *arguments],
            cwd=tmp_path, env=environment(tmp_path / "tmp", {"PYTHONPATH": ""}),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    without_training, _ = environment_of(tmp_path_factory.mktemp("lean"), project["dependencies"])
    server = serve(service, python=without_training, env={"PYTHONPATH": ""})
    server.wait_until_ready()
    assert str(RECORD["distance_km"]) in curl.text
    assert server.post("/predict", RECORD).json()["risk"] in ("Low", "Medium", "High")
