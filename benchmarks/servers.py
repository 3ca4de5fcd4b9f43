"""Starts the servers that are compared, each as its own process on a free port of 127.0.0.1."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHURN_REQUEST = ("--request", "examples.churn.request:ChurnRequest")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    arguments: list[str],
    port: int,
    *,
    python: str | Path = sys.executable,
    stderr: Any = subprocess.PIPE,
    **environment: str,
) -> Iterator["subprocess.Popen[bytes]"]:
    """The process of a server; PORT in the arguments is replaced."""
    with subprocess.Popen(
        [str(python), "-m", *(str(port) if word == "PORT" else word for word in arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def running(arguments: list[str], probe: str, **environment: str) -> Iterator[str]:
    """The server's address, once `probe` answers 200."""
    port = free_port()
    with started(arguments, port, **environment) as process:
        wait(f"http://127.0.0.1:{port}{probe}", process)
        yield f"http://127.0.0.1:{port}"


def wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"The server ended: {process.stderr.read().decode()}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer.")


def uvicorn(app: str) -> list[str]:
    return [
        "uvicorn", app, "--port", "PORT", "--loop", "uvloop", "--http", "httptools",
        "--no-access-log", "--log-level", "error",
    ]  # fmt: skip


def tabserve(path: str, *options: str) -> list[str]:
    return ["tabserve", "serve", path, "--port", "PORT", *options]
