import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from aiohttp import web
from rich.console import Console

from tabserve.bench import Plan, Report, run, save_html, save_json, show
from tabserve.errors import BenchError, MissingExtra

RECORD = {"age": 3}
OPENAPI = {
    "paths": {
        "/predict": {
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/Record"},
                        }
                    }
                }
            }
        }
    },
    "components": {
        "schemas": {"Record": {"properties": {"age": {"type": "integer"}}, "examples": [RECORD]}}
    },
}

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Server:
    """Speaks the native protocol; a test may replace its /predict. It keeps what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.handler: Handler = self.predict
        self.sent: list[object] = []
        self.keys: set[str | None] = set()

    async def predict(self, _: web.Request) -> web.Response:
        return web.json_response({"prediction": 1, "model_version": "1.2.3"})

    async def answer(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("X-API-Key"))
        if request.method == "GET":
            known = {"/openapi.json": OPENAPI, "/health": {"status": "healthy"}}
            status = 200 if request.path in known else 404
            return web.json_response(known.get(request.path, {"error": "not_found"}), status=status)
        self.sent.append(await request.json())
        return await self.handler(request)


@pytest.fixture
def server() -> Iterator[Server]:
    server, loop = Server(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def report_of(
    server: Server,
    *,
    data: Path | None = None,
    key: str | None = None,
    connections: int = 4,
    rate: float | None = None,
    duration_s: float = 0.2,
    batch: int | None = None,
) -> Report:
    plan = Plan(server.url, data, key, connections, rate, duration_s, batch)
    return run(plan, Console(file=StringIO()))


def refuse(status: int, body: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    return handler


def test_a_closed_loop_counts_what_the_server_counts(server: Server) -> None:
    report = report_of(server)
    assert report.requests == report.succeeded == len(server.sent) > 0
    assert (report.errors, report.unsent, report.interrupted) == ({}, 0, False)
    assert report.model_version == "1.2.3"
    assert report.histogram is not None
    assert sum(report.histogram.counts) == report.succeeded


def test_the_record_is_the_example_of_the_server(server: Server) -> None:
    report_of(server, duration_s=0.05)
    assert all(record == RECORD for record in server.sent)


def test_a_batch_carries_the_rows_of_the_file_in_turn(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,x\n1,a\n2,b\n3,c\n")
    report = report_of(server, data=tmp_path / "rows.csv", connections=1, duration_s=0.1, batch=2)
    assert server.sent[:2] == [[{"age": 1}, {"age": 2}], [{"age": 3}, {"age": 1}]]
    assert report.rows_per_s == pytest.approx(2 * report.requests_per_s)


def test_an_open_loop_sends_the_scheduled_number(server: Server) -> None:
    report = report_of(server, rate=100, duration_s=0.3)
    assert report.requests == report.succeeded == len(server.sent) == 30


def test_requests_that_queue_behind_a_stall_have_the_wait_in_their_latency(server: Server) -> None:
    stall_s = 0.2

    async def stall_once(request: web.Request) -> web.Response:
        if len(server.sent) == 1:
            await asyncio.sleep(stall_s)
        return await server.predict(request)

    server.handler = stall_once
    report = report_of(server, connections=1, rate=100, duration_s=0.4)
    # A quarter of the requests was due in the first half of the one stall.
    assert report.latency_ms is not None
    assert report.latency_ms.max >= stall_s * 1000
    assert report.latency_ms.p90 >= stall_s * 1000 / 2


def test_requests_that_found_no_connection_are_named(server: Server) -> None:
    async def stall(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return await server.predict(request)

    server.handler = stall
    report = report_of(server, connections=1, rate=100, duration_s=0.2)
    assert (report.requests, report.unsent) == (1, 19)


@pytest.mark.parametrize(
    ("status", "body", "label"),
    [
        (429, '{"error":"rate_limited","detail":"later"}', "429 rate_limited"),
        (500, "<h1>oh</h1>", "500"),
        (502, '{"error":{"code":7}}', "502"),
        (503, '{"error":"[red]not a word"}', "503"),
        (307, "", "307"),
    ],
)
def test_errors_are_counted_by_status_and_code(
    server: Server, status: int, body: str, label: str
) -> None:
    server.handler = refuse(status, body)
    report = report_of(server, duration_s=0.1)
    assert report.errors == {label: len(server.sent)}
    assert (report.succeeded, report.latency_ms) == (0, None)


def test_a_connection_that_breaks_is_counted_as_disconnected(server: Server) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = hang_up
    assert report_of(server, duration_s=0.05).errors == {"disconnected": 4}


async def be_silent(request: web.Request) -> web.Response:
    await asyncio.sleep(5)
    return web.Response()


def test_a_silent_server_is_counted_as_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabserve.bench.client._SILENCE_S", 0.1)
    server.handler = be_silent
    assert report_of(server, duration_s=0.05).errors == {"timeout": 4}


def test_what_is_in_flight_when_patience_ends_is_unfinished(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabserve.bench.load._PATIENCE_S", 0.1)
    server.handler = be_silent
    assert report_of(server, duration_s=0.1).errors == {"unfinished": 4}


def test_the_key_is_sent_and_shown_nowhere(server: Server, tmp_path: Path) -> None:
    shown = StringIO()
    console = Console(file=shown, force_terminal=True)
    report = run(Plan(server.url, key="s3cret-key", duration_s=0.1), console)
    show(report, console)
    save_json(report, tmp_path / "r.json")
    save_html(report, tmp_path / "r.html")
    assert server.keys == {"s3cret-key"}
    stored = (tmp_path / "r.json").read_text() + (tmp_path / "r.html").read_text()
    assert "s3cret-key" not in stored + shown.getvalue() + repr(report)


def test_ctrl_c_ends_the_test_early_and_reports(server: Server) -> None:
    async def interrupt(request: web.Request) -> web.Response:
        if len(server.sent) == 20:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
        return await server.predict(request)

    server.handler = interrupt
    report = report_of(server, duration_s=60)
    assert report.interrupted
    assert report.elapsed_s < 60
    assert report.requests == report.succeeded == len(server.sent) >= 20


def test_a_terminal_gets_progress_and_a_file_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabserve.bench.terminal._PROGRESS_EVERY_S", 0.02)
    terminal, file = StringIO(), StringIO()
    plan = Plan(server.url, connections=2, duration_s=0.1)
    run(plan, Console(file=terminal, force_terminal=True, width=200))
    run(plan, Console(file=file, width=200))
    assert "answers   0 failures" in terminal.getvalue()
    assert file.getvalue() == f"{server.url}/predict: closed loop, 2 connections, 0.1 s\n"


@pytest.mark.parametrize("with_data", [False, True])
def test_an_address_where_nobody_listens_is_an_error(tmp_path: Path, with_data: bool) -> None:
    (tmp_path / "rows.json").write_text('[{"age":1}]')
    with socket.socket() as bound_and_not_listening:
        bound_and_not_listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_and_not_listening.getsockname()[1]}"
        plan = Plan(url, data=tmp_path / "rows.json" if with_data else None)
        with pytest.raises(BenchError) as refused:
            run(plan, Console(file=StringIO()))
    assert str(refused.value) == (
        f"Expected a server at {url}, got: connection refused"
        " - start it with `tabserve serve`, or check the address"
    )


def test_a_server_without_description_is_an_error(server: Server) -> None:
    plan = Plan(server.url + "/elsewhere", duration_s=0.1)
    with pytest.raises(BenchError, match="got 404 not_found - check the address and the key"):
        run(plan, Console(file=StringIO()))


def test_a_run_without_aiohttp_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "tabserve.bench.client", raising=False)
    with pytest.raises(MissingExtra, match=r"tabserve\[bench\]"):
        run(Plan("http://127.0.0.1:1"), Console(file=StringIO()))
