"""Real processes on a free port of 127.0.0.1, in folders of their own, and none left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

ROOT = Path(__file__).parents[2]
# The machine may be busy with other things; nothing takes so long unless it hangs.
PATIENCE_S = 60.0

# Making one costs more than a request. It may be used by several threads.
_CLIENT = httpx.Client(trust_env=False, timeout=PATIENCE_S)


def poll(claim: str, look: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """What `look` gives once it is true; fails with the claim if it never is."""
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {patience_s} s: {claim}")
        time.sleep(0.02)
    return found


def environment(temporary: Path, told: Mapping[str, str]) -> dict[str, str]:
    """The tests' own without settings; `temporary` is where the process makes its run folder."""
    inherited = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("TABSERVE_", "PROMETHEUS_"))
    }
    temporary.mkdir(exist_ok=True)
    python_path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    return inherited | {"PYTHONPATH": python_path, "TMPDIR": str(temporary), **told}


class Server:
    """`tabserve serve`, run in `folder`, in a session of its own. Its log goes to `log_path`."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.folder = folder
        self.run_folders = folder / "tmp"
        self.log_path = folder / "log.jsonl"
        self._output = folder / "output"
        flags = [*arguments, *([] if "--port" in arguments else ["--port", "0"])]
        if "--log" not in arguments:
            flags += ["--log", str(self.log_path)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [python, "-m", "tabserve", "serve", *flags],
                cwd=folder,
                env=environment(self.run_folders, env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @cached_property
    def url(self) -> str:
        def address() -> str | None:
            found = re.search(r"Address +(http://\S+)", self.output)
            assert found or self.process.poll() is None, self.output
            return found[1] if found else None

        return str(poll("announces its address", address))

    def wait_until_ready(self, workers: int = 1) -> "Server":
        """Every worker has said so, and /ready says so too."""
        poll("each worker is ready", lambda: self._alive() and self.times_ready >= workers)
        poll("the process that answered meanwhile is gone", lambda: self._n_workers_is(workers))
        assert self.get("/ready").status_code == 200
        return self

    @property
    def times_ready(self) -> int:
        return self.output.count(" is ready after ")

    def _n_workers_is(self, expected: int) -> bool:
        return len(self.workers()) in (0, expected)  # none where one process does it all

    def _alive(self) -> bool:
        assert self.process.poll() is None, self.output
        return True

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, record: Any, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=record, **options)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """On a new connection, so that any worker may answer."""
        headers = {"Connection": "close"} | options.pop("headers", {})
        return _CLIENT.request(method, self.url + path, headers=headers, **options)

    def log_lines(self) -> list[dict[str, Any]]:
        if not self.log_path.exists():
            return []
        return [orjson.loads(line) for line in self.log_path.read_bytes().splitlines()]

    def workers(self) -> list[int]:
        """The processes that answer requests, where there are several."""
        return [
            pid
            for pid, parent, command in self._session()
            if parent == self.process.pid and "resource_tracker" not in command
        ]

    def processes(self) -> list[int]:
        """All that was started and has not ended, whoever its parent is by now."""
        return [pid for pid, _, _ in self._session()]

    def _session(self) -> Iterator[tuple[int, int, str]]:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                # After the name, which may hold spaces: state, parent, group, session.
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
            except OSError:  # it ended meanwhile
                continue
            if int(status[3]) == self.process.pid and status[0] != "Z":
                yield int(entry.name), int(status[1]), command

    @contextmanager
    def alone(self, worker: int) -> Iterator[None]:
        """Stop the other workers for a moment, so that this one must answer."""
        others = [pid for pid in self.workers() if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    def wait(self) -> int:
        """The exit code, once it ended by itself or by a signal."""
        return self.process.wait(PATIENCE_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def assert_nothing_is_left(self) -> None:
        poll("all processes ended", lambda: not self.processes())
        assert list(self.run_folders.glob("tabserve-*")) == []

    def kill(self) -> None:
        """By the session's own group: no other process can be in it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server in the test's own folder; it is gone when the test ends, however that is."""
    started: list[Server] = []

    def start(*arguments: str, **options: Any) -> Server:
        started.append(Server(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def own_repository(repository: Path, tmp_path: Path) -> Path:
    """A copy that the test may change, below its folder."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.fixture
def tabserve(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one command in the test's own folder to its end."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tabserve", *arguments],
            cwd=tmp_path,
            env=environment(tmp_path / "tmp", env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            start_new_session=True,
        )

    return run
