"""Debian's redis-server, on a free port and in a folder of its own."""

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import redis

from tests.end_to_end.conftest import poll

REDIS_SERVER = shutil.which("redis-server")


class RedisServer:
    """Listens from `start` to `kill`, each time on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        assert REDIS_SERVER is not None
        self._folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                REDIS_SERVER, "--port", str(self.port), "--bind", "127.0.0.1",
                "--dir", str(self._folder), "--save", "", "--appendonly", "no",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        poll("redis-server answers", self._is_there)
        return self

    def pause(self) -> None:
        """Nothing is answered, and no connection is closed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, *command: str) -> object:
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _is_there(self) -> bool:
        try:
            return self.ask("PING") is True
        except redis.ConnectionError:
            return False
