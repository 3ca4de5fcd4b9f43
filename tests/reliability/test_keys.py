"""Keys of servers as they run: revoked everywhere, limited everywhere, and written nowhere."""

import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import orjson
import pytest

from tabserve import auth
from tests.conftest import RECORD
from tests.end_to_end.conftest import PATIENCE_S, Server, poll
from tests.reliability.conftest import customer_at_72

Serve = Callable[..., Server]
frameworks = pytest.mark.parametrize(
    "framework", ["fastapi", pytest.param("flask", marks=pytest.mark.slow)]
)


@pytest.fixture
def key(tmp_path: Path) -> str:
    return auth.add_key(tmp_path / "keys.json", "ada", "admin")


@pytest.fixture
def server(serve: Serve, repository: Path, key: str, framework: str, tmp_path: Path) -> Server:
    (tmp_path / "own_code.py").write_text(customer_at_72("raise RuntimeError"))
    flags = ["--keys", "keys.json", "--key-tries", "10/minute", "--workers", "2"]
    flags += ["--request", "own_code:Customer"]
    return serve(str(repository), "--framework", framework, *flags).wait_until_ready(2)


@pytest.fixture
def clients(server: Server) -> Iterator[list[httpx.Client]]:
    """One for each worker, whose connection stays."""
    with ExitStack() as stack:
        made = []
        for worker in server.workers():
            with server.alone(worker):
                client = httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S)
                made.append(stack.enter_context(client))
                assert client.get("/health").status_code == 200
        yield made


@frameworks
def test_a_revoked_key_is_refused_by_all_workers_within_a_second(
    server: Server, clients: list[httpx.Client], key: str
) -> None:
    def statuses() -> list[int]:
        headers = {auth.HEADER: key}
        return [client.get("/metrics", headers=headers).status_code for client in clients]

    assert statuses() == [200, 200]
    auth.revoke_key(server.folder / "keys.json", "ada")
    time.sleep(1)
    assert statuses() == [403, 403]


@frameworks
def test_wrong_keys_are_limited_over_all_workers_together(server: Server, key: str) -> None:
    def status(text: str) -> int:
        return server.post("/predict", RECORD, headers={auth.HEADER: text}).status_code

    with ThreadPoolExecutor(8) as pool:
        wrong = list(pool.map(status, [f"ts_{n}" for n in range(30)]))

    assert Counter(wrong) == {403: 10, 429: 20}
    assert status(key) == 200


def send(server: Server, request: bytes) -> None:
    """Bytes that no client library would send; whatever the answer is."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def ask_in_every_way(server: Server, key: str) -> None:
    right = {auth.HEADER: key}
    for body in (RECORD, RECORD | {key: 1}, RECORD | {"contract_type": key}, [key]):
        server.post("/predict", body, headers=right)
    server.post("/predict/batch", [RECORD, {"contract_type": key}], headers=right)
    named = right | {"X-Request-ID": key}
    assert server.post("/predict", RECORD | {"tenure_months": 72}, headers=named).status_code == 500
    wrong = key[:-1]
    for path in (f"/predict?api_key={key}", f"/{key}", f"/models/{key}/predict", "/no-such"):
        for headers in (right, {auth.HEADER: wrong}, {"Authorization": f"Bearer {key}"}):
            named = {"X-Request-ID": key, "User-Agent": key, "Referer": f"http://a/?key={key}"}
            server.post(path, RECORD, headers=headers | named)
    text = key.encode()
    for request in (
        b"GET /" + text + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-API-Key " + text + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + text + b" : 1\r\n\r\n",
        text + b" / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/" + text + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: " + text + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + text + b"\r\n",
    ):
        send(server, request)


def told_of_processes(server: Server) -> bytes:
    found = b""
    for pid in server.processes():
        for name in ("cmdline", "environ"):
            found += Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def core_limits(server: Server) -> set[int]:
    """In bytes, of each process; -1 for no limit."""
    return {resource.prlimit(pid, resource.RLIMIT_CORE)[0] for pid in server.processes()}


@frameworks
def test_a_key_stands_in_no_file_no_log_no_core_and_no_list_of_processes(
    server: Server, key: str
) -> None:
    ask_in_every_way(server, key)
    processes = told_of_processes(server)
    # Which is also what keeps the memory from a program that core_pattern may name.
    assert core_limits(server) == {1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0}

    victim = server.workers()[0]
    os.kill(victim, signal.SIGSEGV)
    poll("another worker is there", lambda: server.times_ready == 3)
    os.kill(server.workers()[0], signal.SIGABRT)
    poll("another worker is there", lambda: server.times_ready == 4)
    assert server.post("/predict", RECORD, headers={auth.HEADER: key}).status_code == 200
    assert server.stop() == 0

    assert b"tabserve" in processes
    assert "ERROR tabserve: request ts_*** failed: RuntimeError" in server.output
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert {"keys.json", "log.jsonl", "output"} <= {path.name for path in files}
    assert [path for path in files if path.name.startswith("core")] == []
    kept = {str(path): path.read_bytes() for path in files} | {"processes": processes}
    secret = key[3:-1].encode()
    assert [name for name, content in kept.items() if secret in content] == []
    assert len(server.log_lines()) > 10


@pytest.fixture(autouse=True)
def cores_are_allowed() -> Iterator[None]:
    """As where an operator wants them of other programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@frameworks
def test_log_lines_cannot_be_forged(server: Server, key: str) -> None:
    forged = '\n{"event":"forged"}\u2028\x1b[2K\x9b1A'
    quoted = "".join(f"%{byte:02X}" for byte in forged.encode())
    for path in (f"/{quoted}", f"/models/{quoted}/predict"):
        named = {"X-Request-ID": "a\tb", "User-Agent": "\x1b[2K"}
        server.get(path, headers={auth.HEADER: key} | named)
    header = forged.replace("\n", "\r\n ").encode()
    for line in (b"X-Request-ID: a", b"User-Agent: b", b"X-API-Key: c", b""):
        send(server, b"GET / HTTP/1.1\r\nHost: a\r\n" + line + header + b"\r\n\r\n")
        send(server, header + line + b" / HTTP/1.1\r\n\r\n")
    assert server.stop() == 0

    text = server.log_path.read_bytes().decode()
    lines = text.splitlines()
    assert len(lines) > 1
    assert {orjson.loads(line)["event"] for line in lines} <= {"error", "request"}
    assert all(line.isprintable() for line in [*lines, *server.output.splitlines()])
    assert not any(line.startswith('{"event":"forged') for line in server.output.splitlines())
