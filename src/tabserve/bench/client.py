"""Keep-alive connections to one server, and what became of a request.

Import it late: it needs the extra `bench`.
"""

import asyncio
import os
from typing import Any

import orjson

from tabserve.bench.plan import Plan
from tabserve.bench.tally import Answer
from tabserve.errors import BenchError, MissingExtra

try:
    import aiohttp
except ModuleNotFoundError as missing:
    raise MissingExtra("aiohttp", "bench") from missing

_CONNECT_S = 5.0
_SILENCE_S = 30.0  # longer than a server's own deadline, whose 504 says more than our timeout


class Client:
    """Sends the requests of a plan. Made inside a running event loop."""

    def __init__(self, plan: Plan) -> None:
        self._n_connections = plan.connections
        self._base_url = plan.url
        self._predict_url = plan.url + plan.predict_path
        headers = {"Content-Type": "application/json"}
        if plan.key is not None:
            headers["X-API-Key"] = plan.key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=plan.connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=headers,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
            ),
        )

    async def aclose(self) -> None:
        await self._session.close()

    async def open_connections(self) -> None:
        """Open them all, so that the first requests do not pay for it.

        Raises BenchError if the server does not answer.
        """
        answers = await asyncio.gather(
            *(self._send("GET", self._base_url + "/health") for _ in range(self._n_connections))
        )
        if all(answer.status is None for answer in answers):
            raise self._unreachable(answers[0])

    async def openapi(self) -> Any:
        """The server's openapi.json. Raises BenchError if it cannot be had."""
        url = self._base_url + "/openapi.json"
        answer = await self._send("GET", url)
        if answer.status is None:
            raise self._unreachable(answer)
        if answer.failure is None:
            try:
                return orjson.loads(answer.body)
            except orjson.JSONDecodeError:
                pass
        raise BenchError(
            f"Expected the description of the model's records at {url},"
            f" got {answer.failure or 'no JSON'}"
            " - check the address and the key, or give records as NDJSON with --data FILE"
        )

    async def predict(self, body: bytes) -> Answer:
        """Send one request and read its answer to the end."""
        return await self._send("POST", self._predict_url, body)

    def _unreachable(self, answer: Answer) -> BenchError:
        return BenchError(
            f"Expected a server at {self._base_url}, got: {answer.failure}"
            " - start it with `tabserve serve`, or check the address"
        )

    async def _send(self, method: str, url: str, body: bytes | None = None) -> Answer:
        try:
            # A redirect is not followed: it could lead the key to another host.
            response = await self._session.request(method, url, data=body, allow_redirects=False)
            content = await response.read()
        except TimeoutError:
            return Answer("timeout", None, b"")
        except (aiohttp.ClientError, ConnectionError) as error:
            return Answer(_transport_failure(error), None, b"")
        if response.status == 200:
            return Answer(None, 200, content)
        return Answer(_status_and_code(response.status, content), response.status, content)


def _transport_failure(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failure"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "unknown host"
    if isinstance(error, aiohttp.ClientConnectorError):
        errno = error.os_error.errno  # "connection refused", "too many open files"
        return "no connection" if errno is None else os.strerror(errno).lower()
    if isinstance(error, aiohttp.ClientResponseError):
        return "not HTTP"
    return "disconnected"


def _status_and_code(status: int, body: bytes) -> str:
    """ "429 rate_limited"; the status alone where the body is not the native error body."""
    try:
        code = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return str(status)
    # Only a word: the labels are counted and shown, and this is text of somebody's server.
    return f"{status} {code}" if isinstance(code, str) and code.isidentifier() else str(status)
