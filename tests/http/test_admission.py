"""Who is let in, and how often: keys and limits on the way to a handler."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tabserve.auth import Keys, add_key
from tabserve.limits import RateLimiter
from tabserve.logs import RequestLog
from tabserve.settings import Rate
from tests.http.conftest import Drive, asked, dispatcher, fine, told


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_asked_for_before_anything_is_computed(drive: Drive, key_file: Path) -> None:
    key = add_key(key_file, "ada")
    core = dispatcher(fine, keys=Keys(str(key_file)))

    assert told(drive(core, asked()))[:2] == (401, "unauthorized")
    assert told(drive(core, asked(x_api_key="wrong")))[:2] == (403, "forbidden")
    assert drive(core, asked(x_api_key=key)).body == b'"fine"'


def test_an_open_route_asks_for_no_key_and_reads_none(drive: Drive, key_file: Path) -> None:
    add_key(key_file, "ada")
    core = dispatcher(fine, keys=Keys(str(key_file)))
    key_file.unlink()

    assert drive(core, asked(path="/open")).status == 200
    assert drive(core, asked(path="/open", x_api_key="wrong")).status == 200
    assert told(drive(core, asked(x_api_key="any")))[:2] == (503, "model_not_ready")


@pytest.fixture
def limiter() -> Iterator[RateLimiter]:
    made = RateLimiter(Rate(1, 60), clock=lambda: 0.0)
    yield made
    made.close()


def test_only_limited_routes_count(drive: Drive, limiter: RateLimiter) -> None:
    core = dispatcher(fine, fine, limiter=limiter)

    assert [drive(core, asked()).status for _ in range(5)] == [200] * 5
    assert [drive(core, asked("POST")).status for _ in range(2)] == [200, 429]
    assert drive(core, asked()).status == 200


def test_the_limit_is_per_address_where_there_are_no_keys(
    drive: Drive, limiter: RateLimiter
) -> None:
    core = dispatcher(fine, fine, limiter=limiter)
    neighbour = asked("POST")
    neighbour.client = "10.0.0.2"

    statuses = [drive(core, request).status for request in (asked("POST"), neighbour)]

    assert statuses == [200, 200]
    refused = drive(core, asked("POST"))
    assert told(refused) == (429, "rate_limited", "The limit is 1 requests in 60 s.")
    assert refused.headers["Retry-After"] == "60"


def test_the_limit_is_per_key_and_a_wrong_key_uses_nobodys(
    drive: Drive, limiter: RateLimiter, key_file: Path
) -> None:
    ada, bob = add_key(key_file, "ada"), add_key(key_file, "bob")
    core = dispatcher(fine, fine, limiter=limiter, keys=Keys(str(key_file)))

    statuses = [
        drive(core, asked("POST", x_api_key=key)).status for key in ("no", ada, ada, bob, "no")
    ]

    assert statuses == [403, 200, 429, 200, 403]


def test_wrong_keys_are_limited_per_address_and_hurt_nobody_who_has_a_right_one(
    drive: Drive, limiter: RateLimiter, key_file: Path
) -> None:
    key = add_key(key_file, "ada", "metrics")
    core = dispatcher(fine, keys=Keys(str(key_file)), key_tries=limiter)
    predict = replace(core.routes[0], path="/predict", roles=frozenset({"predict"}))
    core.serve([*core.routes, predict])

    wrong, again = (drive(core, asked(x_api_key="no")) for _ in range(2))

    assert (wrong.status, again.status, again.headers["Retry-After"]) == (403, 429, "60")
    assert told(again)[1:] == ("rate_limited", "Too many wrong API keys came from this address.")
    assert drive(core, asked(x_api_key=key)).status == 200
    assert drive(core, asked(path="/predict", x_api_key=key)).status == 403  # known, so no try
    assert drive(core, asked()).status == 401
    elsewhere = replace(asked(x_api_key="no"), client="10.0.0.2")
    assert drive(core, elsewhere).status == 403


def test_a_key_in_the_address_is_refused_whatever_is_asked(drive: Drive, key_file: Path) -> None:
    key = add_key(key_file, "ada")
    core = dispatcher(fine, keys=Keys(str(key_file)))

    for path in ("/it", "/open", "/no-such"):
        request = replace(asked(path=path, x_api_key=key), query=f"api_key={key}")
        response = drive(core, request)
        assert told(response)[:2] == (400, "bad_request")
        assert key not in response.body.decode()


def test_no_part_of_a_key_is_logged_where_a_path_is_cut(drive: Drive, tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path / "log"))
    key = "ts_" + "aB3-_" * 8 + "xyz"
    drive(dispatcher(fine, log=log), asked(path="/" + "x" * 170 + key))
    log.close()

    assert json.loads((tmp_path / "log").read_text())["path"] == "/" + "x" * 170 + "ts_***"
