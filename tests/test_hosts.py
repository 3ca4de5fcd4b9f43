"""The Host header, right and wrong."""

import pytest

from tabserve.errors import BadRequest, Misdirected
from tabserve.hosts import Hosts

NAMED = ["api.example.org", "*.example.com", "10.0.0.7", "[::1]"]


@pytest.mark.parametrize(
    "host", ["localhost", "a_b:8000", "EXAMPLE.org", "127.0.0.1:80", "[::1]:8000", "x:"]
)
def test_any_host_will_do_where_none_is_named(host: str) -> None:
    Hosts().check(host, is_public=False)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "a,b",
        "a/b",
        "user@a",
        "a:b",
        "a:123456",
        "[::1",
        "::1",
        "[x]",
        "a" * 256,
        "a\x00",
    ],
)
def test_what_is_no_host_is_refused_everywhere(host: str) -> None:
    for hosts in (Hosts(), Hosts(NAMED)):
        with pytest.raises(BadRequest, match="Expected one Host header"):
            hosts.check(host, is_public=True)


@pytest.mark.parametrize(
    "host", ["API.example.org:443", "a.example.com", "a.b.example.com", "10.0.0.7:8000", "[::1]:80"]
)
def test_those_that_are_named_are_answered_and_remembered(host: str) -> None:
    hosts = Hosts(NAMED)
    hosts.check(host, is_public=False)
    assert hosts.usual == {host}


@pytest.mark.parametrize("host", ["example.org", "example.com", "xexample.com", "10.0.0.8"])
def test_others_are_misdirected_but_for_what_is_public(host: str) -> None:
    hosts = Hosts(NAMED)
    with pytest.raises(Misdirected):
        hosts.check(host, is_public=False)
    hosts.check(host, is_public=True)
    assert hosts.usual == set()


def test_no_client_can_fill_the_memory_with_names() -> None:
    hosts = Hosts()
    for i in range(3000):
        hosts.check(f"h{i}", is_public=False)
    assert len(hosts.usual) <= 1000
    hosts.check(None, is_public=False)


def test_a_probe_without_a_host_is_answered_where_one_to_an_address_is() -> None:
    Hosts(NAMED).check(None, is_public=True)
    with pytest.raises(BadRequest):
        Hosts(NAMED).check(None, is_public=False)
