"""Rate limits in a Redis that runs: exact, and what happens while it is away."""

import asyncio
import importlib
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from tabserve import Service, redis_limits
from tabserve.errors import InvalidSettings, MissingExtra, ModelNotReady
from tabserve.exchange import Turn
from tabserve.redis_limits import RedisLimiter
from tabserve.settings import Rate
from tabserve.types import Request, Response
from tests.end_to_end.conftest import poll
from tests.redis_server import REDIS_SERVER, RedisServer
from tests.serving import BODY, FRAMEWORKS, PATIENCE_S, Client, client_of, error, settings

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not on PATH")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def store(running: RedisServer) -> RedisServer:
    running.ask("FLUSHALL")
    return running


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test may stop."""
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


class Away:
    """Notes what it is told of the store."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def __call__(self, is_away: bool) -> None:
        self.told.append(is_away)


Make = Callable[..., RedisLimiter]


@pytest.fixture
def limiter_at() -> Iterator[Make]:
    made: list[RedisLimiter] = []

    def make(
        store: RedisServer, rate: Rate, is_open: bool = True, on_away: Away | None = None
    ) -> RedisLimiter:
        on_away = on_away or Away()
        made.append(RedisLimiter(rate, store.url, is_open=is_open, on_away=on_away))
        return made[-1]

    yield make
    for limiter in made:
        limiter.close()


def waited(found: float | Future[float]) -> float:
    return found.result(PATIENCE_S) if isinstance(found, Future) else found


def test_just_the_rate_is_admitted_and_then_the_time_to_wait_is_told(
    store: RedisServer, limiter_at: Make
) -> None:
    limiter = limiter_at(store, Rate(3, 60))

    waits = [waited(limiter.admit("a")) for _ in range(5)]

    assert waits[:3] == [0.0] * 3
    assert all(0 < wait_s <= 60 for wait_s in waits[3:])
    assert waited(limiter.admit("b")) == 0.0


def test_several_limiters_admit_just_the_rate_however_many_ask(
    store: RedisServer, limiter_at: Make
) -> None:
    limiters = cycle([limiter_at(store, Rate(100, 60)) for _ in range(4)])

    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda _: next(limiters).admit("a"), range(600)))

    assert Counter(waited(found) > 0 for found in asked) == {False: 100, True: 500}


def test_rows_are_counted_together_or_not_at_all(store: RedisServer, limiter_at: Make) -> None:
    limiter = limiter_at(store, Rate(100, 60))

    waits = [waited(limiter.admit("a", n)) > 0 for n in (0, 60, 60, 40, 0, 1)]

    assert waits == [False, False, True, False, True, True]


def test_a_window_that_would_never_end_begins_anew(store: RedisServer, limiter_at: Make) -> None:
    """As after Redis' clock was set back, or by somebody's PERSIST."""
    limiter = limiter_at(store, Rate(2, 60))
    for change in (["PEXPIRE", "key", "3600000"], ["PERSIST", "key"]):
        assert any(waited(limiter.admit("a")) > 0 for _ in range(3))
        (change[1],) = store.ask("KEYS", "tabserve:*")  # type: ignore[misc]
        store.ask(*change)
        assert waited(limiter.admit("a")) == 0.0


def test_nobodys_key_or_address_stands_in_the_store(store: RedisServer, limiter_at: Make) -> None:
    waited(limiter_at(store, Rate(2, 60)).admit("key:alice"))

    (name,) = store.ask("KEYS", "*")  # type: ignore[misc]
    assert name.startswith("tabserve:2/60:")
    assert "alice" not in name


def test_a_question_that_is_given_up_leaves_its_answer_to_nobody(
    own_store: RedisServer, limiter_at: Make
) -> None:
    limiter = limiter_at(own_store, Rate(20, 60))
    assert waited(limiter.admit("warm")) == 0.0
    own_store.pause()
    given_up = [limiter.admit("a", n) for n in (20, 20)]
    assert [found.cancel() for found in given_up if isinstance(found, Future)] == [True] * 2
    kept = [limiter.admit(client, 5) for client in "bcb"]
    own_store.go_on()

    assert [waited(found) for found in kept] == [0.0] * 3
    # Of those given up one was counted, or none where the store was held to be away.
    assert [waited(limiter.admit("c", 5)) for _ in range(2)] == [0.0] * 2


def test_an_answer_to_another_question_is_taken_for_none(
    store: RedisServer, limiter_at: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = redis_limits._COUNT.replace("{ARGV[1], ", "{ARGV[1] + 1, ")
    monkeypatch.setattr(redis_limits, "_COUNT", shifted)
    away = Away()
    limiter = limiter_at(store, Rate(20, 60), is_open=False, on_away=away)

    with pytest.raises(ModelNotReady):
        waited(limiter.admit("a"))
    assert away.told[0] is True


@pytest.mark.parametrize("error", [TimeoutError(), TypeError("nothing that it should say")])
def test_all_that_wait_are_told_at_once_that_it_is_away(
    store: RedisServer, limiter_at: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried, have_asked = list[int](), threading.Event()

    def fail(_: Any, questions: Sequence[Any]) -> None:
        tried.append(len(questions))
        have_asked.wait(PATIENCE_S)
        raise error

    monkeypatch.setattr(RedisLimiter, "_answers", fail)
    limiter = limiter_at(store, Rate(1, 60))
    asked = [limiter.admit("a") for _ in range(1000)]
    have_asked.set()

    assert [waited(found) for found in asked] == [0.0] * 1000
    assert len(tried) == 1


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_while_it_is_away_an_open_limit_admits_all_and_then_counts_again(
    own_store: RedisServer, limiter_at: Make, how: str
) -> None:
    away = Away()
    limiter = limiter_at(own_store, Rate(1, 3600), on_away=away)
    assert [waited(limiter.admit("a")) > 0 for _ in range(2)] == [False, True]

    getattr(own_store, how)()
    assert waited(limiter.admit("a")) == 0.0
    assert [limiter.admit("a") for _ in range(3)] == [0.0] * 3  # at once
    assert away.told == [True]
    own_store.start() if how == "kill" else own_store.go_on()

    poll("it is back", lambda: away.told == [True, False], patience_s=5)
    assert [waited(limiter.admit("b")) > 0 for _ in range(2)] == [False, True]


def test_while_it_is_away_a_closed_limit_refuses_all(
    own_store: RedisServer, limiter_at: Make
) -> None:
    own_store.kill()
    limiter = limiter_at(own_store, Rate(1, 60), is_open=False)

    for _ in range(3):
        with pytest.raises(ModelNotReady, match="cannot be counted at the moment"):
            waited(limiter.admit("a"))


def test_a_store_that_nobody_asks_is_known_to_be_away(
    own_store: RedisServer, limiter_at: Make
) -> None:
    away = Away()
    limiter_at(own_store, Rate(1, 60), on_away=away)
    own_store.kill()

    poll("it is told", lambda: away.told == [True])


class Forgetful(socketserver.BaseRequestHandler):
    """Takes what is asked, and is gone before it answers."""

    asked: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        while command := self.request.recv(65536):
            if b"EVAL" in command:
                self.asked.append(command)
                return
            answer = b"%1\r\n+proto\r\n:3\r\n" if b"HELLO" in command else b"+OK\r\n"
            self.request.sendall(answer * command.count(b"*"))


def test_what_may_have_been_counted_is_not_counted_again() -> None:
    away = Away()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forgetful) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        url = "redis://{}:{}".format(*server.server_address[:2])
        limiter = RedisLimiter(Rate(9, 60), url, is_open=True, on_away=away)

        assert waited(limiter.admit("a")) == 0.0
        assert away.told[0]
        limiter.close()
        server.shutdown()
        serving.join()

    assert len(Forgetful.asked) == 1


@pytest.mark.parametrize("end", ["host:none", "host:1/0?db=x", "host:1/0?socket_timeout=x"])
def test_an_address_that_is_none_is_refused_and_not_repeated(end: str) -> None:
    with pytest.raises(InvalidSettings, match=r"got one that cannot be read\.$") as refused:
        RedisLimiter(Rate(1, 60), f"redis://:secret@{end}", is_open=True, on_away=Away())

    assert "secret" not in str(refused.value)


def test_a_server_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "tabserve.redis_limits")

    with pytest.raises(MissingExtra, match=r'redis is not .* pip install "tabserve\[redis\]"'):
        importlib.import_module("tabserve.redis_limits")


# --- A service.


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def serve(repository: Path, framework: str) -> Iterator[Callable[..., Client]]:
    made: list[Service] = []

    def make(**told: Any) -> Client:
        made.append(Service(repository, settings=settings(**told)))
        made[-1].wait(PATIENCE_S)
        return client_of(made[-1], framework)

    yield make
    for service in made:
        service.close()


def batch(n_rows: int) -> bytes:
    return b"[" + b",".join([BODY] * n_rows) + b"]"


@pytest.mark.parametrize("is_shared", [False, True], ids=["memory", "redis"])
def test_rows_are_counted_where_that_is_said(
    serve: Any, store: RedisServer, is_shared: bool
) -> None:
    told = {"rate_limit_store": store.url} if is_shared else {}
    client = serve(rate_limit="100/hour", rate_limit_counts="rows", **told)

    def statuses(*sizes: int) -> list[int]:
        return [client("POST", "/predict/batch", batch(size)).status for size in sizes]

    assert statuses(60, 60, 39) == [200, 429, 200]
    assert client("POST", "/predict/batch", b"[]").status == 422
    report = client("POST", "/predict/batch?on_error=report", b"[{},{}]")
    assert error(report) == (429, "rate_limited")
    assert report.json()["detail"] == "The limit is 100 rows in 3600 s."
    assert [client.predict().status for _ in range(2)] == [200, 429]
    assert statuses(1) == [429]


def test_each_request_gets_its_own_answer_though_others_are_given_up(
    repository: Path, store: RedisServer
) -> None:
    """Odd ones were asked before, and so are past the limit; those that are given up are even."""
    told = settings(rate_limit="1/hour", rate_limit_store=store.url)
    service = Service(repository, settings=told)
    service.wait(PATIENCE_S)
    core, answers = service.dispatcher(), dict[int, Response]()

    async def ask(numbers: list[int], given_up: set[int]) -> None:
        turn = Turn(asyncio.get_running_loop())
        done = asyncio.Event()

        def answered(number: int, response: Response) -> None:
            answers[number] = response
            if len(answers) == len(numbers):
                done.set()

        for number in numbers:
            request = Request("POST", "/predict", {"x-request-id": str(number)}, BODY, f"{number}")
            exchange = turn.begin(core, request, partial(answered, number))
            turn.take()
            if number in given_up:
                exchange.leave()
        await asyncio.wait_for(done.wait(), PATIENCE_S)

    asyncio.run(ask(list(range(1, 200, 2)), set()))
    assert {response.status for response in answers.values()} == {200}
    answers.clear()
    asyncio.run(ask(list(range(200)), set(range(0, 200, 4))))
    service.close()

    assert all(int(answers[i].headers["X-Request-ID"]) == i for i in range(200))
    expected = {0: 499, 1: 429, 2: 200, 3: 429}
    assert {i: answers[i].status for i in range(200)} == {i: expected[i % 4] for i in range(200)}


def test_a_batch_that_the_limit_never_takes_is_too_large(serve: Any, store: RedisServer) -> None:
    client = serve(rate_limit="5/hour", rate_limit_counts="rows", rate_limit_store=store.url)

    assert error(client("POST", "/predict/batch", batch(6))) == (413, "too_large")
    assert client("POST", "/predict/batch", batch(5)).status == 200


def test_two_services_count_together_and_say_so_as_one_does(serve: Any, store: RedisServer) -> None:
    clients = [serve(rate_limit="3/hour", rate_limit_store=store.url) for _ in range(2)]

    answers = [client.predict() for client in [*clients, *clients]]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert 3590 <= int(answers[3].headers["retry-after"]) <= 3600
    assert orjson.loads(answers[3].body)["detail"] == "The limit is 3 requests in 3600 s."
    assert clients[0]("POST", "/predict", b"[" * 9).status == 429  # it is not read


def test_what_is_too_large_or_of_another_type_is_refused_as_without_a_store(
    serve: Any, store: RedisServer
) -> None:
    client = serve(rate_limit="9/hour", rate_limit_store=store.url, max_body=100)

    assert error(client("POST", "/predict", b"1" * 101)) == (413, "too_large")
    assert error(client.predict({"Content-Type": "text/plain"})) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("fallback", "status"), [("open", 200), ("closed", 503)])
def test_a_gauge_says_that_the_store_is_away(
    serve: Any, own_store: RedisServer, fallback: str, status: int
) -> None:
    client = serve(
        rate_limit="1/hour", rate_limit_store=own_store.url, rate_limit_fallback=fallback
    )

    def is_away() -> bool:
        return b"tabserve_rate_limit_store_away 1.0" in client.get("/metrics").body

    assert client.predict().status == 200
    assert not is_away()
    own_store.kill()
    assert [client.predict().status for _ in range(3)] == [status] * 3
    assert is_away()
    own_store.start()
    poll("it is back", lambda: not is_away(), patience_s=5)
    assert [client.predict().status for _ in range(2)] == [200, 429]
