"""500 clients that send a byte now and then: `python -m benchmarks.slow_clients`.

Prints the latency of others, with them and without them, in turns.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from sklearn.tree import DecisionTreeRegressor

import tabserve
from benchmarks import servers
from benchmarks.tables import show
from benchmarks.traffic import Answer, Client, run

# What each of them sends at once, and of the rest a byte now and then.
_BYTE_S = 2.5
HALVES = (
    (b"", b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 100),
    (b"POST /predict HTTP/1.1\r\nHost: x\r\n", b"Content-Length: 100\r\n" + b"x" * 100),
    (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", b'"x":' * 300),
)
RATE = 200.0


@dataclass(frozen=True)
class Figures:
    """p99_s: of others, in each round without and with the slow ones. statuses: of all of others'
    requests. told: the slow ones, by status; 0 without a word.
    """

    p99_s: list[tuple[float, float]]
    statuses: Counter[int | None]
    told: Counter[int]

    @property
    def ratio(self) -> float:
        return statistics.median(slow / normal for normal, slow in self.p99_s)


class _Slow:
    """Connections that are opened anew once they are given up."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = str(parts.hostname), int(parts.port or 80)
        self.n_connected = 0  # with those that were given up
        self.told: Counter[int] = Counter()

    async def send(self, half: bytes, rest: bytes, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            reader, writer = await asyncio.open_connection(*self._address)
            self.n_connected += 1
            try:
                await self._trickle(reader, writer, half, rest)
            finally:
                writer.transport.abort()

    async def _trickle(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, half: bytes, rest: bytes
    ) -> None:
        writer.write(half)
        for byte in rest:
            writer.write(bytes([byte]))
            with suppress(TimeoutError, OSError):
                answer = await asyncio.wait_for(reader.read(4096), _BYTE_S)
                self.told[int(answer.split()[1]) if answer else 0] += 1
                return


@asynccontextmanager
async def slow_clients(url: str, n_clients: int) -> AsyncIterator[_Slow]:
    slow, halves = _Slow(url), itertools.cycle(HALVES)
    # Not all at once: what that costs this process, others would seem to wait for.
    tasks = [
        asyncio.ensure_future(slow.send(*next(halves), after_s=_BYTE_S * i / n_clients))
        for i in range(n_clients)
    ]
    while slow.n_connected < n_clients:
        await asyncio.sleep(0.05)
    yield slow
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.1)  # until their connections have ended


async def measured(
    url: str, record: Any, *, n_clients: int, n_rounds: int, round_s: float
) -> Figures:
    client, statuses, told = Client(url), Counter[int | None](), Counter[int]()

    async def p99_s() -> float:
        answers = await client.steadily("/predict", record, RATE, round_s)
        statuses.update(answer.status for answer in answers)
        return _p99_s(answers)

    await p99_s()  # it has learnt nothing yet
    rounds = []
    for _ in range(n_rounds):
        normal = await p99_s()
        async with slow_clients(url, n_clients) as slow:
            rounds.append((normal, await p99_s()))
        told += slow.told
    await client.close()
    return Figures(rounds, statuses, told)


def _p99_s(answers: list[Answer]) -> float:
    return sorted(answer.s for answer in answers)[int(0.99 * len(answers))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = pd.DataFrame({"x": [0.5, 1.5, 2.5]})
        model = DecisionTreeRegressor().fit(rows, rows["x"])
        path = tabserve.pack(model, Path(folder), name="tree", version="1", data=rows)
        port = servers.free_port()
        with servers.started(servers.tabserve(str(path), "--log", "off"), port) as process:
            url = f"http://127.0.0.1:{port}"
            servers.wait(f"{url}/ready", process)
            found = run(
                measured(
                    url, {"x": 1.5}, n_clients=arguments.clients, n_rounds=arguments.rounds,
                    round_s=arguments.seconds,
                )
            )  # fmt: skip
    shown = [
        (f"round {i}", f"{1000 * normal:.2f}", f"{1000 * slow:.2f}", f"{slow / normal:.2f}")
        for i, (normal, slow) in enumerate(found.p99_s, 1)
    ]
    shown.append(("median", "", "", f"{found.ratio:.2f}"))
    show(["p99 of others, ms", "alone", f"with {arguments.clients} slow ones", "ratio"], shown)
    print("Slow clients were told:", dict(found.told), "- others:", dict(found.statuses))


if __name__ == "__main__":
    main()
