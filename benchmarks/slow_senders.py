"""Clients that send a byte now and then, in a process of their own: `python -m
benchmarks.slow_senders URL N`.

Says "ready" once all are connected; when its input ends, how often they were told which status.
Imports and does next to nothing, since it has the same cores as what is measured.
"""

import asyncio
import itertools
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from benchmarks.traffic import run

# What each of them sends at once, and of the rest a byte now and then.
BYTE_S = 2.5
HALVES = (
    (b"", b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 100),
    (b"POST /predict HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 100\r\n" + b"x" * 100),
    (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", b'"x":' * 300),
)


@asynccontextmanager
async def slow_senders(url: str, n_clients: int) -> AsyncIterator[Counter[int]]:
    """While they are connected; afterwards it holds what they were told, by status."""
    told = Counter[int]()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.slow_senders", url, str(n_clients),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield told
    finally:
        said, _ = await process.communicate(b"")
        told.update({int(status): n for status, n in json.loads(said).items()})


class _Senders:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = str(parts.hostname), int(parts.port or 80)
        self.told: Counter[int] = Counter()  # 0 without a word
        self.is_ending = False
        self._opening: set[asyncio.Task[None]] = set()

    def open_another(self, half: bytes, rest: bytes) -> None:
        opening = asyncio.ensure_future(self.open(half, rest))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def open(self, half: bytes, rest: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: _Sender(self, half, rest), *self._address)


class _Sender(asyncio.Protocol):
    """Opens another connection in the place of one that is given up."""

    def __init__(self, senders: _Senders, half: bytes, rest: bytes) -> None:
        self._senders, self._half, self._rest = senders, half, rest
        self._n_sent = 0
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._half)
        self._send_byte()

    def _send_byte(self) -> None:
        self._transport.write(self._rest[self._n_sent : self._n_sent + 1])
        self._n_sent += 1
        self._timer = asyncio.get_running_loop().call_later(BYTE_S, self._send_byte)

    def data_received(self, data: bytes) -> None:
        self._status = int(data.split(maxsplit=2)[1])
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if not self._senders.is_ending:
            self._senders.told[self._status] += 1
            self._senders.open_another(self._half, self._rest)


async def _main(url: str, n_clients: int) -> None:
    senders = _Senders(url)
    for _, halves in zip(range(n_clients), itertools.cycle(HALVES)):
        await senders.open(*halves)
        await asyncio.sleep(BYTE_S / n_clients)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    senders.is_ending = True
    print(json.dumps(senders.told))


if __name__ == "__main__":
    run(_main(sys.argv[1], int(sys.argv[2])))
