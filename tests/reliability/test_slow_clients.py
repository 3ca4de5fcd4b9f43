"""Clients that hold connections and send next to nothing, and the limits that they meet."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.slow_clients import Figures, measured
from benchmarks.traffic import run
from tests.conftest import RECORD
from tests.end_to_end.conftest import PATIENCE_S, Server, poll

Serve = Callable[..., Server]


@pytest.mark.slow
def test_500_slow_clients_keep_nobody_waiting(serve: Serve, repository: Path) -> None:
    """The machine has others to serve as well: of three tries the best one counts, and the bound is
    twice that of `python -m benchmarks.slow_clients`.
    """
    server = serve(str(repository)).wait_until_ready()

    def tried() -> Figures:
        return run(measured(server.url, RECORD, n_clients=500, n_rounds=3, round_s=4))

    tries = [tried()]
    while len(tries) < 3 and tries[-1].ratio >= 4:
        tries.append(tried())

    assert min(found.ratio for found in tries) < 4, tries
    for found in tries:
        assert set(found.statuses) == {200}
        assert set(found.told) <= {408}


def sent(server: Server, data: bytes) -> bytes:
    """What comes back until the connection ends."""
    address = urlsplit(server.url)
    with closing(socket.create_connection((address.hostname, address.port), PATIENCE_S)) as client:
        client.sendall(data)
        found = b""
        while part := client.recv(4096):
            found += part
        return found


def test_limits_are_as_they_are_set(serve: Serve, repository: Path) -> None:
    flags = ["--receive-timeout", "0.5", "--idle-timeout", "0.5", "--max-target", "100"]
    flags += ["--max-headers", "10", "--max-header-bytes", "1024", "--allowed-hosts", "a.example"]
    server = serve(str(repository), *flags).wait_until_ready()

    def status(data: bytes) -> int:
        return int(sent(server, data).split()[1])

    end = b"Host: a.example\r\nConnection: close\r\n"
    assert status(b"GET /health HTTP/1.1\r\n%s\r\n" % end) == 200
    assert status(b"GET /metadata HTTP/1.1\r\n%s\r\n" % end) == 200
    assert status(b"GET /metadata HTTP/1.1\r\n%s\r\n" % end.replace(b"a.", b"b.")) == 421
    assert status(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n") == 400
    for n_bytes, expected in ((100, 200), (101, 414)):
        target = b"/health?".ljust(n_bytes, b"a")
        assert status(b"GET %s HTTP/1.1\r\n%s\r\n" % (target, end)) == expected
    for n_headers, expected in ((10, 200), (11, 431)):
        more = b"x: 1\r\n" * (n_headers - 2)
        assert status(b"GET /health HTTP/1.1\r\n%s%s\r\n" % (end, more)) == expected
    assert status(b"GET /health HTTP/1.1\r\n%sx: %s\r\n\r\n" % (end, b"a" * 1024)) == 431
    assert status(b"POST /predict HTTP/1.1\r\nHo") == 408
    assert status(b"POST /predict HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\n{") == 408
    assert sent(server, b"GET /health HTTP/1.1\r\nHost: a.example\r\n\r\n").count(b"HTTP/1.1") == 1
    assert sent(server, b"") == b""
    assert server.stop() == 0


def test_bodies_that_come_slowly_take_no_more_memory_than_is_set(
    serve: Serve, repository: Path
) -> None:
    server = serve(str(repository), "--max-body", "1000", "--max-bodies", "1000")
    server.wait_until_ready()

    def status(n_bytes: int) -> int:
        return server.request("POST", "/predict", content=b" " * n_bytes).status_code

    address = urlsplit(server.url)
    with closing(socket.create_connection((address.hostname, address.port), PATIENCE_S)) as slow:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        slow.sendall(head + b" " * 600)
        poll("there is no room", lambda: status(401) == 503)
        assert status(400) == 422
    poll("there is room again", lambda: status(401) == 422)
