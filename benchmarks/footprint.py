"""Start, memory and size of a server of a lowered model: `python -m benchmarks.footprint`.

What is served is an installation of its own, made by pip without extras, which needs a package
index; with --no-install it is the one that runs this. Start is from the process to the first 200
of /predict; beside it that of the bare ASGI app. Memory (Linux) is read after some answers: RSS
counts what processes share in each of them, PSS in equal shares.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import servers
from benchmarks.memory import Memory, memory, tree
from benchmarks.tables import figure, show
from benchmarks.timing import in_turns
from examples.churn import data, train
from tabserve import repository

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
_REQUESTS = 200  # before memory is read
_PATIENCE_S = 300.0
_POLL_S = 0.005
# No part of the installation, though a virtual environment begins with it.
_PIPS_OWN = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")

Lines = list[list[str]]  # what, measured, at most, aim


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a packed one; the churn example without it")
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--install", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = arguments.model or train.train_and_pack(data.generate(), folder, "1", "generated")
        python, environment, installed = Path(sys.executable), {}, []
        if arguments.install:
            python, installed = _installed(folder / "venv")
            environment = {"PYTHONPATH": ""}  # nor what it would find instead
        row = repository.find(model).golden().rows[0]
        of = partial(Server, python, environment, json.dumps(row).encode(), folder / "log")
        ours = of(lambda workers: servers.tabserve(str(model), "--workers", str(workers)))
        bare = of(lambda _: servers.uvicorn("benchmarks.bare_app:app"))
        lines = [*_start(ours, bare, arguments.starts), *_memory(ours), *installed]
    show(["footprint", "measured", "at most", "aim"], lines)


@dataclass
class Server:
    """A server that is started again and again.

    command: the words that start so many workers. body: of a prediction. log: what it says.
    """

    python: Path
    environment: dict[str, str]
    body: bytes
    log: Path
    command: Callable[[int], list[str]]
    url: str = ""

    @contextmanager
    def running(self, workers: int = 1) -> Iterator[int]:
        """The process, by its id, once it has answered a prediction."""
        port = servers.free_port()
        self.url = f"http://127.0.0.1:{port}/predict"
        with (
            self.log.open("wb") as log,
            servers.started(
                self.command(workers), port, python=self.python, stderr=log, **self.environment
            ) as process,
        ):
            self._wait_until(self.answers)
            yield process.pid

    def start_s(self) -> float:
        began = time.perf_counter()
        with self.running():
            return time.perf_counter() - began

    def wait_for_workers(self, n_workers: int) -> None:
        """Any of them may have given the first answer."""
        self._wait_until(lambda: self.log.read_text().count(" is ready after ") == n_workers)

    def answers(self) -> bool:
        request = urllib.request.Request(self.url, self.body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:  # nobody listens, or the model is not ready
            return False
        return True

    def _wait_until(self, happened: Callable[[], bool]) -> None:
        ends = time.monotonic() + _PATIENCE_S
        while not happened():
            if time.monotonic() > ends:
                raise SystemExit(f"The server does not answer: {self.log.read_text()}")
            time.sleep(_POLL_S)


def _start(ours: Server, bare: Server, starts: int) -> Lines:
    found = in_turns({"ours": ours.start_s, "bare": bare.start_s}, starts)
    return [
        [what, f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})", *bounds]
        for what, times, bounds in (
            ("start to the first answer, s", found["ours"], ("0.6", "0.35")),
            ("  of the bare ASGI app", found["bare"], ("", "")),
        )
    ]


def _memory(server: Server) -> Lines:
    """Workers share pages with what supervises them, so only sums of all of them say something."""
    (alone, *_), several = (processes(server, workers) for workers in (1, 2))
    total = sum(process.pss for process in several)
    return [
        ["memory of one worker, RSS, MiB", figure(alone.rss), "130", "90"],
        ["  PSS", figure(alone.pss), "", ""],
        ["memory of two workers and what supervises them, PSS, MiB", figure(total), "", ""],
        ["  more than of one worker", figure(total - alone.pss), "40", ""],
    ]


def processes(server: Server, workers: int) -> list[Memory]:
    """The server's own process, then those that it started."""
    with server.running(workers) as process:
        server.wait_for_workers(workers)
        for _ in range(_REQUESTS):
            server.answers()
        return [memory(each) for each in tree(process)]


def _installed(folder: Path) -> tuple[Path, Lines]:
    """The interpreter of a new environment that holds TabServe alone, and what that takes."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, str(ROOT)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    size = sum(_bytes(path) for path in packages.iterdir() if not path.name.startswith(_PIPS_OWN))
    return python, [["installation without extras, MiB", figure(size / MIB), "250", ""]]


def _bytes(path: Path) -> int:
    """On disk, as du says it."""
    inside = path.rglob("*") if path.is_dir() else []
    return sum(512 * one.lstat().st_blocks for one in (path, *inside))


if __name__ == "__main__":
    main()
