"""Latencies around the moments at which one version takes the place of another."""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

# A latency is counted for what happened around it.
Sample = tuple[float, float, int]  # when it ended (seconds since 1970), how long it took, status


class Client(asyncio.Protocol):
    """One connection that sends the next request as soon as it has the answer."""

    def __init__(self, request: bytes, samples: list[Sample]) -> None:
        self._request = request
        self._samples = samples
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._samples.append((now, now - self._sent, int(data[9:12])))
        self._send()

    def _send(self) -> None:
        self._sent = time.time()
        self._transport.write(self._request)


class Clients:
    """As many connections, in a process of their own, asking from `with` to its end."""

    def __init__(self, url: str, body: bytes, connections: int) -> None:
        self._words = [url, body.decode(), str(connections)]
        self.samples: list[Sample] = []

    def __enter__(self) -> "Clients":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.swaps", *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"asking\n"
        return self

    def __exit__(self, *_: object) -> None:
        told, _ = self._process.communicate(b"end\n")
        self.samples = json.loads(told)


def main() -> None:
    """The process of Clients: until its input ends; then it tells its samples."""
    url, body, connections = sys.argv[1:]
    asked = urlsplit(url)
    head = (
        f"POST {asked.path} HTTP/1.1\r\nHost: {asked.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    samples: list[Sample] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(int(connections)):
            await loop.create_connection(
                lambda: Client((head + body).encode(), samples), asked.hostname, asked.port
            )
        print("asking", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)

    uvloop.run(run())
    # Buffered whatever PYTHONUNBUFFERED says: an unbuffered stream may write a part in silence.
    with open(sys.stdout.fileno(), "w", closefd=False) as told:
        json.dump(samples, told)


_LOADING = re.compile(r"(\S+) INFO tabserve: \S+ \S+ is being loaded")
_LIVE = re.compile(r"(\S+) INFO tabserve: \S+ \S+ is live")


def loads(log: Path) -> list[tuple[float, float]]:
    """When each began and ended, by the server's own log."""
    text = log.read_text()
    began, ended = (
        [datetime.fromisoformat(at).timestamp() for at in pattern.findall(text)]
        for pattern in (_LOADING, _LIVE)
    )
    return list(zip(began, ended, strict=False))


def medians_ms(
    samples: list[Sample], loads: list[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Before each load, for a second, and during it."""
    before, during = [], []
    for began, ended in loads:
        quiet = [took for at, took, _ in samples if began - 1 < at <= began]
        loaded = [took for at, took, _ in samples if began < at <= ended]
        if quiet and loaded:
            before.append(1000 * statistics.median(quiet))
            during.append(1000 * statistics.median(loaded))
    return before, during


if __name__ == "__main__":
    main()
