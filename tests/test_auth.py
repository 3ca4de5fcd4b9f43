import json
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tabserve.auth import (
    Keys,
    add_key,
    duration,
    moment,
    read_keys,
    refuse_key_in,
    revoke_key,
    rotate_key,
)
from tabserve.errors import (
    BadRequest,
    Forbidden,
    InvalidSettings,
    ModelNotReady,
    Unauthorized,
    UnknownKey,
)

PATIENCE_S = 60
# SHA-256 of "secret" and "other", as sha256sum prints them.
SECRET = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
OTHER = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_tells_whose_it_is(path: Path) -> None:
    ada, bob = add_key(path, "ada"), add_key(path, "bob")
    keys = Keys(str(path))

    assert (keys.holder(ada), keys.holder(bob)) == ("ada", "bob")


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_not_the_same_as_a_wrong_one(path: Path, key: str | None) -> None:
    add_key(path, "ada")

    with pytest.raises(Unauthorized, match="X-API-Key"):
        Keys(str(path)).holder(key)


@pytest.mark.parametrize("change", [str.upper, lambda k: k[:-1], lambda k: k + " ", lambda k: "é"])
def test_a_key_that_is_not_just_the_one_given_is_refused(path: Path, change: Any) -> None:
    key = add_key(path, "ada")

    with pytest.raises(Forbidden):
        Keys(str(path)).holder(change(key))


def test_a_hash_is_no_key(path: Path) -> None:
    add_key(path, "ada")

    with pytest.raises(Forbidden):
        Keys(str(path)).holder(read_keys(path)[0].hash)


def test_a_revoked_key_is_refused_within_a_second_and_the_others_are_not(path: Path) -> None:
    ada, bob = add_key(path, "ada"), add_key(path, "bob")
    keys = Keys(str(path), passing(0.9))
    keys.holder(ada)

    revoke_key(path, "ada")

    with pytest.raises(Forbidden):
        keys.holder(ada)
    assert keys.holder(bob) == "bob"


def passing(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is looked at."""
    return count(step=seconds).__next__


def test_a_key_is_taken_until_it_expires(path: Path) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    key = add_key(path, "ada", expires=end)

    assert Keys(str(path)).holder(key) == "ada"
    with pytest.raises(Forbidden, match="has expired"):
        Keys(str(path), clock=end.timestamp).holder(key)


@pytest.mark.parametrize("name", ["a\nb", "a\n", "\x1b[2K", "a\u2028b", "a:b"])
def test_a_file_with_a_name_that_could_forge_a_line_is_refused(path: Path, name: str) -> None:
    path.write_text(json.dumps({"keys": [{"name": name, "hash": SECRET}]}))

    with pytest.raises(InvalidSettings, match="is no file of keys"):
        Keys(str(path))


def test_the_name_of_an_expired_key_may_be_given_again(path: Path) -> None:
    add_key(path, "ada", expires=datetime.now(UTC) - timedelta(seconds=1))

    key = add_key(path, "ada")

    assert Keys(str(path)).holder(key) == "ada"
    assert len(read_keys(path)) == 1


def test_two_keys_of_a_name_are_valid_until_the_overlap_is_over(path: Path) -> None:
    old = add_key(path, "ada", "metrics")
    new = rotate_key(path, "ada", timedelta(hours=2))
    now, later = Keys(str(path)), Keys(str(path), clock=lambda: time.time() + 7200)

    assert {now.holder(key, {"metrics"}) for key in (old, new)} == {"ada"}
    assert later.holder(new) == "ada"
    with pytest.raises(Forbidden, match="has expired"):
        later.holder(old)


def test_an_overlap_lengthens_no_keys_life(path: Path) -> None:
    end = datetime.now(UTC) + timedelta(minutes=5)
    add_key(path, "ada", expires=end)
    rotate_key(path, "ada", timedelta(days=1))

    assert [key.expires for key in read_keys(path)] == [end, None]


def test_what_has_no_valid_key_cannot_be_rotated(path: Path) -> None:
    add_key(path, "ada", expires=datetime.now(UTC) - timedelta(seconds=1))

    for name in ("ada", "bob"):
        with pytest.raises(InvalidSettings, match=f"no valid key named {name}"):
            rotate_key(path, name, timedelta(days=1))


def test_all_keys_of_a_name_are_revoked_or_the_older_ones(path: Path) -> None:
    add_key(path, "ada")
    second = rotate_key(path, "ada", timedelta(days=1))

    revoke_key(path, "ada", old=True)
    assert Keys(str(path)).holder(second) == "ada"
    with pytest.raises(InvalidSettings, match="no older key named ada"):
        revoke_key(path, "ada", old=True)
    rotate_key(path, "ada", timedelta(days=1))
    revoke_key(path, "ada")
    assert read_keys(path) == []


def test_an_overlap_without_end_is_refused(path: Path) -> None:
    add_key(path, "ada")

    with pytest.raises(InvalidSettings, match="an overlap of years at most, got 6999993 days"):
        rotate_key(path, "ada", duration("999999w"))


@pytest.mark.parametrize("text", ["", "5", "h", "-1d", "1y", "1.5h", "9999999d", "one day"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="Expected a time such as 30m"):
        duration(text)


@pytest.mark.parametrize("text", ["0d", "999999w", "2020-01-01", "tomorrow", "2030-02-30", ""])
def test_what_is_no_time_to_come_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings, match="Expected a time to come"):
        moment(text)


def test_a_time_to_come_is_told_from_now_or_as_a_date() -> None:
    assert duration("90m") == timedelta(minutes=90)
    assert abs(moment("2w") - datetime.now(UTC) - timedelta(weeks=2)) < timedelta(minutes=5)
    assert moment("2990-01-31") == datetime(2990, 1, 31, tzinfo=UTC)
    assert moment("2990-01-31T02:00+02:00") == datetime(2990, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "query",
    [
        "api_key=a", "X-API-Key=a", "on_error=report&apikey=a", "a;token=b", "access_token=",
        "KEY=1", f"q=ts_{'aA' * 21}", "api%5Fkey=a", f"%74s_{'aA' * 21}",
    ],
)  # fmt: skip
def test_a_key_in_an_address_is_refused_and_not_repeated(query: str) -> None:
    with pytest.raises(BadRequest, match="Expected the API key in the header") as refused:
        refuse_key_in(query)
    assert "ts_" not in str(refused.value)


@pytest.mark.parametrize("query", ["on_error=report", "monkey=1", "a=key", "", "&&", "%"])
def test_what_is_no_key_in_an_address_is_none(query: str) -> None:
    refuse_key_in(query)


def test_a_key_is_no_file_of_keys_and_is_not_repeated() -> None:
    with pytest.raises(InvalidSettings, match="got a key itself") as refused:
        Keys("ts_" + "aA" * 21)
    assert "aaa" not in str(refused.value)


def test_a_key_that_is_added_later_is_known_at_once(path: Path) -> None:
    add_key(path, "ada")
    keys = Keys(str(path))

    assert keys.holder(add_key(path, "bob")) == "bob"


def test_the_last_key_revoked_leaves_a_closed_door(path: Path) -> None:
    key = add_key(path, "ada")
    keys = Keys(str(path), passing(0.9))
    revoke_key(path, "ada")

    with pytest.raises(Forbidden):
        keys.holder(key)
    with pytest.raises(Unauthorized):
        keys.holder(None)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]", b'{"keys":[{"name":"a"}]}'])
def test_while_the_file_is_missing_or_garbled_nobody_gets_in(
    path: Path, content: bytes | None
) -> None:
    key = add_key(path, "ada")
    keys, good = Keys(str(path), passing(0.9)), path.read_bytes()
    keys.holder(key)
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    for _ in range(2):
        with pytest.raises(ModelNotReady, match="keys cannot be read at the moment"):
            keys.holder(key)
    path.write_bytes(good)
    assert keys.holder(key) == "ada"


@pytest.mark.parametrize("content", [None, b"{", b'{"keys":[{"name":"a","hash":"b"}]}'])
def test_a_server_does_not_start_without_the_keys_it_was_told_to_use(
    path: Path, content: bytes | None
) -> None:
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InvalidSettings, match="keys"):
        Keys(str(path))


def test_keys_may_be_given_as_names_and_hashes() -> None:
    keys = Keys(f"ada:{SECRET}, bob.b@example-1:{OTHER}")

    assert (keys.holder("secret"), keys.holder("other")) == ("ada", "bob.b@example-1")
    with pytest.raises(Forbidden):
        keys.holder(SECRET)


@pytest.mark.parametrize("source", [f"ada:{SECRET},", f"ada:{SECRET[1:]}", f":{SECRET}", SECRET])
def test_names_and_hashes_that_are_not_are_no_open_door(source: str) -> None:
    with pytest.raises(InvalidSettings):
        Keys(source)


def test_a_key_is_kept_as_its_hash_only_and_for_its_owner_only(path: Path) -> None:
    key = add_key(path, "ada")

    assert all(key.encode() not in file.read_bytes() for file in path.parent.iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [key.name for key in read_keys(path)] == ["ada"]


def test_keys_are_long_and_never_the_same(path: Path) -> None:
    made = {add_key(path, f"key{i}") for i in range(20)}

    assert len(made) == 20
    assert {(len(key), key[:3]) for key in made} == {(46, "ts_")}


def test_a_name_is_given_once(path: Path) -> None:
    key = add_key(path, "ada")

    with pytest.raises(
        InvalidSettings, match=r"has a key named ada already.*tabserve keys rotate ada"
    ):
        add_key(path, "ada")
    assert Keys(str(path)).holder(key) == "ada"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "-a", "a\n", "é", "x" * 65])
def test_a_name_is_plain(path: Path, name: str) -> None:
    with pytest.raises(InvalidSettings, match="Expected a name of letters"):
        add_key(path, name)
    assert not path.exists()


def test_to_revoke_a_key_that_is_not_there_is_an_error_and_changes_nothing(path: Path) -> None:
    add_key(path, "ada")
    before = path.read_bytes()

    with pytest.raises(InvalidSettings, match=f"{path} has no key named bob"):
        revoke_key(path, "bob")
    assert path.read_bytes() == before


def test_a_file_of_keys_stays_readable_for_who_could_read_it(path: Path) -> None:
    """Such as the server's group, where root revokes a key."""
    add_key(path, "ada")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()

    add_key(path, "bob")

    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip


def test_a_link_in_place_of_the_unfinished_file_is_not_written_through(
    path: Path, tmp_path: Path
) -> None:
    another = tmp_path / "another"
    another.write_text("of somebody else")
    path.with_name(path.name + ".new").symlink_to(another)

    add_key(path, "ada")

    assert another.read_text() == "of somebody else"
    assert not path.is_symlink()


def test_a_circle_of_links_is_replaced(path: Path) -> None:
    path.symlink_to(path)
    key = add_key(path, "ada")
    assert Keys(str(path)).holder(key) == "ada"


def test_a_key_is_revoked_by_a_link_too(path: Path, tmp_path: Path) -> None:
    key = add_key(path, "ada")
    link = tmp_path / "link.json"
    link.symlink_to(path)

    revoke_key(link, "ada")

    assert link.is_symlink()
    with pytest.raises(UnknownKey):
        Keys(str(path)).holder(key)


def test_a_file_that_is_not_of_keys_is_not_overwritten(path: Path) -> None:
    path.write_text('{"my": "settings"}')

    with pytest.raises(InvalidSettings, match="is no file of keys"):
        add_key(path, "ada")
    assert json.loads(path.read_text()) == {"my": "settings"}


@pytest.mark.parametrize("end", [",", ",b", f",b:{OTHER[:-1]}", f",b:{OTHER}:root"])
def test_keys_that_are_not_all_such_are_no_file_and_not_repeated(end: str) -> None:
    with pytest.raises(InvalidSettings, match="separated by commas, got other text") as refused:
        Keys(f"a:{SECRET}{end}")

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "command", [read_keys, partial(add_key, name="x"), partial(revoke_key, name="x")]
)
def test_keys_and_folders_are_no_files_of_keys_and_no_hash_is_repeated(
    command: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(InvalidSettings, match="got the folder"):
        command(tmp_path)
    with pytest.raises(InvalidSettings, match="got the folder \\."):
        command(Path())
    with pytest.raises(InvalidSettings, match="got the keys themselves") as refused:
        command(Path(f"ada:{'a' * 64}"))
    assert "aaa" not in str(refused.value)


def test_keys_cannot_be_written_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="No such file or directory"):
        add_key(tmp_path / "nowhere" / "keys.json", "ada")


def _add(path: Path, names: list[str], begin: Any) -> None:
    begin.wait(PATIENCE_S)
    for name in names:
        add_key(path, name)


def test_keys_that_are_added_at_the_same_time_are_all_kept(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin = spawn.Barrier(2)
    names = [[f"{letter}{i}" for i in range(20)] for letter in "ab"]
    processes = [spawn.Process(target=_add, args=(path, part, begin)) for part in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)

    assert sorted(key.name for key in read_keys(path)) == sorted([*names[0], *names[1]])
