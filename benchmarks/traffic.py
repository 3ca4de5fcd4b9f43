"""Requests over many connections, on a fixed schedule or one after the other."""

import asyncio
import gc
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
import uvloop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """On the loop that costs least: the client has the same cores as the server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@dataclass(frozen=True)
class Answer:
    """status: None where none came. sent_at: on the monotonic clock. s: until the whole answer."""

    status: int | None
    sent_at: float
    s: float
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return orjson.loads(self.body)


class Client:
    """Opens a connection where all that it has are in use, and keeps them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, content: object, **headers: str) -> Answer:
        body = orjson.dumps(content)
        named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        return await self._ask("\r\n".join([*lines, *named, "", ""]).encode() + body)

    async def get(self, path: str) -> Answer:
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())

    async def steadily(
        self, path: str, content: object, rate: float, duration_s: float, **headers: str
    ) -> list[Answer]:
        """So many requests a second, whatever becomes of them (an open loop)."""
        began, tasks = time.monotonic(), []
        with _no_garbage_collected():
            for i in range(round(rate * duration_s)):
                await asyncio.sleep(max(0.0, began + i / rate - time.monotonic()))
                tasks.append(asyncio.ensure_future(self.post(path, content, **headers)))
            return await asyncio.gather(*tasks)

    async def close(self) -> None:
        for _, writer in self._idle:
            await _end(writer)

    async def _ask(self, request: bytes) -> Answer:
        sent_at = time.monotonic()
        try:
            reader, writer = await self._connection()
        except OSError:
            return Answer(None, sent_at, time.monotonic() - sent_at, {})
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head[:-4].split("\r\n")
            named = (line.partition(":")[::2] for line in lines)
            headers = {name.lower(): value.strip() for name, value in named}
            body = await reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError):
            await _end(writer)
            return Answer(None, sent_at, time.monotonic() - sent_at, {})
        if headers.get("connection") == "close":
            await _end(writer)
        else:
            self._idle.append((reader, writer))
        return Answer(int(line.split()[1]), sent_at, time.monotonic() - sent_at, headers, body)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the server closes those that are idle for long
                return reader, writer
            await _end(writer)
        return await asyncio.open_connection(self._host, self._port)


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """With pandas imported a full collection takes 100 ms, which the server would seem to take."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
